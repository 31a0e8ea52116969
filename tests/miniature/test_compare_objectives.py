"""The comparison of objectives: what it counts, and one small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.miniature.compare_objectives import ComparedRun, score_samples, summary, table, train_and_score
from tests.support.tiny_corpus import make_corpus
from tests.support.tiny_llm import save_tiny_llm


def test_steps_to_the_final_accuracy_of_cross_entropy() -> None:
    def run(objective: str, seed: int, *accuracy: float) -> ComparedRun:
        return ComparedRun(objective, seed, dict(zip((10, 20, 30), accuracy, strict=True)), {30: 0.25 * seed})

    runs = [run("ce", 0, 0.1, 0.6, 0.5), run("ce", 1, 0.2, 0.3, 0.7)]  # 0.6 at the end, on average
    runs += [run("kl", 0, 0.6, 0.7, 0.8), run("kl", 1, 0.2, 0.3, 0.4)]
    ce, kl = summary(runs)
    assert (ce["final_accuracy"], ce["reached"], ce["steps"]) == (pytest.approx(0.6), 2, 25)
    assert (kl["final_accuracy"], kl["reached"], kl["steps"], kl["seeds"]) == (pytest.approx(0.6), 1, 10, 2)
    assert kl["leaks"] == 0.125
    assert "| kl | 60.0% (40.0% to 80.0%) | 1 of 2 | 10 | 12.5% |" in table([ce, kl])
    assert summary([run("ce", 0, 0.1, 0.2, 0.3), run("kl", 0, 0, 0, 0)])[1]["steps"] is None


def test_an_answer_is_right_if_it_equals_the_targets_after_the_reasoning() -> None:
    def line(step: int, answer: str, target: str = "i hear a kick.\n</think>\n\na kick") -> dict[str, object]:
        return {"step": step, "answer": answer, "target": target}

    lines = [
        line(5, "other thoughts.\n</think>\n\na kick"),
        line(5, "i hear a kick.\n</think>\n\na tom"),
        line(5, "a kick"),  # the reasoning never ends
        line(5, "the description says kick.\n</think>\n\na kick"),
    ]
    found = score_samples("ce", 0, [*lines, line(9, lines[0]["answer"])])  # type: ignore[arg-type]
    assert found.accuracy == {5: 0.5, 9: 1.0} and found.leaks == {5: 0.25, 9: 0.0}
    assert found.reaches(0.6) == 9 and found.reaches(2.0) is None and found.last == 9


@pytest.mark.slow
def test_a_small_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    make_corpus(16, 4)
    llm = save_tiny_llm(tmp_path / "llm")
    options = (f"model.llm={llm}", "random_weights=true", "sample_tokens=4")
    first = train_and_score("half of each", 0, tmp_path / "kl_0", 4, 2, 3, options)
    assert set(first.accuracy) == {2, 4}
    assert json.loads((tmp_path / "kl_0" / "run.json").read_text())["config"]["objective"]["ce_weight"] == 0.5
    before = (tmp_path / "kl_0" / "samples.jsonl").stat().st_mtime
    assert train_and_score("half of each", 0, tmp_path / "kl_0", 4, 2, 3, options) == first
    assert (tmp_path / "kl_0" / "samples.jsonl").stat().st_mtime == before
