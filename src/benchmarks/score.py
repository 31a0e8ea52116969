"""A file of predictions to scores: the published printout, the official rule, every row counted with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from src.benchmarks.bootstrap import ROUNDS, interval_of, macro_rounds, resample
from src.benchmarks.intervals import Interval
from src.benchmarks.macro import macro
from src.benchmarks.outcomes import (
    LEFT_OUT,
    PREDICTION,
    RESPONSE,
    STATUS,
    Count,
    Row,
    Ruling,
    count_by,
)  # fmt: skip
from src.benchmarks.spec import Average, Benchmark
from src.common.errors import UserError


@dataclass(frozen=True)
class NamedRuling:
    """A ruling under its rule's name."""

    title: str
    ruling: Ruling


@dataclass(frozen=True)
class Scores:
    """Everything that is told about one file.

    ``rulings`` are the published printout first, then the official rule where it differs. ``all_rows`` counts every
    row with a known answer, ``answered`` those whose reply was read; ``groups`` and ``averages`` are over all rows,
    with 95 % bootstrap intervals. ``headline`` names the entry of ``averages`` that the leaderboard shows.
    """

    spec: Benchmark
    rows: int
    rulings: tuple[NamedRuling, ...]
    all_rows: Interval
    answered: Interval
    unread: int
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


MICRO = "all rows (micro)"


def score_rows(spec: Benchmark, rows: Sequence[Row], *, rounds: int = ROUNDS, seed: int = 0) -> Scores:
    """Score metadata rows with predictions (``model_prediction``), or with letter replies (``response``) alone.

    Raises :class:`UserError` if there are no rows, no predictions, or no known answers.
    """
    named = _rulings(spec, rows)
    ruling = named[0].ruling
    if not ruling.all_rows.n:
        raise UserError(
            f"{spec.title}: none of the {len(rows)} rows has a known answer; such a split is scored by its authors"
        )
    labels = {grouping.name: [grouping.label(row) for row in rows] for grouping in spec.groupings}
    drawn = resample(ruling.strict, labels, rounds, seed)
    answered_marks = "".join(
        LEFT_OUT if unread else mark for mark, unread in zip(ruling.strict, ruling.unread, strict=True)
    )
    groups, averages = {}, {}
    counts = {
        grouping.name: count_by(labels[grouping.name], ruling.strict, grouping.fixed) for grouping in spec.groupings
    }
    overall = _interval(ruling.all_rows, drawn[""].shares[:, 0])
    averages[MICRO] = overall
    for name, found in counts.items():
        shares = dict(zip(drawn[name].labels, drawn[name].shares.T, strict=True))
        groups[name] = {
            label: _interval(count, shares[label]) if count.n else Interval(float("nan"), 0.0, 1.0, 0)
            for label, count in found.items()
        }
    for average in spec.averages:
        value, n = macro(counts[average.grouping], average), sum(c.n for c in counts[average.grouping].values())
        averages[average.name] = interval_of(macro_rounds(drawn[average.grouping], average), value, n)
    return Scores(
        spec,
        len(rows),
        named,
        overall,
        _answered(answered_marks, ruling, rounds, seed),
        sum(ruling.unread),
        dict(Counter(str(row[STATUS]) for row in rows if row.get(STATUS) is not None)),
        ruling.strict.count(LEFT_OUT),
        groups,
        averages,
        _headline(spec.averages),
        rounds,
    )


def _rulings(spec: Benchmark, rows: Sequence[Row]) -> tuple[NamedRuling, ...]:
    if not rows:
        raise UserError(f"{spec.title}: there are no rows to score")
    if any(PREDICTION in row for row in rows):
        rulings = [NamedRuling(spec.published_title, spec.published(rows))]
        if spec.official is not None:
            rulings.append(NamedRuling(spec.official_title, spec.official(rows)))
        return tuple(rulings)
    if spec.official_replies is not None and any(RESPONSE in row for row in rows):
        return (NamedRuling(spec.official_title, spec.official_replies(rows)),)
    known = ", ".join([PREDICTION, *([RESPONSE] if spec.official_replies else [])])
    raise UserError(
        f"{spec.title}: no row has a prediction ({known}); the first row has {', '.join(rows[0])}. "
        "Name the key with --key if the predictions are under another one."
    )


def _interval(count: Count, samples: object) -> Interval:
    return interval_of(samples, count.share, count.n)  # type: ignore[arg-type]


def _answered(marks: str, ruling: Ruling, rounds: int, seed: int) -> Interval:
    if not ruling.answered.n:
        return Interval(float("nan"), 0.0, 1.0, 0)
    return _interval(ruling.answered, resample(marks, {}, rounds, seed)[""].shares[:, 0])


def _headline(averages: Sequence[Average]) -> str:
    return next((average.name for average in averages if average.headline), MICRO)


def chance(spec: Benchmark, rows: Sequence[Row]) -> float:
    """Expected accuracy of a blind guess among the options: the mean of one over their number; NaN without rows."""
    counts = [len(spec.convert(row, 0)["choices"]) for row in rows]
    return sum(1 / count for count in counts if count) / len(counts) if counts else float("nan")
