"""Score saved answers to multiple-choice questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from src.benchmarks.intervals import Interval, share, wilson
from src.benchmarks.join import Row, join_by_key
from src.prompts.options import READ_STATUSES, choice_texts

NO_STATUS = "not recorded"


@dataclass(frozen=True)
class Verdict:
    """One scored answer: which row, of which kind, what was answered, what is right.

    ``status`` is how the answer was read (see ``src.prompts.options.map_answer``): wrong is not the same as unread.
    """

    key: int
    kind: str
    given: str
    gold: str
    right: bool
    status: str = NO_STATUS


@dataclass(frozen=True)
class Score:
    """Accuracy of one run over one split; ``statuses`` counts how the answers were read."""

    accuracy: Interval
    by_kind: dict[str, Interval]
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def unread(self) -> Interval | None:
        """Share of replies that name no option; None if it was not recorded how they were read."""
        if NO_STATUS in self.statuses:
            return None
        read = sum(self.statuses.get(status, 0) for status in READ_STATUSES)
        return wilson(self.accuracy.n - read, self.accuracy.n)


def judge_choices(
    questions: Iterable[Row], answers: Iterable[Row], *, where: str = "answers", partial: bool = False
) -> list[Verdict]:
    """Verdicts in the order of the questions.

    ``questions`` have ``dataset_index question choices answer [kind]``, ``answers`` have ``dataset_index question
    choices llm_answer [parse_status]``; an answer is right if its text is that of the right choice. Raises
    :class:`~src.common.errors.UserError` when the two do not belong together.
    """
    pairs = join_by_key(
        questions, answers, same={"question": "question", "choices": "choices"}, where=where, partial=partial
    )
    return [_verdict(question, answer) for question, answer in pairs]


def _verdict(question: Row, answer: Row) -> Verdict:
    given = "" if answer["llm_answer"] is None else str(answer["llm_answer"])
    gold = str(question["answer"])
    status = str(answer.get("parse_status") or NO_STATUS)
    return Verdict(question["dataset_index"], str(question.get("kind", "")), given, gold, given == gold, status)


def score(verdicts: Sequence[Verdict]) -> Score:
    """Accuracy over all verdicts and for each kind, in order of first appearance."""
    by_kind: dict[str, list[bool]] = {}
    for verdict in verdicts:
        by_kind.setdefault(verdict.kind, []).append(verdict.right)
    return Score(
        share([verdict.right for verdict in verdicts]),
        {kind: share(flags) for kind, flags in by_kind.items()},
        dict(Counter(verdict.status for verdict in verdicts)),
    )


def chance_level(questions: Iterable[Row]) -> float:
    """Expected accuracy of a blind guess: mean of ``1 / len(choices)``. Raises ValueError without questions."""
    shares = [1 / len(choice_texts(row["choices"])) for row in questions]
    if not shares:
        raise ValueError("chance_level needs at least one question")
    return sum(shares) / len(shares)
