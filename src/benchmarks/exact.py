"""Score saved answers to open questions: the answer after the thoughts must be the expected sentence."""

from __future__ import annotations

from collections.abc import Iterable

from src.benchmarks.choice import Verdict
from src.benchmarks.join import Row, join_by_key
from src.prompts.thoughts import SplitResponse, split_response


def judge_exact(
    questions: Iterable[Row], answers: Iterable[Row], *, where: str = "answers", partial: bool = False
) -> list[Verdict]:
    """Verdicts in the order of the questions.

    ``questions`` have ``dataset_index prompt answer [kind]``, ``answers`` have ``dataset_index`` and the whole
    response; the text after ``</think>`` must equal ``answer`` but for surrounding blanks. Thoughts that never end
    leave no answer: wrong, and counted apart in the status.
    """
    pairs = join_by_key(questions, answers, same=("prompt",), where=where, partial=partial)
    return [_verdict(question, answer) for question, answer in pairs]


def saved_response(answer: Row) -> SplitResponse:
    """Thoughts and answer of a saved row, from its whole response as generated."""
    for column in ("response", "llm_answer"):
        if answer.get(column) is not None:
            return split_response(str(answer[column]))
    return split_response("")


def _verdict(question: Row, answer: Row) -> Verdict:
    response = saved_response(answer)
    gold = str(question["answer"]).strip()
    right = response.status == "answered" and response.answer == gold
    return Verdict(
        question["dataset_index"], str(question.get("kind", "")), response.answer, gold, right, response.status
    )
