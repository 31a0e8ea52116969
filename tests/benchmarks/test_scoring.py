"""Joining by key, multiple choice and open answers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from src.benchmarks.choice import chance_level, judge_choices, score
from src.benchmarks.exact import judge_exact
from src.benchmarks.join import join_by_key
from src.common.errors import UserError
from src.common.paths import REPO_ROOT

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


def test_join_is_by_key_whatever_the_order() -> None:
    pairs = join_by_key([question(0), question(1)], [reply(1, "b"), reply(0, "a")])
    assert [(q["dataset_index"], a["llm_answer"]) for q, a in pairs] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([reply(0, "a")], "questions without an answer: 1 row"),
        ([reply(0, "a"), reply(1, "b"), reply(2, "c")], "answers without a question.*dataset_index 2"),
        ([reply(0, "a"), reply(0, "b"), reply(1, "c")], "share one key"),
        ([reply(0, "a"), {"llm_answer": "b"}], "no 'dataset_index'"),
    ],
)
def test_join_refuses_what_does_not_fit(replies: list[Row], message: str) -> None:
    with pytest.raises(UserError, match=message):
        join_by_key([question(0), question(1)], replies, where="run")


def test_join_of_a_part_must_be_asked_for() -> None:
    pairs = join_by_key([question(0), question(1)], [reply(1, "b")], partial=True)
    assert [q["dataset_index"] for q, _ in pairs] == [1]


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
    assert found.unread is not None and found.unread.value == 0.25


def test_unread_is_unknown_where_statuses_were_not_recorded() -> None:
    old = {key: value for key, value in reply(0, "tom").items() if key != "parse_status"}
    assert score(judge_choices([question(0)], [old])).unread is None


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


def test_scoring_and_report_need_no_torch() -> None:
    code = (
        "import sys; import src.benchmarks.choice, src.benchmarks.exact, src.report.build, src.quickstart.job; "
        "sys.exit([m for m in ('torch', 'vllm', 'transformers', 'datasets') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
