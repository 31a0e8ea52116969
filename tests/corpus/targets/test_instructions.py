"""Answers to spoken questions, with and without their context."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import raw_dir, responses_dir
from src.corpus.targets.instructions import choose_sets, filter_responses, generate_instruction_responses
from src.corpus.targets.llm_settings import AnswerSettings
from src.dataset.corpus_names import expand_mixture
from src.dataset.response_rows import ResponseRows
from src.inference.types import Request, Result
from tests.corpus.targets.fakes import FakeEngine, Killed
from tests.support.tiny_instructions import make_questions, save_questions

pytestmark = pytest.mark.usefixtures("data_root")
SETTINGS = AnswerSettings(llm="org/tiny", max_tokens=64)
HEY, HEY_FILTERED, S2S = "heysquad_human_tiny_64", "heysquad_human_filtered_tiny_64", "instructs2s_tiny_64"


@pytest.fixture(autouse=True)
def sets(data_root: Path) -> None:
    save_questions("heysquad_human", {"train": make_questions(7), "validation": make_questions(4, 100)})
    save_questions("instructs2s", {"train": make_questions(5, 200)})


def echo(prompt: str, request: Request) -> str:
    """Says what it was asked, and with which seed."""
    user = prompt.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    return f"{request.seed}\n</think>\n\n[{user}]"


def run(names: list[str], engine: FakeEngine, **options: Any) -> dict[str, Any]:
    settings = options.pop("settings", SETTINGS)
    return generate_instruction_responses(names, settings, start_engine=lambda llm: engine, **options)


def rows_of(name: str, split: str = "train") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_from_disk(str(responses_dir("tiny", name)))[split].to_list()
    return rows


def asked(row: dict[str, Any], column: str) -> str:
    return str(row[column]).partition("[")[2].removesuffix("]")


def test_published_names_columns_and_questions() -> None:
    engine = FakeEngine(echo)
    summary = run(["heysquad_human", "instructs2s"], engine)
    assert list(summary) == [HEY, S2S]
    rows = rows_of(HEY)
    published = ["dataset_index", "question", "context", "llm_answer_with_context", "llm_answer_no_context"]
    assert list(rows[0])[:5] == published and len(rows_of(HEY, "validation")) == 4
    assert asked(rows[1], published[3]) == "number 1 is called so.\nwhat is number 1 called?"
    assert asked(rows[0], published[3]) == asked(rows[0], published[4]) == "what is number 0 called?"
    assert asked(rows[1], published[4]) == "what is number 1 called?"
    assert {row["llm_answer_no_context"] for row in rows_of(S2S)} == {""}, "trained on with context only"
    assert len(engine.seen) == 2 * 11 + 5 and len({request.seed for _, request, _ in engine.seen}) == 27
    assert all("system" not in prompt for prompt, _, _ in engine.seen)
    assert {(each.max_tokens, each.max_thinking_tokens) for _, _, each in engine.seen} == {(64, -1)}
    assert summary[HEY]["rows"] == 11 and summary[HEY]["NoContext"]["ok"] == 11 and "NoContext" not in summary[S2S]


def test_training_finds_them(data_root: Path) -> None:
    shutil.copytree(raw_dir("heysquad_human"), raw_dir("heysquad_human_filtered"))
    run([], FakeEngine(echo))
    assert (responses_dir("tiny", HEY_FILTERED) / "run.json").is_file() and not responses_dir("tiny", HEY).exists()
    config = compose(
        "train",
        [
            "model=whisper_batch",
            "dataset=content_4b",
            "dataset.llm=tiny",
            "dataset.max_tokens=64",
            "training_args.output_dir=x",
        ],
    )["dataset"]
    chosen = expand_mixture(config)
    for part in (chosen["train"], *chosen["eval"].values()):
        for folder, mode, fraction, random in part["rows"]:
            found = ResponseRows(folder, mode, fraction, random, part["split"])
            row = found[1]
            assert row.audio is not None and row.target and row.audio_description.startswith("what is number")
            assert bool(row.context) == (mode == "WithContext")


@pytest.mark.parametrize("die_after", [0, 3, 9, 15, 21])
def test_a_killed_run_goes_on(die_after: int) -> None:
    with pytest.raises(Killed):
        run(["heysquad_human"], FakeEngine(echo, die_after=die_after))
    engine = FakeEngine(echo, room=2)
    run(["heysquad_human"], engine)
    assert len(engine.seen) == 22 - die_after
    interrupted = rows_of(HEY), rows_of(HEY, "validation")
    run(["heysquad_human"], FakeEngine(echo), overwrite=True)
    assert (rows_of(HEY), rows_of(HEY, "validation")) == interrupted
    run(["heysquad_human"], FakeEngine(echo, die_after=0))  # nothing is left to do


def test_filtered_before_or_afterwards_is_the_same() -> None:
    save_questions("heysquad_human_filtered", {"train": make_questions(7)[2:5], "validation": make_questions(4, 100)})
    summary = run(["heysquad_human"], FakeEngine(echo))
    assert summary[HEY_FILTERED] == {"rows": {"train": 3, "validation": 4}, "rows_of": HEY}
    afterwards = rows_of(HEY_FILTERED)
    assert [row["dataset_index"] for row in afterwards] == [2, 3, 4]
    shutil.rmtree(responses_dir("tiny", HEY_FILTERED))
    run(["heysquad_human_filtered"], FakeEngine(echo))
    assert rows_of(HEY_FILTERED) == afterwards
    assert ResponseRows(HEY_FILTERED, "NoContext")[0].key == "heysquad_human_filtered/2"
    again = run(["heysquad_human"], FakeEngine(echo))
    assert list(again) == [HEY], "answers of its own are left alone"


def test_answers_of_a_part_are_filtered_as_far_as_they_go() -> None:
    save_questions("heysquad_human_filtered", {"train": make_questions(7)[1:6], "validation": make_questions(4, 100)})
    limited = dataclasses.replace(SETTINGS, limit=3)
    assert run(["heysquad_human"], FakeEngine(echo), settings=limited)[HEY_FILTERED]["rows"] == {
        "train": 2,
        "validation": 3,
    }
    folder = responses_dir("tiny", HEY)
    assert filter_responses(folder, responses_dir("tiny", HEY_FILTERED), "heysquad_human_filtered")["rows_of"] == HEY


def test_failed_answers_are_tried_again_and_left_out_of_training() -> None:
    def reply(prompt: str, request: Request) -> str | Result:
        if "number 2 " in prompt and "is called so" in prompt:
            return " "
        if "number 3 " in prompt:
            return Result(request.key, finish_reason="error", error="prompt too long")
        return echo(prompt, request)

    engine = FakeEngine(reply)
    summary = run(["heysquad_human"], engine, settings=dataclasses.replace(SETTINGS, tries=2))
    assert summary[HEY]["WithContext"]["failed"] == {"empty": 1, "error": 1}
    assert summary[HEY]["NoContext"]["failed"] == {"error": 1} and len(engine.seen) == 22 + 3
    assert ResponseRows(HEY, "WithContext").keys.tolist() == [0, 1, 4, 5, 6]
    assert ResponseRows(HEY, "NoContext").keys.tolist() == [0, 1, 2, 4, 5, 6]
    run(["instructs2s"], FakeEngine(echo))
    with pytest.raises(UserError, match="no row of split 'train' has a response for NoContext"):
        ResponseRows(S2S, "NoContext")


def test_modes_can_be_chosen_and_added_later() -> None:
    run(["heysquad_human"], FakeEngine(echo), modes=["NoContext"])
    assert {row["status"] for row in rows_of(HEY)} == {"not_made"}
    engine = FakeEngine(echo)
    run(["heysquad_human"], engine)
    assert len(engine.seen) == 11 and {row["status"] for row in rows_of(HEY)} == {"ok"}
    record = json.loads((responses_dir("tiny", HEY) / "run.json").read_text())
    assert record["config"]["modes"] == ["WithContext", "NoContext"]


def test_mistakes(data_root: Path) -> None:
    from tests.support.tiny_corpus import make_rows, save_raw

    save_raw(make_rows(2), "esc50")
    with pytest.raises(UserError, match="no column question and context.*generate_responses.py"):
        run(["esc50"], FakeEngine(echo))
    with pytest.raises(UserError, match="no folder .*nope"):
        run(["nope"], FakeEngine(echo))
    run(["instructs2s"], FakeEngine(echo))
    with pytest.raises(UserError, match=r"seed: was 0, is 1.*--overwrite"):
        run(["instructs2s"], FakeEngine(echo), settings=dataclasses.replace(SETTINGS, seed=1))
    shutil.rmtree(raw_dir("instructs2s"))
    assert choose_sets([]) == ["heysquad_human"]
    shutil.rmtree(raw_dir("heysquad_human"))
    with pytest.raises(UserError, match="no instruction set is collected"):
        choose_sets([])


def test_answers_of_another_program_are_skipped_or_left_to_the_user() -> None:
    run(["heysquad_human"], FakeEngine(echo))
    folder = responses_dir("tiny", HEY)
    shutil.rmtree(folder / "journal")
    (folder / "run.json").unlink()

    def no_engine(llm: str) -> FakeEngine:
        raise AssertionError("an engine was started")

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert generate_instruction_responses(["heysquad_human"], SETTINGS, start_engine=no_engine) == {}
    table = load_from_disk(str(folder))
    table.map(lambda row: {"llm_answer_no_context": ""}).save_to_disk(str(folder.with_name("new")))
    shutil.rmtree(folder)
    folder.with_name("new").rename(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"split train has no answers NoContext.*--overwrite"):
        generate_instruction_responses(["heysquad_human"], SETTINGS, start_engine=no_engine)
    only = ["WithContext"]
    assert generate_instruction_responses(["heysquad_human"], SETTINGS, only, start_engine=no_engine) == {}
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_filtered_answers_of_another_program_stay(tmp_path: Path) -> None:
    save_questions("heysquad_human_filtered", {"train": make_questions(7)[1:6], "validation": make_questions(4, 100)})
    run(["heysquad_human"], FakeEngine(echo))
    target = responses_dir("tiny", HEY_FILTERED)
    (target / "run.json").unlink()
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert list(run(["heysquad_human"], FakeEngine(echo))) == [HEY]
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
