"""Self-generation and self-rephrasing over a scripted engine."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from src.common.errors import UserError
from src.common.paths import prompts_dir, responses_dir
from src.corpus.targets import response_stages, responses
from src.corpus.targets.engine_pool import Placement
from src.corpus.targets.llm_settings import ResponseSettings
from src.corpus.targets.response_stages import says_yes
from src.inference.types import Request, Result
from src.prompts.reasoning import THINKING
from src.prompts.texts import load_prompts
from tests.corpus.targets.fakes import (
    FakeEngine,
    Killed,
    is_rephrase,
    reader_and_listener,
    response_in,
    save_prompts,
)

SETTINGS = ResponseSettings(llm="org/tiny", prompts="mini", rephrase=True, max_tokens=64, max_thinking_tokens=16)
generate_responses = functools.partial(responses.generate_responses, reasoning=THINKING)
show_response = functools.partial(responses.show_response, reasoning=THINKING)
PLAIN, REPHRASED = "mini_tiny_64", "mini_rephrased_16_tiny_64"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    save_prompts("mini", 12)
    return tmp_path


def rows_of(name: str, split: str = "train") -> list[dict]:
    return load_from_disk(str(responses_dir("tiny", name)))[split].to_list()


def run(engine: FakeEngine, settings: ResponseSettings = SETTINGS, **options) -> dict:
    return generate_responses(["mini"], settings, start_engine=lambda llm: engine, **options)


def test_both_sets_come_from_one_engine_with_published_names_and_columns(root: Path) -> None:
    starts = []

    def start(llm: str) -> FakeEngine:
        starts.append(FakeEngine(reader_and_listener))
        return starts[-1]

    summary = generate_responses(["mini"], SETTINGS, start_engine=start)
    assert len(starts) == 1 and starts[0].closed
    assert list(summary) == [PLAIN, REPHRASED]
    plain, rephrased = rows_of(PLAIN), rows_of(REPHRASED)
    assert list(plain[0])[:5] == [
        "dataset_index",
        "audio_description",
        "prompt",
        "llm_answer_with_context",
        "llm_answer_no_context",
    ]
    assert [row["dataset_index"] for row in plain] == [row["dataset_index"] for row in rephrased] == list(range(12))
    assert plain[3]["llm_answer_with_context"].startswith("the description mentions 00:00-00:01] |sound 3|")
    assert rephrased[3]["llm_answer_with_context"] == plain[3]["llm_answer_with_context"].replace(
        "the description mentions", "i hear"
    )
    assert {row["llm_answer_no_context"] for row in plain + rephrased} == {""}
    assert rephrased[3]["num_tokens"] == len(rephrased[3]["llm_answer_with_context"])
    assert summary[PLAIN]["betraying_share"] == {"response": 1.0, "thoughts": 1.0, "answer": 0.0}
    assert summary[REPHRASED]["betraying_share"]["response"] == 0.0
    assert summary[REPHRASED]["filter"]["train"]["kept"] == 12
    record = json.loads((responses_dir("tiny", REPHRASED) / "run.json").read_text())
    assert record["config"]["llm"] == "org/tiny" and record["result"]["rows"] == 12


def test_sampling_and_seeds_of_the_two_stages(root: Path) -> None:
    engine = FakeEngine(reader_and_listener)
    run(engine)
    first = {item[1].key: item for item in engine.seen if not is_rephrase(item[0])}
    second = {item[1].key: item for item in engine.seen if is_rephrase(item[0])}
    assert first["1"][2].max_tokens == 64 and first["1"][2].max_thinking_tokens == -1
    assert second["1"][2].max_tokens == 4096 and second["1"][2].max_thinking_tokens == 16
    seeds = [item[1].seed for item in engine.seen]
    assert len(set(seeds)) == len(seeds) == 24
    again = FakeEngine(reader_and_listener, room=1)
    run(again, overwrite=True)
    assert {(r.key, r.seed) for _, r, _ in again.seen} == {(r.key, r.seed) for _, r, _ in engine.seen}


@pytest.mark.parametrize("die_after", [0, 1, 7, 12, 17, 23])
def test_a_killed_run_goes_on_where_it_stopped(root: Path, die_after: int) -> None:
    dying = FakeEngine(reader_and_listener, die_after=die_after)
    with pytest.raises(Killed):
        run(dying)
    assert dying.closed and not (responses_dir("tiny", REPHRASED) / "dataset_dict.json").exists()
    engine = FakeEngine(reader_and_listener)
    run(engine)
    assert len(engine.seen) == 24 - die_after
    interrupted = rows_of(PLAIN), rows_of(REPHRASED)
    run(FakeEngine(reader_and_listener), overwrite=True)
    assert (rows_of(PLAIN), rows_of(REPHRASED)) == interrupted


def test_a_finished_run_starts_no_engine_and_a_longer_one_does_the_rest(root: Path) -> None:
    limited = dataclasses.replace(SETTINGS, limit=5)
    run(FakeEngine(reader_and_listener), limited)
    assert len(rows_of(REPHRASED)) == 5

    def no_engine(llm: str) -> FakeEngine:
        raise AssertionError("an engine was started")

    before = (responses_dir("tiny", REPHRASED) / "run.json").read_text()
    summary = generate_responses(["mini"], limited, start_engine=no_engine)
    assert summary[REPHRASED]["rows"] == 5
    assert (responses_dir("tiny", REPHRASED) / "run.json").read_text() == before
    engine = FakeEngine(reader_and_listener)
    run(engine)
    assert len(engine.seen) == 14 and len(rows_of(REPHRASED)) == 12
    generate_responses(["mini"], limited, start_engine=no_engine)
    assert len(rows_of(REPHRASED)) == 5


def test_plain_responses_serve_a_later_rephrasing(root: Path) -> None:
    run(FakeEngine(reader_and_listener), dataclasses.replace(SETTINGS, rephrase=False))
    engine = FakeEngine(reader_and_listener)
    run(engine)
    assert len(engine.seen) == 12 and all(is_rephrase(prompt) for prompt, _, _ in engine.seen)


def test_rebuilt_inputs_are_noticed_row_by_row(root: Path) -> None:
    run(FakeEngine(reader_and_listener))
    table = load_from_disk(str(prompts_dir("mini")))
    changed = table.map(lambda row: {"prompt": "new?" if row["dataset_index"] == 4 else row["prompt"]})
    changed.save_to_disk(str(root / "new"))
    shutil.rmtree(prompts_dir("mini"))
    (root / "new").rename(prompts_dir("mini"))
    engine = FakeEngine(lambda prompt, request: reader_and_listener(prompt, request).replace("that.", "this."))
    run(engine)
    assert [request.key for _, request, _ in engine.seen] == ["4", "4"]
    assert rows_of(REPHRASED)[4]["prompt"] == "new?"
    assert rows_of(REPHRASED)[4]["llm_answer_with_context"].endswith("this.")


def test_a_run_killed_before_writing_the_sets_writes_them_next_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FakeEngine(reader_and_listener))
    table = load_from_disk(str(prompts_dir("mini"))).map(lambda row: {"prompt": row["prompt"] + "!"})
    table.save_to_disk(str(root / "new"))
    shutil.rmtree(prompts_dir("mini"))
    (root / "new").rename(prompts_dir("mini"))

    def killed(*arguments: object, **record: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(responses, "write_rows", killed)
        run(FakeEngine(reader_and_listener))
    engine = FakeEngine(reader_and_listener)
    run(engine)
    assert engine.seen == [] and rows_of(PLAIN)[0]["prompt"] == "what is number 0?!"


def test_other_settings_do_not_mix(root: Path) -> None:
    run(FakeEngine(reader_and_listener))
    other = dataclasses.replace(SETTINGS, temperature=0.1)
    with pytest.raises(UserError, match=r"temperature: was None, is 0.1"):
        run(FakeEngine(reader_and_listener), other)
    run(FakeEngine(reader_and_listener), other, overwrite=True)


def test_bad_rows_stay_with_a_status_and_leave_the_indexes(root: Path) -> None:
    def reply(prompt: str, request: Request) -> str | Result:
        text = reader_and_listener(prompt, request)
        if not is_rephrase(prompt):
            if request.key == "0":
                return " \n"
            if request.key == "1":
                return Result("1", finish_reason="error", error="prompt too long")
            if request.key == "2":
                return Result("2", text="the description mentions a cu", finish_reason="length")
            return text
        return {"3": "sorry", "4": "<answer></answer>", "5": "<answer>x"}.get(request.key, text)

    summary = run(FakeEngine(reply))
    rephrased = rows_of(REPHRASED)
    statuses = [row["status"] for row in rephrased]
    assert statuses[:7] == ["empty", "error", "ok", "no_answer", "empty", "unclosed_answer", "ok"]
    assert [row["llm_answer_with_context"] for row in rephrased[3:6]] == ["", "", ""]
    assert rephrased[2]["llm_answer_with_context"] == "i hear a cu" and rephrased[2]["finish_reason"] == "length"
    assert summary[PLAIN]["failed"] == {"empty": 1, "error": 1} and summary[PLAIN]["cut"] == 1
    assert summary[REPHRASED]["failed"] == {"empty": 2, "error": 1, "no_answer": 1, "unclosed_answer": 1}
    assert summary[REPHRASED]["filter"]["train"]["kept"] == 7
    assert summary[REPHRASED]["unfinished_thoughts"] == 1


def test_retries_of_unusable_rows_alone(root: Path) -> None:
    failures = {"3": 1, "4": 9}

    def reply(prompt: str, request: Request) -> str:
        if is_rephrase(prompt) and failures.get(request.key, 0) > 0:
            failures[request.key] -= 1
            return "no"
        return reader_and_listener(prompt, request)

    engine = FakeEngine(reply)
    summary = run(engine, dataclasses.replace(SETTINGS, tries=3))
    assert summary[REPHRASED]["failed"] == {"no_answer": 1}
    assert [row["attempts"] for row in rows_of(REPHRASED)][:6] == [1, 1, 1, 2, 3, 1]
    assert len(engine.seen) == 24 + 4 + 2


def test_a_checker_sends_betraying_rows_back(root: Path) -> None:
    class Llm:
        def __init__(self, name: str) -> None:
            self.name = name
            self.rewrites: dict[str, int] = {}

        def __call__(self, prompt: str, request: Request) -> str:
            if self.name == "judge":
                return f"let me see.\n</think>\n\nwell\n{'YES' if 'secret' in response_in(prompt) else 'NO'}"
            text = reader_and_listener(prompt, request)
            if is_rephrase(prompt):
                count = self.rewrites[request.key] = self.rewrites.get(request.key, 0) + 1
                if request.key == "7" or (request.key == "2" and count == 1):
                    text = text.replace("i hear", "the secret")
            return text

    llm, judge, starts = Llm("tiny"), Llm("judge"), []

    def start(name: str) -> FakeEngine:
        starts.append((name, FakeEngine(llm if name == "org/tiny" else judge)))
        return starts[-1][1]

    settings = dataclasses.replace(SETTINGS, checker_llm="org/judge")
    summary = generate_responses(["mini"], settings, start_engine=start)
    name = "mini_rephrased_16_filtered_tiny_64"
    assert list(summary) == [PLAIN, name]
    assert [who for who, _ in starts] == ["org/tiny", "org/judge"] * 3 and all(e.closed for _, e in starts)
    assert [len(engine.seen) for _, engine in starts] == [24, 12, 4, 2, 2, 1]
    rows = rows_of(name)
    assert summary[name]["failed"] == {"betrays": 1} and rows[7]["status"] == "betrays"
    assert (rows[2]["status"], rows[2]["attempts"], rows[7]["attempts"]) == ("ok", 2, 3)
    assert summary[name]["filter"]["train"] == {"before": 12, "kept": 11, "dropped": {"betrays": 1}}
    assert len(rows_of(PLAIN)) == 12


def test_requests_are_pulled_as_there_is_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = response_stages.self_generation_messages
    monkeypatch.setattr(
        response_stages, "self_generation_messages", lambda *a: (made.append(1), original(*a))[1], raising=True
    )
    with pytest.raises(Killed):
        run(FakeEngine(reader_and_listener, room=2, die_after=3))
    assert len(made) <= 6


def test_every_split_of_a_prompt_set_and_several_corpora(root: Path) -> None:
    save_prompts("other", 3, splits=("train", "validation"))
    summary = generate_responses(
        ["other", "mini"], SETTINGS, start_engine=lambda llm: FakeEngine(reader_and_listener)
    )
    assert list(summary) == ["other_tiny_64", "other_rephrased_16_tiny_64", PLAIN, REPHRASED]
    assert len(rows_of("other_tiny_64", "validation")) == 3


def test_groups_stand_for_their_corpora_with_prompts_and_wrong_names_are_told_at_once(root: Path) -> None:
    save_prompts("gtzan", 2)
    save_prompts("fma", 2)

    def start(llm: str) -> FakeEngine:
        return FakeEngine(reader_and_listener)

    plain = dataclasses.replace(SETTINGS, rephrase=False)
    assert list(generate_responses(["music", "fma"], plain, start_engine=start)) == ["gtzan_tiny_64", "fma_tiny_64"]
    with pytest.raises(UserError, match="no corpus of these groups has prompts"):
        generate_responses(["event"], plain, start_engine=start)
    with pytest.raises(UserError, match="nope_with_prompts"):
        generate_responses(["mini", "nope"], plain, start_engine=start)
    assert not responses_dir("tiny", PLAIN).exists()


def test_two_runs_of_one_set_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.lock.LOCK_SECONDS", 0.1)

    def start(llm: str) -> FakeEngine:
        with pytest.raises(UserError, match="another run is writing here"):
            run(FakeEngine(reader_and_listener), dataclasses.replace(SETTINGS, rephrase=False), overwrite=True)
        return FakeEngine(reader_and_listener)

    assert generate_responses(["mini"], SETTINGS, start_engine=start)[PLAIN]["rows"] == 12


@pytest.mark.parametrize(
    ("options", "plain", "final"),
    [
        ({}, "cameo_Qwen3-4B-Thinking-2507_512", "cameo_Qwen3-4B-Thinking-2507_512"),
        (
            {"rephrase": True},
            "cameo_Qwen3-4B-Thinking-2507_512",
            "cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512",
        ),
        (
            {"rephrase": True, "max_thinking_tokens": -1, "checker_llm": "x"},
            "cameo_Qwen3-4B-Thinking-2507_512",
            "cameo_rephrased_filtered_Qwen3-4B-Thinking-2507_512",
        ),
        ({"checker_llm": "x"}, "cameo_Qwen3-4B-Thinking-2507_512", "cameo_filtered_Qwen3-4B-Thinking-2507_512"),
    ],
)
def test_names(options: dict, plain: str, final: str) -> None:
    assert ResponseSettings(**{"rephrase": False, **options}).set_names("cameo") == (plain, final)


def test_the_checkers_worked_examples_end_as_they_should() -> None:
    text = load_prompts("full").checker_system
    examples = text.split("Worked examples")[1].split("<response>")[1:]
    assert len(examples) == 6
    assert [says_yes(example.strip().split("\n\n")[0]) for example in examples] == [True, False] * 3


@pytest.mark.parametrize(
    ("verdict", "yes"),
    [
        ("hm.\n</think>\n\nbecause.\nYES", True),
        ("it does. **YES**\n**Yes.**", True),
        ("It reads.\n\nANSWER: YES", True),
        ("**Answer: NO**", False),
        ("It says: YES it does", False),
        ("YES\nNO", False),
        ("YES, it does", False),
        ("", False),
        ("YES\n</think>\n\nNO", False),
    ],
)
def test_verdicts(verdict: str, yes: bool) -> None:
    assert says_yes(verdict) is yes


def test_missing_prompts_and_bad_settings_are_user_errors(root: Path) -> None:
    with pytest.raises(UserError, match="nope_with_prompts"):
        generate_responses(["nope"], SETTINGS)
    DatasetDict({"train": Dataset.from_dict({"dataset_index": [0]})}).save_to_disk(str(prompts_dir("bare")))
    with pytest.raises(UserError, match="no column audio_description and prompt"):
        generate_responses(["bare"], SETTINGS)
    with pytest.raises(UserError, match="max_tokens is 0"):
        ResponseSettings(max_tokens=0)
    with pytest.raises(UserError, match="checker prompt /nope"):
        generate_responses(["mini"], ResponseSettings(checker_llm="x", checker_prompt="/nope"))


def save_foreign(name: str, rows: int) -> dict[Path, bytes]:
    """A response set as the published program leaves it; the bytes of its files."""
    keys = list(range(rows))
    columns = {
        "dataset_index": keys,
        "audio_description": ["a"] * rows,
        "prompt": ["p"] * rows,
        "llm_answer_with_context": ["theirs"] * rows,
        "llm_answer_no_context": [""] * rows,
    }
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(responses_dir("tiny", name)))
    return bytes_of(name)


def bytes_of(name: str) -> dict[Path, bytes]:
    folder = responses_dir("tiny", name)
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_engine(llm: str) -> FakeEngine:
    raise AssertionError("an engine was started")


def test_complete_responses_of_another_program_are_skipped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="alarm")
    before = save_foreign(REPHRASED, 12)
    assert generate_responses(["mini"], SETTINGS, start_engine=no_engine) == {}
    assert f"responses {REPHRASED}: {responses_dir('tiny', REPHRASED)} exists; skipped (--overwrite" in caplog.text
    assert bytes_of(REPHRASED) == before and not responses_dir("tiny", PLAIN).exists()
    assert generate_responses(["mini"], dataclasses.replace(SETTINGS, limit=3), start_engine=no_engine) == {}
    run(FakeEngine(reader_and_listener), overwrite=True)
    assert rows_of(REPHRASED)[0]["llm_answer_with_context"] != "theirs"


def test_responses_of_another_program_that_are_not_complete_are_left_to_the_user() -> None:
    before = save_foreign(REPHRASED, 10)
    with pytest.raises(UserError, match=r"lacks 2 of 12 rows, first dataset_index: 10.*--overwrite .*--max-tokens"):
        generate_responses(["mini"], SETTINGS, start_engine=no_engine)
    (responses_dir("tiny", REPHRASED) / "run.json").write_text('{"config": {"source": "published responses"}}')
    with pytest.raises(UserError, match=r"lacks 2 of 12 rows"):  # joined by the merge: no work to go on with
        generate_responses(["mini"], SETTINGS, start_engine=no_engine)
    (responses_dir("tiny", REPHRASED) / "run.json").unlink()
    assert bytes_of(REPHRASED) == before
    limited = dataclasses.replace(SETTINGS, limit=10)
    assert generate_responses(["mini"], limited, start_engine=no_engine) == {}


def test_a_plain_set_of_another_program_stays_beside_the_rephrased_one() -> None:
    before = save_foreign(PLAIN, 7)
    dying = FakeEngine(reader_and_listener, die_after=15)
    with pytest.raises(Killed):
        run(dying)
    engine = FakeEngine(reader_and_listener)
    assert list(run(engine, overwrite=False)) == [REPHRASED] and len(engine.seen) == 24 - 15
    assert bytes_of(PLAIN) == before
    assert rows_of(REPHRASED)[3]["llm_answer_with_context"].startswith("i hear")
    with pytest.raises(UserError, match="lacks 5 of 12 rows"):
        run(FakeEngine(reader_and_listener), dataclasses.replace(SETTINGS, rephrase=False))


def test_a_set_whose_work_was_deleted_is_still_complete() -> None:
    run(FakeEngine(reader_and_listener))
    for name in (PLAIN, REPHRASED):
        shutil.rmtree(responses_dir("tiny", name) / "journal")
    before = bytes_of(REPHRASED)
    assert generate_responses(["mini"], SETTINGS, start_engine=no_engine) == {}
    assert bytes_of(REPHRASED) == before


def test_one_row_is_shown_and_nothing_is_stored(root: Path) -> None:
    shown: list[str] = []
    engine = FakeEngine(reader_and_listener)
    before = sorted(root.rglob("*"))
    show_response("mini", 3, SETTINGS, Placement(), shown.append, start_engine=lambda llm: engine)
    assert sorted(root.rglob("*")) == before and engine.closed
    text = "\n".join(shown)
    assert "=== generate by org/tiny: system ===" in text and "what is number 3?" in text
    assert "i hear 00:00-00:01] |sound 3|" in text and "number 4" not in text
    whole = FakeEngine(reader_and_listener)
    run(whole)
    seeds = {request.seed for _, request, _ in whole.seen}
    assert len(engine.seen) == 2 and {request.seed for _, request, _ in engine.seen} < seeds
    with pytest.raises(UserError, match="has no row 12; it has 12 rows"):
        show_response("mini", 12, SETTINGS, Placement(), shown.append, start_engine=lambda llm: engine)
