"""Score saved answers to open questions: the answer after the thoughts must be the expected sentence."""

from __future__ import annotations

from collections.abc import Iterable

from src.benchmarks.choice import Verdict
from src.benchmarks.join import Row, join_by_key
from src.prompts.thoughts import SplitResponse, split_response

FAILED = "error"
"""Status of a row that the run could not answer at all."""


def judge_exact(
    questions: Iterable[Row], answers: Iterable[Row], *, where: str = "answers", partial: bool = False
) -> list[Verdict]:
    """Verdicts in the order of the questions.

    ``questions`` have ``dataset_index prompt answer [kind]``, ``answers`` have ``dataset_index context
    response``; the text after ``</think>`` must equal ``answer`` but for surrounding blanks. Thoughts that never end
    leave no answer: wrong, and counted apart in the status.
    """
    pairs = join_by_key(questions, answers, same={"prompt": "context"}, where=where, partial=partial)
    return [_verdict(question, answer) for question, answer in pairs]


def saved_response(answer: Row) -> SplitResponse:
    """Thoughts and answer of a saved row, from its whole ``response`` as generated; empty if the row failed."""
    return split_response(str(answer.get("response") or ""))


def _verdict(question: Row, answer: Row) -> Verdict:
    response = saved_response(answer)
    gold = str(question["answer"]).strip()
    right = response.status == "answered" and response.answer == gold
    status = FAILED if answer.get("response") is None else response.status
    return Verdict(question["dataset_index"], str(question.get("kind", "")), response.answer, gold, right, status)
