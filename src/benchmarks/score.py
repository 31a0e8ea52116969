"""Scores of a file of predictions: the published printout, the official rule, every row counted with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from src.benchmarks.intervals import ROUNDS, UNKNOWN, Interval, interval_of, macro, macro_rounds, resample
from src.benchmarks.scoring import (
    NOT_COUNTED,
    PREDICTION,
    RESPONSE,
    STATUS,
    Benchmark,
    BenchmarkRow,
    RuleResult,
    accuracy_of,
    count_by,
)  # fmt: skip
from src.common.errors import UserError

MICRO = "all rows (micro)"


@dataclass(frozen=True)
class NamedResult:
    """The result of a rule under the rule's name."""

    title: str
    result: RuleResult


@dataclass(frozen=True)
class Scores:
    """All numbers of one file.

    ``rules`` are the published printout first, then the official rule where it differs. ``all_rows`` counts every
    row with a known answer, ``answered`` those whose reply was parsed; ``groups`` and ``averages`` are over all rows,
    with 95 % bootstrap intervals. ``headline`` names the entry of ``averages`` that the leaderboard shows.
    """

    spec: Benchmark
    rows: int
    rules: tuple[NamedResult, ...]
    all_rows: Interval
    answered: Interval
    unparsed: int
    statuses: dict[str, int]
    without_gold: int
    groups: dict[str, dict[str, Interval]]
    averages: dict[str, Interval]
    headline: str
    rounds: int

    @property
    def main(self) -> Interval:
        """The number that the benchmark's leaderboard shows."""
        return self.averages[self.headline]


def score_rows(spec: Benchmark, rows: Sequence[BenchmarkRow], *, rounds: int = ROUNDS, seed: int = 0) -> Scores:
    """Score metadata rows with predictions (``model_prediction``), or with letter replies (``response``) only.

    Raises :class:`UserError` if there are no rows, no predictions, or no known answers.
    """
    rules = _apply_rules(spec, rows)
    result = rules[0].result
    if not result.all_rows.n:
        raise UserError(
            f"{spec.title}: none of the {len(rows)} rows has a known answer; such a split is scored by its authors"
        )
    # Our numbers count every row with a known answer: leaving unparsed replies out of the denominator would favour
    # systems that do not answer.
    labels = {grouping.name: [grouping.label(row) for row in rows] for grouping in spec.groupings}
    drawn = resample(result.per_row_strict, labels, rounds, seed)
    overall = interval_of(drawn[""].shares[:, 0], result.all_rows.share, result.all_rows.n)
    counts, groups = {}, {}
    for grouping in spec.groupings:
        counts[grouping.name] = count_by(labels[grouping.name], result.per_row_strict, grouping.fixed)
        shares = dict(zip(drawn[grouping.name].labels, drawn[grouping.name].shares.T, strict=True))
        groups[grouping.name] = {
            label: interval_of(shares[label], found.share, found.n) if found.n else UNKNOWN
            for label, found in counts[grouping.name].items()
        }
    averages = {MICRO: overall}
    for average in spec.averages:
        found = counts[average.grouping]
        samples = macro_rounds(drawn[average.grouping], average)
        averages[average.name] = interval_of(samples, macro(found, average), sum(each.n for each in found.values()))
    answered = UNKNOWN
    if (parsed := accuracy_of(result.per_row_answered)).n:
        samples = resample(result.per_row_answered, {}, rounds, seed)[""].shares[:, 0]
        answered = interval_of(samples, parsed.share, parsed.n)
    return Scores(
        spec,
        len(rows),
        rules,
        overall,
        answered,
        sum(result.unparsed),
        dict(Counter(str(row[STATUS]) for row in rows if row.get(STATUS) is not None)),
        result.per_row_strict.count(NOT_COUNTED),
        groups,
        averages,
        next((average.name for average in spec.averages if average.headline), MICRO),
        rounds,
    )


def _apply_rules(spec: Benchmark, rows: Sequence[BenchmarkRow]) -> tuple[NamedResult, ...]:
    if not rows:
        raise UserError(f"{spec.title}: there are no rows to score")
    if any(PREDICTION in row for row in rows):
        results = [NamedResult(spec.published_title, spec.published(rows))]
        if spec.official is not None:
            results.append(NamedResult(spec.official_title, spec.official(rows)))
        return tuple(results)
    if spec.official_replies is not None and any(RESPONSE in row for row in rows):
        return (NamedResult(spec.official_title, spec.official_replies(rows)),)
    known = ", ".join([PREDICTION, *([RESPONSE] if spec.official_replies else [])])
    raise UserError(
        f"{spec.title}: no row has a prediction ({known}); the first row has {', '.join(rows[0])}. "
        "Name the key with --key if the predictions are under another one."
    )


def chance(spec: Benchmark, rows: Sequence[BenchmarkRow]) -> float:
    """Expected accuracy of a blind guess among the options: the mean of one over their number; NaN without rows."""
    # row by row: the numbers of options differ
    counts = [len(spec.convert(row, 0)["choices"]) for row in rows]
    return sum(1 / count for count in counts if count) / len(counts) if counts else float("nan")
