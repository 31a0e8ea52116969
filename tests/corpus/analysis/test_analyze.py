"""Numbers of corpora: all there is, parts that are missing, and names that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.common.paths import prompts_dir, raw_dir
from src.corpus.analysis import histogram
from src.corpus.analysis.analyze import AnalysisSettings, analyze_corpora, without_audio
from src.corpus.analysis.response_sets import TextLeak
from src.prompts.texts import load_prompts
from tests.support.reported_corpus import COUNT, FINAL, PLAIN, make_reported_corpus
from tests.support.tiny_corpus import make_rows, save_raw, save_responses, save_split


def one(**settings: Any) -> dict[str, Any]:
    """Findings of ``esc50``."""
    found: dict[str, Any] = analyze_corpora(["esc50"], AnalysisSettings(**settings))["corpora"][0]
    return found


def test_everything_is_counted(data_root: Path) -> None:
    rows = make_reported_corpus()
    found = one()
    assert (found["title"], found["group"]) == ("ESC-50", "environment")
    raw = found["raw"]
    assert raw["rows"] == COUNT and raw["hours"] == pytest.approx(
        sum(row["duration"] for row in rows) / 3600, abs=1e-4
    )
    sizes = [{split: part["rows"] for split, part in level["splits"].items()} for level in raw["levels"]]
    assert sizes == [{"train": 20}, {"train": 18, "validation": 2}, {"train": 17, "validation": 2}]
    assert raw["left_out"] == {
        "collecting": {"too short": 1, "(line cannot be read)": 1}, "audio filter": {"unreadable": 1},
    }  # fmt: skip
    assert raw["descriptions"]["characters"]["max"] == max(len(row["audio_description"]) for row in rows)
    assert (found["prompts"]["distinct"], found["prompts"]["repeated"][0]["count"]) == (11, 10)
    plain, final = found["responses"]
    assert (plain["folder"], final["folder"], found["pair"]) == (PLAIN, FINAL, [PLAIN, FINAL])
    assert final["status"] == {"ok": 18, "no_answer": 1, "betrays": 1} and final["attempts"] == {"1": 18, "2": 2}
    assert final["finish_reason"] == {"stop": 19, "length": 1} and final["lengths"]["n"] == 18
    assert [(window["low"], window["high"], window["inside"]) for window in final["windows"]] == [
        (100, 612, 13), (100, 500, 10),
    ]  # fmt: skip
    assert [window["inside"] for window in plain["windows"]] == [13] and final["filter"]["train"]["kept"] == 12


def test_betraying_parts_before_and_after(data_root: Path) -> None:
    make_reported_corpus()
    found = one()
    plain, final = (numbers["rates"] for numbers in found["responses"])
    assert plain["thoughts"] == {"n": 20, "betraying": 20} and plain["answer"] == {"n": 20, "betraying": 4}
    assert final["thoughts"] == {"n": 18, "betraying": 1} and final["response"] == {"n": 18, "betraying": 1}
    assert final["answer"] == {"n": 18, "betraying": 0}
    after = found["examples"]["after"]
    assert [(pair["key"], pair["part"], pair["after"]) for pair in after] == [
        (2, "thoughts", "It is mentioned first.")
    ]
    assert "mentioned" in after[0]["before"]
    before = {pair["words"]: pair for pair in found["examples"]["before"]}
    assert any(pair["before"] == "The description says a dog <barks>." for pair in before.values())
    assert any(pair["after"] == "I hear a dog <barks>." for pair in before.values())


def test_a_row_is_one_example_of_a_phrase_in_both_of_its_parts() -> None:
    leak = TextLeak(load_prompts("full"), seed=0)
    for key in range(3):
        leak.add("The description says so.", "The description says so.", "train", key)
    for phrase in leak.result()["phrases"]:
        assert len(set(leak.examples(phrase["words"]))) == 2


def test_the_checkers_verdicts_stand_beside_the_rules(data_root: Path) -> None:
    make_reported_corpus()
    plain, final = one()["responses"]
    assert plain["checker"] == []
    assert final["checker"] == [
        {"attempt": 1, "checked": 20, "betraying": 2, "both": 1, "checker_only": 1, "rules_only": 0, "neither": 18}
    ]


def test_samples_are_drawn_by_the_seed_from_rows_that_all_sets_have(data_root: Path) -> None:
    rows = make_reported_corpus()
    keys = [[sample["key"] for sample in one(samples=5, seed=seed)["samples"]] for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 5
    sample = one(samples=5)["samples"][0]
    assert sample["audio"]["bytes"] == rows[sample["key"]]["audio"]["bytes"]
    assert [reply["folder"] for reply in sample["replies"]] == [PLAIN, FINAL]
    assert sample["prompt"] == rows[sample["key"]]["prompt"]
    findings = analyze_corpora(["esc50"], AnalysisSettings(samples=2))
    assert all("audio" not in each for each in without_audio(findings)["corpora"][0]["samples"])


def test_small_batches_and_limits(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reported_corpus()
    whole = one()
    monkeypatch.setattr(histogram, "BATCH", 3)
    assert one() == whole
    monkeypatch.setattr(histogram, "_BLOCK", 2)
    part = one(limit=6)
    assert part["prompts"]["rows"] == part["responses"][0]["texts_read"] == 6
    assert part["raw"] | {"descriptions": None} == whole["raw"] | {"descriptions": None}
    assert part["responses"][1]["status"] == whole["responses"][1]["status"]
    assert part["prompts"]["repeated"] == [{"text": "What <is> it?", "count": 4}]


def test_what_is_missing_is_none(data_root: Path) -> None:
    save_raw(make_rows(4), "esc50")
    found = one()
    assert found["prompts"] is None and found["responses"] == [] and found["pair"] is None
    assert found["examples"] is None and len(found["samples"]) == 4 and found["samples"][0]["replies"] == []
    save_split(prompts_dir("esc50"), make_rows(4), ("dataset_index", "prompt"))
    save_responses(make_rows(4), PLAIN)  # a published set: no statuses, no token counts
    (responses,) = one()["responses"]
    assert responses["status"] == {} and responses["unit"] == "words" and responses["windows"] == []
    assert responses["lengths"]["n"] == 4


def test_a_set_of_questions(data_root: Path) -> None:
    rows = [{**row, "question": f"who is {row['dataset_index']}?"} for row in make_rows(3)]
    save_split(raw_dir("heysquad_human"), rows, ("audio", "question", "dataset_index"))
    save_split(raw_dir("other_set"), rows, ("dataset_index", "duration"), "known")
    found = analyze_corpora(["heysquad_human", "other_set"], AnalysisSettings())["corpora"]
    assert found[0]["raw"]["hours"] is None and found[0]["raw"]["descriptions"]["column"] == "question"
    assert found[0]["prompts"]["source"] == "raw set" and found[0]["samples"][0]["prompt"] == "who is 0?"
    assert found[1]["group"] == "other" and found[1]["raw"]["descriptions"] is None and found[1]["prompts"] is None
    assert list(found[1]["raw"]["levels"][0]["splits"]) == ["known"] and found[1]["samples"][0]["audio"] is None


def test_names(data_root: Path) -> None:
    make_reported_corpus()
    save_raw(make_rows(2), "gtzan")
    chosen = analyze_corpora(["environment", "all", "esc50"], AnalysisSettings(samples=0))["corpora"]
    assert [corpus["name"] for corpus in chosen] == ["esc50", "gtzan"]
    one_set = analyze_corpora(["esc50"], AnalysisSettings(responses=(PLAIN,), samples=1))["corpora"][0]
    assert [numbers["folder"] for numbers in one_set["responses"]] == [PLAIN] and one_set["pair"] is None
    assert one(responses=(FINAL,))["pair"] == [PLAIN, FINAL]
    for names, settings, message in (
        (["esc5"], {}, "no raw set 'esc5'.*did you mean 'esc50'"),
        (["speech"], {}, "no corpus of 'speech' is collected"),
        (["esc50"], {"responses": ("gtzan_Qwen3_512",)}, "are of 'gtzan', which is not among esc50"),
        (["esc50"], {"responses": ("esc50_Qwen4_512",)}, f"no response set .*of esc50: {PLAIN}, {FINAL}"),
        (["esc50"], {"responses": ("esc50",)}, "is not a response folder name"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            analyze_corpora(names, AnalysisSettings(**settings))
    for wrong in ({"limit": 0}, {"samples": -1}):
        with pytest.raises(UserError, match="expected at least"):
            AnalysisSettings(**wrong)
