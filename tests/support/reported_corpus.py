"""A corpus before and after rephrasing, with failed rows and a checker's journal, as the stages leave it."""

from __future__ import annotations

import json
from typing import Any

from src.common.files import write_json
from src.common.naming import ResponseName
from src.common.paths import indexes_dir, indexes_filtered_dir, prompts_dir, raw_dir, responses_dir
from src.dataset.row_log import input_digest
from tests.support.tiny_corpus import RESPONSE_COLUMNS, make_rows, save_indexes, save_raw, save_responses, save_split

PLAIN = "esc50_Qwen3_512"
FINAL = "esc50_rephrased_1536_filtered_Qwen3_512"
COLUMNS = (*RESPONSE_COLUMNS, "status", "num_tokens", "finish_reason", "attempts")
COUNT = 20
CHECKED_BADLY = {2, 3}
"""Rows that the checker calls betraying in the first attempt; the rules see only row 2."""


def reader(index: int) -> str:
    """A reader's response; the answer betrays, too, in every fifth row."""
    answer = "The description mentions a dog." if index % 5 == 0 else f"A dog barks {index} times."
    return f"Okay.\nThe description says a dog <barks>. It is mentioned first.\n</think>\n\n{answer}"


def listener(index: int) -> str:
    """A listener's response; row 2 still betrays."""
    thoughts = "It is mentioned first." if index == 2 else "It comes first."
    return f"Okay.\nI hear a dog <barks>. {thoughts}\n</think>\n\nA dog barks {index} times."


def _response(row: dict[str, Any], text: str, **told: Any) -> dict[str, Any]:
    sound = {"status": "ok", "num_tokens": 40 * (row["dataset_index"] + 1), "finish_reason": "stop", "attempts": 1}
    return {**row, "llm_answer_with_context": text, **sound, **told}


def make_reported_corpus() -> list[dict[str, Any]]:
    """``esc50`` below ``ALARM_DATA_ROOT``: raw set, indexes, prompts, both response sets, filter and journal.

    Rows 0 to 19; tokens 40, 80, ... 800; rows 18 and 19 of the final set failed, row 17 is cut.
    """
    rows = make_rows(COUNT)
    for row in rows:
        row["prompt"] = (
            "What <is> it?" if row["dataset_index"] < 10 else f"What do you hear, number {row['dataset_index']}?"
        )
    save_raw(rows, "esc50")
    save_indexes(indexes_dir("esc50"), train=range(2, COUNT), validation=(0, 1))
    save_indexes(indexes_filtered_dir("esc50"), train=range(3, COUNT), validation=(0, 1))
    dropped = [{"split": "train", "dataset_index": 2, "reason": "unreadable: 2.wav: no audio"}]
    (indexes_filtered_dir("esc50") / "dropped.jsonl").write_text("".join(json.dumps(x) + "\n" for x in dropped))
    (raw_dir("esc50") / "dropped.jsonl").write_text('{"reason": "too short"}\nbroken\n')
    save_split(prompts_dir("esc50"), rows, ("dataset_index", "audio_description", "prompt"))
    plain = [_response(row, reader(row["dataset_index"])) for row in rows]
    final = [_response(row, listener(row["dataset_index"])) for row in rows]
    for key in CHECKED_BADLY:
        final[key]["attempts"] = 2
    final[17]["finish_reason"] = "length"
    final[18] |= {"status": "no_answer", "llm_answer_with_context": ""}
    final[19] |= {"status": "betrays"}
    save_responses(plain, PLAIN, COLUMNS)
    save_responses(final, FINAL, COLUMNS)
    write_json(responses_dir("Qwen3", FINAL) / "run.json", {"config": {"prompts": "full"}, "prompts_digest": "12ab"})
    target = indexes_filtered_dir("esc50") / ResponseName.parse(FINAL).model / FINAL
    counts = {"before": 17, "kept": 12, "dropped": {"too_long": 3, "no_answer": 2}}
    limits = {"tokens_min": 100, "tokens_max": 500}
    target.mkdir(parents=True)
    write_json(target / "filter.json", {"limits": limits, "splits": {"train": counts}})
    _journal("rephrase-0", [(key, listener(key), True) for key in range(COUNT)], text=True)
    _journal("check-0", [(0, "an older text", False)] + [(key, listener(key), key not in CHECKED_BADLY)
                                                         for key in range(COUNT)])  # fmt: skip
    return rows


def _journal(stage: str, records: list[tuple[int, str, bool]], text: bool = False) -> None:
    folder = responses_dir("Qwen3", FINAL) / "journal" / "train" / stage
    folder.mkdir(parents=True)
    lines = [
        {"dataset_index": key, "input": input_digest(made_from), "ok": ok, **({"text": made_from} if text else {})}
        for key, made_from, ok in records
    ]
    (folder / "part-00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"dataset_ind')
