"""From predictions to scores: both rules, macro averages, intervals, and what is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.benchmarks.intervals import resample
from src.benchmarks.registry import benchmark, generic, usual_groups
from src.benchmarks.score import chance, score_rows
from src.common.errors import UserError
from src.common.paths import REPO_ROOT

Row = dict[str, Any]
CASES = REPO_ROOT / "tests" / "reference" / "benchmark_cases"


def air(task: str, prediction: str | None, status: str = "index", source: str = "s") -> Row:
    return {
        "uniq_id": 1, "question": "q", "choice_a": "x", "choice_b": "y", "answer_gt": "x", "task_name": task,
        "dataset_name": source, "model_prediction": prediction, "parse_status": status,
    }  # fmt: skip


def test_the_leaderboard_average_is_the_mean_of_domain_means() -> None:
    rows = [air("Speech_Grounding", "x")] * 9 + [air("Speaker_Age_Prediction", "y")] * 1
    rows += [air("Sound_AQA", "x")] * 4 + [air("Music_AQA", "y")] * 4
    scores = score_rows(benchmark("airbench"), rows, rounds=50)
    assert scores.main.value == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert scores.averages["mean over task names"].value == pytest.approx(0.5)
    assert scores.all_rows.value == pytest.approx(13 / 18)


def test_an_unparsed_reply_is_wrong_for_us_whatever_the_rules_make_of_it() -> None:
    rows = [air("Sound_AQA", "x"), air("Sound_AQA", None, "empty"), air("Sound_AQA", "x", "letter")]
    scores = score_rows(benchmark("airbench"), rows, rounds=50)
    published, official = (named.result.published for named in scores.rules)
    assert (published.right, published.n) == (3, 3), "None becomes the first choice; a fallback choice counts"
    assert (official.right, official.n) == (1, 1), "unparsed replies leave the denominator"
    assert scores.all_rows.value == pytest.approx(1 / 3) and scores.unparsed == 2
    assert scores.answered.value == 1.0 and scores.statuses == {"index": 1, "empty": 1, "letter": 1}


def test_intervals_are_those_of_resampling_rows() -> None:
    rng = np.random.default_rng(3)
    right, group = rng.random(600) < 0.7, rng.integers(0, 3, 600)
    marks = "".join("C" if flag else "W" for flag in right)
    found = resample(marks, {"g": [str(item) for item in group]}, rounds=4000)
    drawn = [generator_row(right, group, rng) for _ in range(4000)]
    for label in range(3):
        column = found["g"].labels.index(str(label))
        for tail in (0.025, 0.975):
            expected = np.quantile([row[label] for row in drawn], tail)
            assert np.quantile(found["g"].shares[:, column], tail) == pytest.approx(expected, abs=0.01)


def generator_row(right: Any, group: Any, rng: np.random.Generator) -> list[float]:
    """Accuracies by group of one round that draws rows."""
    picks = rng.integers(0, len(right), len(right))
    return [float(right[picks][group[picks] == label].mean()) for label in range(3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows to score"),
        ([{"id": "1", "answer": "a", "choices": ["a"]}], "no row has a prediction .*has id, answer, choices"),
        ([{"id": "1", "choices": ["a"], "model_prediction": "a"}], "no known answer|none of the 1 rows has a known"),
    ],
)
def test_files_that_cannot_be_scored_say_why(rows: list[Row], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score_rows(benchmark("mmau"), rows)


def test_any_set_with_question_choices_and_answer() -> None:
    rows = [
        {"question": "q", "choices": ["a", "b", "c"], "answer": "a", "language": "en" if n % 2 else "zh",
         "id": str(n),
         "model_prediction": "a" if n % 2 else "b"} for n in range(10)
    ]  # fmt: skip
    assert usual_groups(rows) == ["language"]
    scores = score_rows(generic("mine", ["language"]), rows, rounds=20)
    assert {name: found.value for name, found in scores.groups["language"].items()} == {"zh": 0.0, "en": 1.0}
    assert chance(generic("mine"), rows) == pytest.approx(1 / 3)


def evaluate(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = REPO_ROOT / "scripts" / "benchmarks" / "evaluation" / f"{name}.py"
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("mmau", "Total Accuracy:"),
        ("mmar", "Total Accuracy:"),
        ("mmsu", "Overall Accuracy:"),
        ("airbench", "total_acc:"),
    ],
)
def test_evaluation_programs_print_both_rules_and_write_scores(name: str, printed: str, tmp_path: Path) -> None:
    source = tmp_path / "answers.json"
    source.write_bytes((CASES / name / "text.json").read_bytes())
    done = evaluate(name, "--input", str(source), "--rounds", "50")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "answers_scores.txt").read_text()
    assert text.strip() in done.stdout and printed in text and "unparsed " in text and "<- headline" in text
    assert ("official letter rule" in text) == (name in ("mmsu", "airbench"))
    record = json.loads((tmp_path / "answers_scores.json").read_text())
    assert record["benchmark"] == name and record["rows"] == len(record["rows_every_one_counted"])
    lines = list(csv.DictReader((tmp_path / "answers_scores.csv").open()))
    headline = next(line for line in lines if line["table"] == "average" and line["name"] == record["headline"])
    assert float(headline["value"]) == pytest.approx(record["averages"][record["headline"]]["value"])
    assert float(headline["low"]) <= float(headline["value"]) <= float(headline["high"])


def test_a_wrong_key_is_told(tmp_path: Path) -> None:
    source = tmp_path / "answers.json"
    source.write_text(json.dumps([{"id": "1", "answer": "a", "choices": ["a", "b"], "model_output": "a"}]))
    done = evaluate("mmau", "--input", str(source))
    assert done.returncode == 1 and "--key" in done.stderr and "model_output" in done.stderr
    assert evaluate("mmau", "--input", str(source), "--key", "model_output").returncode == 0


def test_a_column_to_group_by_that_no_row_has_is_refused(tmp_path: Path) -> None:
    """It printed the name of a group without rows."""
    source = tmp_path / "answers.json"
    row = {"id": "1", "answer": "a", "choices": ["a", "b"], "model_prediction": "a", "task": "sounds"}
    source.write_text(json.dumps([row]))
    done = evaluate("generic", "--input", str(source), "--group-by", "tsk")
    assert done.returncode == 1 and "no row has tsk; did you mean 'task'?" in done.stderr
    assert "sounds" in evaluate("generic", "--input", str(source), "--group-by", "task").stdout
