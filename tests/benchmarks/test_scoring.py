"""Saved answers are joined with their questions by key; scoring and reports need no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from src.benchmarks.answers import join_by_key
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


def test_scoring_and_report_need_no_torch() -> None:
    code = (
        "import sys; import examples.miniature.report.build, src.benchmarks.evaluate; "
        "import src.report.benchmark_page, src.report.corpus_page, src.report.curves; "
        "sys.exit([m for m in ('torch', 'vllm', 'transformers', 'datasets') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
