"""Multiple-choice and open answers of the main job, and bootstrap intervals over their questions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from examples.miniature.report.scoring import (
    bootstrap_mean,
    bootstrap_ratio,
    chance_level,
    judge_choices,
    judge_exact,
    score,
)
from src.common.errors import UserError

Row = dict[str, Any]


def question(index: int, choices: tuple[str, ...] = ("kick", "tom"), answer: str = "tom", kind: str = "first") -> Row:
    return {
        "dataset_index": index, "question": f"q{index}", "choices": list(choices), "answer": answer, "kind": kind,
    }  # fmt: skip


def reply(index: int, given: str | None, status: str = "index", choices: tuple[str, ...] = ("kick", "tom")) -> Row:
    return {
        "dataset_index": index, "question": f"q{index}", "choices": list(choices), "llm_answer": given,
        "parse_status": status,
    }  # fmt: skip


def test_same_keys_with_other_questions_are_refused() -> None:
    with pytest.raises(UserError, match="'choices' differs.*dataset_index 0"):
        judge_choices([question(0)], [reply(0, "tom", choices=("tom", "kick"))])


def test_choices_are_scored_by_text_and_kind_and_status() -> None:
    questions = [question(0), question(1), question(2, kind="last"), question(3, kind="last")]
    replies = [reply(0, "tom"), reply(1, "kick"), reply(2, None, "empty"), reply(3, "tom", "value")]
    found = score(judge_choices(questions, replies))
    assert (found.accuracy.value, found.accuracy.n) == (0.5, 4)
    assert {kind: interval.value for kind, interval in found.by_kind.items()} == {"first": 0.5, "last": 0.5}
    assert found.statuses == {"index": 2, "empty": 1, "value": 1}
    assert found.unparsed is not None and found.unparsed.value == 0.25


def test_unparsed_is_unknown_where_statuses_were_not_recorded() -> None:
    old = {key: value for key, value in reply(0, "tom").items() if key != "parse_status"}
    assert score(judge_choices([question(0)], [old])).unparsed is None


def test_chance_is_the_mean_over_questions() -> None:
    assert chance_level([question(0), question(1, ("a", "b", "c", "d"))]) == pytest.approx((1 / 2 + 1 / 4) / 2)
    with pytest.raises(ValueError, match="at least one"):
        chance_level([])


@pytest.mark.parametrize(
    ("response", "right", "status"),
    [
        ("i hear a kick.\n</think>\n\nthe first sound is a kick.", True, "answered"),
        ("i hear a kick.\n</think>\n\nthe first sound is a kick. yes.", False, "answered"),
        ("the first sound is a kick.", False, "unfinished_thoughts"),
        ("hm\n</think>\n\n", False, "empty_answer"),
        (None, False, "error"),
    ],
)
def test_open_answers_must_be_exact_and_behind_the_thoughts(response: str | None, right: bool, status: str) -> None:
    asked = {"dataset_index": 3, "prompt": "p", "answer": "the first sound is a kick.", "kind": "first"}
    (verdict,) = judge_exact([asked], [{"dataset_index": 3, "context": "p", "response": response}])
    assert (verdict.right, verdict.status) == (right, status)


def test_open_answers_to_another_prompt_are_refused() -> None:
    asked = {"dataset_index": 3, "prompt": "p", "answer": "a", "kind": "first"}
    with pytest.raises(UserError, match="'context' differs from the benchmark's 'prompt'"):
        judge_exact([asked], [{"dataset_index": 3, "context": "another", "response": "x"}])


def test_bootstrap_mean_is_near_the_normal_interval_and_repeats() -> None:
    values = [float(place % 10) for place in range(400)]
    found = bootstrap_mean(values)
    mean = sum(values) / len(values)
    half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / len(values))
    assert found.value == mean
    assert found.low == pytest.approx(mean - half, abs=0.05) and found.high == pytest.approx(mean + half, abs=0.05)
    assert found == bootstrap_mean(values)


def test_paired_ratio_of_equal_lists_is_exactly_one() -> None:
    flags = [1.0, 0.0, 1.0, 1.0, 0.0]
    found = bootstrap_ratio(flags, flags)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_paired_ratio_refuses_unequal_lists_and_zero() -> None:
    with pytest.raises(ValueError, match="equally long"):
        bootstrap_ratio([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="zero"):
        bootstrap_ratio([1.0, 1.0], [0.0, 0.0])
