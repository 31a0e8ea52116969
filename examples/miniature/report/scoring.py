"""Score saved answers to multiple-choice and open questions, with bootstrap intervals over questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from src.benchmarks.answers import join_by_key
from src.benchmarks.intervals import Interval, share, wilson
from src.benchmarks.scoring import BenchmarkRow
from src.prompts.multiple_choice import READ_STATUSES, choice_texts
from src.prompts.reasoning import SplitResponse, split_response

NO_STATUS = "not recorded"
FAILED = "error"
"""Status of a row that the run could not answer at all."""
RESAMPLES = 4000


@dataclass(frozen=True)
class Verdict:
    """One scored answer: which row, of which kind, what was answered, what is right.

    ``status`` is the parser's (see ``src.prompts.multiple_choice.map_answer``): wrong is not the same as unparsed.
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
    def unparsed(self) -> Interval | None:
        """Share of replies that name no option; None if their statuses were not recorded."""
        if NO_STATUS in self.statuses:
            return None
        read = sum(self.statuses.get(status, 0) for status in READ_STATUSES)
        return wilson(self.accuracy.n - read, self.accuracy.n)


def judge_choices(
    questions: Iterable[BenchmarkRow],
    answers: Iterable[BenchmarkRow],
    *,
    where: str = "answers",
    partial: bool = False,
) -> list[Verdict]:
    """Verdicts in the order of the questions.

    ``questions`` have ``dataset_index question choices answer [kind]``, ``answers`` have ``dataset_index question
    choices llm_answer [parse_status]``; an answer is right if its text is that of the right choice. Raises
    :class:`~src.common.errors.UserError` when the two do not belong together.
    """
    pairs = join_by_key(
        questions, answers, same={"question": "question", "choices": "choices"}, where=where, partial=partial
    )
    return [_choice_verdict(question, answer) for question, answer in pairs]


def _choice_verdict(question: BenchmarkRow, answer: BenchmarkRow) -> Verdict:
    given = "" if answer["llm_answer"] is None else str(answer["llm_answer"])
    gold = str(question["answer"])
    status = str(answer.get("parse_status") or NO_STATUS)
    return Verdict(question["dataset_index"], str(question.get("kind", "")), given, gold, given == gold, status)


def judge_exact(
    questions: Iterable[BenchmarkRow],
    answers: Iterable[BenchmarkRow],
    *,
    where: str = "answers",
    partial: bool = False,
) -> list[Verdict]:
    """Verdicts in the order of the questions.

    ``questions`` have ``dataset_index prompt answer [kind]``, ``answers`` have ``dataset_index context
    response``; the text after ``</think>`` must equal ``answer`` but for surrounding blanks. Thoughts that never end
    leave no answer: wrong, and counted apart in the status.
    """
    pairs = join_by_key(questions, answers, same={"prompt": "context"}, where=where, partial=partial)
    return [_exact_verdict(question, answer) for question, answer in pairs]


def saved_response(answer: BenchmarkRow) -> SplitResponse:
    """Thoughts and answer of a saved row, from its whole ``response`` as generated; empty if the row failed."""
    return split_response(str(answer.get("response") or ""))


def _exact_verdict(question: BenchmarkRow, answer: BenchmarkRow) -> Verdict:
    response = saved_response(answer)
    gold = str(question["answer"]).strip()
    right = response.status == "answered" and response.answer == gold
    status = FAILED if answer.get("response") is None else response.status
    return Verdict(question["dataset_index"], str(question.get("kind", "")), response.answer, gold, right, status)


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


def chance_level(questions: Iterable[BenchmarkRow]) -> float:
    """Expected accuracy of a blind guess: mean of ``1 / len(choices)``. Raises ValueError without questions."""
    shares = [1 / len(choice_texts(row["choices"])) for row in questions]
    if not shares:
        raise ValueError("chance_level needs at least one question")
    return sum(shares) / len(shares)


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval over items (Efron 1979). Raises ValueError without values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError("bootstrap_mean needs at least one value")
    means = array[_resample(len(array), seed)].mean(axis=1)
    return Interval(float(array.mean()), *_percentiles(means, confidence), len(array))


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Ratio of two means over the same items, with a paired percentile bootstrap interval.

    Item ``i`` of both sequences must be the same item: items are resampled in pairs. Resamples whose denominator is
    zero are left out. Raises ValueError for unequal lengths, no items, or a zero denominator.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or not len(top):
        raise ValueError(f"a paired ratio needs two equally long lists, got {top.shape} and {bottom.shape}")
    if bottom.mean() == 0:
        raise ValueError("a ratio to a mean of zero is not defined")
    picks = _resample(len(top), seed)
    above, below = top[picks].mean(axis=1), bottom[picks].mean(axis=1)
    kept = below != 0
    low, high = _percentiles(above[kept] / below[kept], confidence)
    return Interval(float(top.mean() / bottom.mean()), low, high, len(top))


def _resample(n: int, seed: int) -> NDArray[np.int64]:
    """Item numbers ``(RESAMPLES, n)`` drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _percentiles(samples: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)
