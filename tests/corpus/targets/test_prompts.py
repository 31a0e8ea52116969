"""Prompts for a corpus over a scripted engine."""

import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from src.common.errors import UserError
from src.common.paths import REPO_ROOT, prompts_dir, raw_dir
from src.corpus.postprocess.order import check_order
from src.corpus.targets import prompt_stages, prompts
from src.corpus.targets.engine_pool import Placement
from src.corpus.targets.llm_settings import PromptSettings, ResponseSettings, work_dir
from src.corpus.targets.prompts import create_prompts, show_prompts
from src.corpus.targets.responses import generate_responses
from src.inference.types import Request, Result
from src.prompts.reasoning import THINKING
from src.prompts.texts import load_prompts
from tests.corpus.targets.fakes import FakeEngine, Killed, reader_and_listener

SETTINGS = PromptSettings(llm="org/tiny", prompts="mini", max_tokens=64)
STYLES = load_prompts("mini").writer_styles
ROWS = 12


def save_raw(name: str, descriptions: list[str | None], splits: tuple[str, ...] = ("train",)) -> None:
    table = Dataset.from_dict({"dataset_index": list(range(len(descriptions))), "audio_description": descriptions})
    DatasetDict(dict.fromkeys(splits, table)).save_to_disk(str(raw_dir(name)))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    save_raw("mini", [f"|sound {row} – 音|" for row in range(ROWS)])
    return tmp_path


def is_check(prompt: str) -> bool:
    return "mark every prompt" in prompt


def user_turn(prompt: str) -> str:
    return prompt.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def write_and_check(prompt: str, request: Request) -> str:
    """Three prompts about the described sound in the style asked for, the second of them a bad one."""
    about, _, rest = user_turn(prompt).removeprefix("<start_audio>").partition("<end_audio>\n\n")
    if is_check(prompt):
        verdicts = [f"{line.split('.')[0]}. {'bad' if 'wrong' in line else 'good'}" for line in rest.splitlines()]
        return "hm.\n</think>\n\n<answer>\n" + "\n".join(verdicts) + "\n</answer>"
    return f"hm.\n</think>\n\n<answer>1. A {about} {rest}\n2. wrong {about}\n3. C {about} {rest}</answer>"


def run(engine: FakeEngine, settings: PromptSettings = SETTINGS, **options) -> dict:
    return create_prompts(["mini"], settings, start_engine=lambda llm: engine, **options)


def rows_of(name: str = "mini", split: str = "train") -> list[dict]:
    return load_from_disk(str(prompts_dir(name)))[split].to_list()


def no_engine(llm: str) -> FakeEngine:
    raise AssertionError("an engine was started")


def test_every_row_gets_one_good_prompt_about_itself_by_one_engine() -> None:
    engine = FakeEngine(write_and_check)
    result = run(engine)["mini"]
    rows = rows_of()
    assert engine.closed and len(engine.seen) == 2 * ROWS
    assert [list(row) for row in rows] == [["dataset_index", "audio_description", "prompt"]] * ROWS
    assert [row["dataset_index"] for row in rows] == list(range(ROWS))
    for row in rows:
        assert re.fullmatch(rf"[AC] {re.escape(row['audio_description'])} (.+)", row["prompt"])[1] in STYLES
    assert {row["prompt"][0] for row in rows} == {"A", "C"}
    assert {row["prompt"].split("| ")[1] for row in rows} == set(STYLES)
    assert result == {
        "rows": ROWS, "unique": ROWS, "dropped": {}, "attempts": {"1": ROWS}, "requests": ROWS,
        "candidates": 3 * ROWS, "good": 2 * ROWS,
    }  # fmt: skip
    record = json.loads((prompts_dir("mini") / "run.json").read_text())
    assert record["config"]["seed"] == 0 and record["config"]["llm"] == "org/tiny" and record["result"] == result
    assert (prompts_dir("mini") / "dropped.jsonl").read_text() == ""


def test_the_seed_makes_the_result_and_the_order_does_not() -> None:
    first, other, third = (
        FakeEngine(write_and_check),
        FakeEngine(write_and_check, room=1),
        FakeEngine(write_and_check),
    )
    run(first)
    made = rows_of()
    run(other, overwrite=True)
    assert rows_of() == made
    assert {(r.key, r.seed) for _, r, _ in first.seen} == {(r.key, r.seed) for _, r, _ in other.seen}
    assert len({r.seed for _, r, _ in first.seen}) == 2 * ROWS
    assert all(sampling.max_tokens == 64 for _, _, sampling in first.seen)
    run(third, dataclasses.replace(SETTINGS, seed=1), overwrite=True)
    assert rows_of() != made


def test_the_writer_of_the_full_set_sees_descriptions_of_the_corpus() -> None:
    descriptions = [f"|noise {row}| " + "x" * 900 * (row == 3) for row in range(30)]
    save_raw("other", descriptions)
    engines = [FakeEngine(lambda prompt, request: "<answer>- q\n</answer>\n1. ok") for _ in range(2)]
    for engine, limit in zip(engines, (4, 2), strict=True):
        settings = dataclasses.replace(SETTINGS, prompts="full", examples=5, tries=1, limit=limit)
        with pytest.raises(UserError, match="no row got a prompt in other"):
            create_prompts(["other"], settings, start_engine=lambda llm, engine=engine: engine, overwrite=True)
    systems = {prompt.partition("<|im_start|>user")[0] for engine in engines for prompt, _, _ in engine.seen[:2]}
    assert len(systems) == 1
    shown = re.findall(r"^- \|noise \d+\|.*$", systems.pop(), flags=re.MULTILINE)
    assert len(shown) == len(set(shown)) == 5 and all(len(line) < 700 for line in shown)


def test_rows_alike_share_a_request_and_choose_for_themselves() -> None:
    save_raw("esc", ["|dog|"] * 200)
    engine = FakeEngine(write_and_check)
    result = create_prompts(["esc"], SETTINGS, start_engine=lambda llm: engine)["esc"]
    assert result["requests"] == len(STYLES) and len(engine.seen) == 2 * len(STYLES)
    assert result["rows"] == 200 and result["unique"] == 2 * len(STYLES)
    counts = [sum(row["prompt"].startswith(f"A |dog| {style}") for row in rows_of("esc")) for style in STYLES]
    assert all(count > 15 for count in counts)


@pytest.mark.parametrize("die_after", [0, 1, 7, 12, 17, 23])
def test_a_killed_run_goes_on_where_it_stopped(die_after: int) -> None:
    dying = FakeEngine(write_and_check, die_after=die_after)
    with pytest.raises(Killed):
        run(dying)
    assert dying.closed and not prompts_dir("mini").exists()
    engine = FakeEngine(write_and_check)
    run(engine)
    assert len(engine.seen) == 2 * ROWS - die_after
    interrupted = rows_of()
    run(FakeEngine(write_and_check), overwrite=True)
    assert rows_of() == interrupted


def test_a_process_that_is_killed_loses_nothing_that_was_finished(root: Path) -> None:
    code = (
        "import os, signal\n"
        "from tests.corpus.targets import test_prompts as t\n"
        "done = []\n"
        "def reply(prompt, request):\n"
        "    done.append(1)\n"
        "    if len(done) == 16: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return t.write_and_check(prompt, request)\n"
        "t.run(t.FakeEngine(reply))\n"
    )
    environment = {**os.environ, "ALARM_DATA_ROOT": str(root), "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = work_dir("mini") / "train" / "check-0" / "part-00000.jsonl"
    with journal.open("a") as file:
        file.write('{"dataset_index": 5, "in')  # what a kill in the middle of a line leaves
    engine = FakeEngine(write_and_check)
    result = run(engine)["mini"]
    assert len(engine.seen) == 2 * ROWS - 15 and result["rows"] == ROWS


def test_failing_rows_are_tried_again_alone_and_then_dropped_with_a_reason() -> None:
    failures = {"2": 1, "3": 9, "4": 9, "5": 9, "6": 1, "7": 9}

    def reply(prompt: str, request: Request) -> str | Result:
        key = request.key
        if failures.get(key, 0) == 0 or (is_check(prompt) != (key in ("5", "6"))):
            return write_and_check(prompt, request)
        failures[key] -= 1
        outputs = {
            "2": "no tags", "3": "<answer>1. cut", "4": Result(key, finish_reason="error", error="prompt too long"),
            "5": "<answer>1. bad\n2. bad\n3. bad</answer>", "6": "<answer>fine!</answer>",
            "7": "<answer>1. a <start_audio>?\n2. b </think></answer>",
        }  # fmt: skip
        return outputs[key]

    engine = FakeEngine(reply)
    result = run(engine)["mini"]
    assert result["rows"] == ROWS - 4 and result["attempts"] == {"1": ROWS - 6, "2": 2}
    assert result["dropped"] == {
        "check:none_good": 1, "write:all_marked": 1, "write:error": 1, "write:unclosed_answer": 1,
    }  # fmt: skip
    assert [row["dataset_index"] for row in rows_of()] == [0, 1, 2, 6, 8, 9, 10, 11]
    dropped = [json.loads(line) for line in (prompts_dir("mini") / "dropped.jsonl").read_text().splitlines()]
    assert dropped[0] == {"split": "train", "dataset_index": 3, "reason": "write:unclosed_answer"}
    assert [entry["dataset_index"] for entry in dropped] == [3, 4, 5, 7]
    # write: 12 + rows 2-7 + rows 3, 4, 5, 7; check: all but 2, 3, 4, 7, then 2, 5, 6, then 5
    assert len(engine.seen) == (12 + 6 + 4) + (8 + 3 + 1)
    assert check_order("mini", []) == []
    kept = json.loads((work_dir("mini") / "train/write-2/part-00000.jsonl").read_text().splitlines()[0])
    assert kept["raw"] or kept["error"]
    failures.clear()
    more = FakeEngine(reply)
    assert run(more, dataclasses.replace(SETTINGS, tries=4))["mini"]["rows"] == ROWS
    assert sorted(request.key for _, request, _ in more.seen) == ["3", "3", "4", "4", "5", "5", "7", "7"]


def test_good_prompts_survive_bad_neighbours_and_tags() -> None:
    def reply(prompt: str, request: Request) -> str:
        if is_check(prompt):
            return "<answer>1. is it there? good\n2. no: bad</answer>"
        return '<answer>```json\n["Qué se oye – 何?", "bad", "with </think>"]\n```</answer>'

    run(FakeEngine(reply))
    assert {row["prompt"] for row in rows_of()} == {"Qué se oye – 何?"}


def test_a_corpus_that_is_done_is_skipped_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(FakeEngine(write_and_check))
    before = (prompts_dir("mini") / "run.json").read_text()
    for settings in (SETTINGS, dataclasses.replace(SETTINGS, limit=5, max_num_seqs=2)):
        assert create_prompts(["mini"], settings, start_engine=no_engine) == {}
    assert "mini: skipped, its prompts are done" in caplog.text
    assert create_prompts(["mini"], dataclasses.replace(SETTINGS, seed=3), start_engine=no_engine) == {}
    assert "other settings (seed 0 -> 3); --overwrite" in caplog.text
    assert (prompts_dir("mini") / "run.json").read_text() == before
    (prompts_dir("mini") / "run.json").unlink()
    assert run(FakeEngine(write_and_check, die_after=0))["mini"]["rows"] == ROWS  # killed before the record
    save_raw("other", ["|a|"])
    columns = {"dataset_index": [0], "audio_description": ["|a|"], "prompt": ["x"]}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(prompts_dir("other")))
    assert create_prompts(["other"], SETTINGS, start_engine=no_engine) == {}
    assert f"prompts of other: {prompts_dir('other')} exists; skipped" in caplog.text


def test_prompts_of_another_program_that_are_not_complete_are_left_to_the_user() -> None:
    save_raw("other", ["|a|", "|b|"])
    columns = {"dataset_index": [0], "audio_description": ["|a|"], "prompt": ["x"]}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(prompts_dir("other")))
    before = {path: path.read_bytes() for path in prompts_dir("other").rglob("*.*")}
    with pytest.raises(UserError, match=r"lacks 1 of 2 rows, first dataset_index: 1.*--overwrite"):
        create_prompts(["other"], SETTINGS, start_engine=no_engine)
    assert {path: path.read_bytes() for path in prompts_dir("other").rglob("*.*")} == before
    limited = dataclasses.replace(SETTINGS, limit=1)
    assert create_prompts(["other"], limited, start_engine=no_engine) == {}
    made = create_prompts(["other"], SETTINGS, lambda llm: FakeEngine(write_and_check), overwrite=True)
    assert made["other"]["rows"] == 2


def test_a_trial_is_continued() -> None:
    run(FakeEngine(write_and_check), dataclasses.replace(SETTINGS, limit=5))
    trial = rows_of()
    assert len(trial) == 5
    engine = FakeEngine(write_and_check)
    run(engine)
    assert len(engine.seen) == 2 * (ROWS - 5) and rows_of()[:5] == trial and len(rows_of()) == ROWS


def test_other_settings_do_not_mix_with_unfinished_work() -> None:
    with pytest.raises(Killed):
        run(FakeEngine(write_and_check, die_after=5))
    other = dataclasses.replace(SETTINGS, temperature=0.1)
    with pytest.raises(UserError, match=r"temperature: was None, is 0.1.*--overwrite"):
        run(FakeEngine(write_and_check), other)
    assert run(FakeEngine(write_and_check), other, overwrite=True)["mini"]["rows"] == ROWS


def test_a_checker_of_its_own_runs_over_all_corpora_at_once() -> None:
    save_raw("other", ["|a|", "|b|"], splits=("train", "validation"))
    starts: list[tuple[str, FakeEngine]] = []

    def start(llm: str) -> FakeEngine:
        starts.append((llm, FakeEngine(write_and_check)))
        return starts[-1][1]

    settings = dataclasses.replace(SETTINGS, checker_llm="org/judge")
    summary = create_prompts(["mini", "other"], settings, start_engine=start)
    assert [name for name, _ in starts] == ["org/tiny", "org/judge"]
    assert [len(engine.seen) for _, engine in starts] == [ROWS + 4, ROWS + 4]
    assert all(not is_check(prompt) for prompt, _, _ in starts[0][1].seen)
    assert list(summary) == ["mini", "other"] and len(rows_of("other", "validation")) == 2


def test_rows_without_a_description_are_dropped() -> None:
    save_raw("holes", ["|a|", None, "  ", "|b|"])
    result = create_prompts(["holes"], SETTINGS, start_engine=lambda llm: FakeEngine(write_and_check))["holes"]
    assert result["rows"] == 2 and result["dropped"] == {"no_description": 2} and result["requests"] == 2


def test_a_corpus_in_which_nothing_passes_gets_no_set_and_leaves_the_others_alone() -> None:
    save_raw("other", ["|a|"])

    def reply(prompt: str, request: Request) -> str:
        return "sorry" if "|sound" in prompt else write_and_check(prompt, request)

    with pytest.raises(UserError, match=r"no row got a prompt in mini .*write:no_answer.*12"):
        create_prompts(["mini", "other"], SETTINGS, start_engine=lambda llm: FakeEngine(reply))
    assert not prompts_dir("mini").exists() and len(rows_of("other")) == 1
    assert len((work_dir("mini") / "dropped.jsonl").read_text().splitlines()) == ROWS


def test_requests_are_pulled_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], prompt_stages.writer_messages
    monkeypatch.setattr(prompt_stages, "writer_messages", lambda *a: (made.append(1), original(*a))[1])
    with pytest.raises(Killed):
        run(FakeEngine(write_and_check, room=2, die_after=3))
    assert len(made) <= 6


def test_a_run_killed_while_writing_the_set_writes_it_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prompts, "write_rows", killed)
        run(FakeEngine(write_and_check))
    engine = FakeEngine(write_and_check)
    assert run(engine)["mini"]["rows"] == ROWS and engine.seen == []


def test_responses_are_generated_from_the_prompts() -> None:
    run(FakeEngine(write_and_check))
    settings = ResponseSettings(llm="org/tiny", prompts="mini", max_tokens=64, rephrase=False)
    summary = generate_responses(
        ["mini"], settings, start_engine=lambda llm: FakeEngine(reader_and_listener), reasoning=THINKING
    )
    assert summary["mini_tiny_64"]["rows"] == ROWS


def test_mistakes_are_user_errors() -> None:
    with pytest.raises(UserError, match=r"no raw set of nope, never in"):
        create_prompts(["mini", "nope", "never"], SETTINGS, start_engine=no_engine)
    table = Dataset.from_dict({"dataset_index": [0], "question": ["x"]})
    DatasetDict({"train": table}).save_to_disk(str(raw_dir("spoken")))
    with pytest.raises(
        UserError, match="raw set spoken has no column audio_description; it has dataset_index, question"
    ):
        create_prompts(["spoken"], SETTINGS, start_engine=no_engine)
    with pytest.raises(UserError, match="tries is 0"):
        PromptSettings(tries=0)
    with pytest.raises(UserError, match="examples is -1"):
        PromptSettings(examples=-1)


def test_one_row_is_shown_and_nothing_is_stored(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown: list[str] = []
    engine = FakeEngine(write_and_check)
    show_prompts("mini", 3, SETTINGS, Placement(), shown.append, start_engine=lambda llm: engine)
    assert sorted(tmp_path.rglob("*")) == before and engine.closed and len(engine.seen) == 2
    text = "\n".join(shown)
    assert "=== write by org/tiny: system ===" in text and "=== check by org/tiny: user ===" in text
    whole = FakeEngine(write_and_check)
    run(whole)
    assert f"=== chosen prompt (ok) ===\n{rows_of()[3]['prompt']}" == shown[-1]
    with pytest.raises(UserError, match="raw set mini has no row 99"):
        show_prompts("mini", 99, SETTINGS, Placement(), shown.append, start_engine=lambda llm: engine)
