"""Sample answers: which rows, what is written and logged, and that training does not notice them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.common.errors import ConfigError
from src.training.callbacks import read_metrics
from src.training.samples import SampleCallback, SampleRow, pick_rows
from tests.support.tiny_corpus import make_rows, save_responses
from tests.training.conftest import Run
from tests.training.test_run import losses

FREE = "mini_rephrased_99_llm_512"
ANSWER = ("sample_generations=2", "sample_tokens=4")
SAVE = {"save_strategy": "steps", "save_steps": 3}
SHORT = {"model": "mini_alarm_ca", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
NAMES = ("bleu", "rouge1", "rouge2", "rougeL")


def read(folder: Path, name: str = "samples.jsonl") -> list[dict[str, Any]]:
    """Lines of a JSON-lines file."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def fake_set(**counts: int) -> Any:
    """An evaluation set with so many rows of each mode, those with context first."""
    starts = {"WithContext": 0, "NoContext": counts.get("WithContext", 0)}

    def first_rows(mode: str, count: int) -> list[int]:
        return list(range(starts.get(mode, 0), starts.get(mode, 0) + min(count, counts.get(mode, 0))))

    return SimpleNamespace(rows=SimpleNamespace(first_rows=first_rows))


def test_sets_take_turns_and_both_modes_get_their_rows() -> None:
    sets = {
        "both": fake_set(WithContext=9, NoContext=9),
        "with": fake_set(WithContext=1),
        "more": fake_set(WithContext=9),
    }
    found = [(pick.set, pick.mode[0], pick.index) for pick in pick_rows(sets, 4)]
    assert found == [
        ("both", "W", 0), ("with", "W", 0), ("more", "W", 0), ("both", "W", 1),
        ("both", "N", 9), ("both", "N", 10), ("both", "N", 11), ("both", "N", 12),
    ]  # fmt: skip


def test_of_many_sets_those_chosen_lie_evenly() -> None:
    sets = {f"set{number}": fake_set(WithContext=3) for number in range(10)}
    assert pick_rows(sets, 2) == [SampleRow("set0", "WithContext", 0), SampleRow("set5", "WithContext", 0)]


def test_scores_go_to_the_log_and_rows_of_both_modes_to_the_file(run: Run) -> None:
    rows = [row | {"llm_answer_no_context": row["llm_answer_with_context"]} for row in make_rows(40, 0)]
    save_responses(rows, FREE)
    free = (f"+dataset.eval.free.rows=[[{FREE},NoContext,1.0,false]]", "+dataset.eval.free.split=validation")
    folder = run("scored", *ANSWER, *free, per_device_eval_batch_size=1, **SAVE)
    lines = read(folder)
    assert [(line["step"], line["set"], line["mode"]) for line in lines[:4]] == [
        (3, "mini", "WithContext"), (3, "mini", "WithContext"), (3, "free", "NoContext"), (3, "free", "NoContext"),
    ]  # fmt: skip
    assert lines[0]["prompt"] and "assistant" not in lines[0]["prompt"] and lines[2]["prompt"] == ""
    scored = [line for line in read_metrics(folder / "metrics.jsonl") if "eval_no_context_bleu" in line]
    assert [line["step"] for line in scored] == [3, 6]
    assert all(f"eval_{kind}_{name}" in scored[0] for kind in ("with_context", "no_context") for name in NAMES)
    assert 0 <= scored[0]["eval_with_context_bleu"] <= 100


@pytest.mark.parametrize("precision", [{}, {"bf16": "true"}, {"llm_dtype": "bfloat16"}])
def test_training_does_not_notice(run: Run, shared_run: Run, precision: dict[str, str]) -> None:
    """Bit for bit, with dropout: the curve of a run that answers is that of one that does not."""
    extra = [f"{key}={value}" for key, value in precision.items() if key != "bf16"]
    settings = {**SHORT, **{key: value for key, value in precision.items() if key == "bf16"}}
    answered = run("answered", *extra, *ANSWER, **settings)
    assert len(read(answered)) == 4
    assert losses(answered) == losses(shared_run(*extra, **settings))
    if not precision:  # equal curves mean something: another seed gives another
        assert losses(answered) != losses(run("other", "seed=43", **settings))


def test_random_numbers_drawn_while_answering_are_not_missed(
    run: Run, shared_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SampleCallback._answer

    def wasteful(self: SampleCallback, picks: Any) -> list[dict[str, Any]]:
        torch.rand(7)
        return answer(self, picks)

    monkeypatch.setattr(SampleCallback, "_answer", wasteful)
    assert losses(run("wasteful", *ANSWER, **SHORT)) == losses(shared_run(**SHORT))


def test_the_end_of_a_run_is_answered_once(run: Run) -> None:
    assert [line["step"] for line in read(run("end", *ANSWER))] == [6, 6]  # nothing is saved on the way


def test_a_resumed_run_keeps_one_set_of_answers_a_step(run: Run, shared_run: Run, tmp_path: Path) -> None:
    first = shutil.copytree(shared_run(*ANSWER, **SAVE), tmp_path / "resumed")
    before = read(first)
    run("resumed", *ANSWER, f"resume_from_checkpoint={first / 'checkpoint-3'}", **SAVE)
    assert read(first) == before
    scored = [line["step"] for line in read_metrics(first / "metrics.jsonl") if "eval_with_context_bleu" in line]
    assert scored == [3, 6]


def test_evaluation_only_answers_too(run: Run, shared_run: Run) -> None:
    trained = shared_run(*ANSWER, **SAVE)
    checkpoint = f"resume_from_checkpoint={trained / 'checkpoint-6'}"
    folder = run("evaluated", "eval_mode=true", checkpoint, *ANSWER)
    assert [line["answer"] for line in read(folder)] == [line["answer"] for line in read(trained)[-2:]]
    results = json.loads((folder / "eval.json").read_text())
    assert {"eval_mini_loss", "eval_with_context_bleu"} <= set(results)


def test_no_memory_for_answers_is_no_reason_to_stop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("src.training.samples.greedy_answers", full)
    folder = run("full", *ANSWER, **SAVE)
    assert len(losses(folder)) == 6 and not (folder / "samples.jsonl").exists()


def test_a_run_that_is_stopped_leaves_its_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.training.trainer import AlarmTrainer

    step = AlarmTrainer.training_step

    def stopped(self: AlarmTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AlarmTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", *ANSWER, eval_strategy="steps", eval_steps=2, **SAVE)
    page = (tmp_path / "stopped" / "curves.html").read_text()
    assert "running, or stopped before its end" in page and "BLEU, with context" in page and ">mini<" in page
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("bertscore_model=x",), "sample_generations is off"),
        (("sample_generations=2", "bertscore_model=./absent"), "no model folder"),
    ],
)
def test_wrong_options(run: Run, extra: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("wrong", *extra)
