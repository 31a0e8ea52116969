"""Benchmark runs for a report: scores, verdicts and saved replies, grouped by benchmark and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.benchmarks.answer_files import AnsweredSplit, join_run
from src.benchmarks.intervals import ROUNDS, PairedComparison, compare_pairs
from src.benchmarks.registry import benchmark, usual_groups
from src.benchmarks.score import Scores, chance, score_rows
from src.benchmarks.scoring import NOT_COUNTED, RIGHT, Benchmark, BenchmarkRow
from src.common.errors import UserError
from src.common.existing import read_record
from src.common.log import get_logger
from src.report.templating import folder_names

log = get_logger(__name__)


@dataclass(frozen=True)
class RunSplit:
    """One run over one split: its scores, and by ``dataset_index`` the joined row, the saved reply, whether right.

    ``right`` lacks rows whose right answer is not known.
    """

    name: str
    folder: Path
    scores: Scores
    rows: dict[int, BenchmarkRow]
    replies: dict[int, BenchmarkRow]
    right: dict[int, bool]
    record: dict[str, Any]

    @property
    def budget_hits(self) -> int | None:
        """Replies whose thoughts were closed for them; None if it was not recorded."""
        flags = [reply["budget_hit"] for reply in self.replies.values() if "budget_hit" in reply]
        return sum(map(bool, flags)) if flags else None

    @property
    def failed(self) -> int:
        """Rows that the run could not answer at all."""
        return sum(reply.get("error") is not None for reply in self.replies.values())

    @property
    def tokens(self) -> list[int]:
        """Tokens of every reply that has some, as recorded."""
        return [int(reply["num_tokens"]) for reply in self.replies.values() if reply.get("num_tokens")]

    @property
    def lengths(self) -> tuple[float, float, int] | None:
        """Tokens of whole replies: median, 95th percentile, longest; None if they were not recorded."""
        if not self.tokens:
            return None
        median, high = np.quantile(self.tokens, [0.5, 0.95])
        return float(median), float(high), max(self.tokens)


@dataclass(frozen=True)
class SplitRuns:
    """One benchmark's split and all runs over it; ``data`` has the questions' audio."""

    spec: Benchmark
    split: str
    data: Any
    runs: tuple[RunSplit, ...]
    chance: float

    @property
    def anchor(self) -> str:
        """Name of the section in the page."""
        return "".join(letter if letter.isalnum() else "-" for letter in f"{self.spec.name}-{self.split}")

    def compare(self, first: RunSplit, second: RunSplit) -> PairedComparison | None:
        """The two runs on the questions that both answered; None if there are none."""
        common = [key for key in first.right if key in second.right]
        return compare_pairs([(first.right[key], second.right[key]) for key in common]) if common else None


def read_runs(folders: Sequence[Path], rounds: int = ROUNDS) -> list[SplitRuns]:
    """Score the runs and put those over one split together.

    A split without known answers is left out with a warning; a run over the first rows is taken as far as it goes.
    Raises :class:`UserError` for a folder that is no run, or if nothing can be scored.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"the same run is given twice: {', '.join(map(str, folders))}")
    joined: dict[tuple[str, str], list[tuple[Benchmark, Path, str, AnsweredSplit]]] = {}
    for folder, name in zip(folders, folder_names(folders), strict=True):
        spec, splits = join_run(folder, partial=True)
        for part in splits:
            if part.joined.rows:
                run = (spec, folder, name.removeprefix(f"{spec.name}_"), part)
                joined.setdefault((spec.name, part.split), []).append(run)
    found = []
    for (benchmark_name, split), parts in joined.items():
        spec, _, _, first = parts[0]
        if not spec.groupings:
            # A generic benchmark gets the groups that its rows have. They are looked for in the rows of all runs:
            # a run over the first rows may lack some, and the page compares the runs group by group.
            spec = benchmark(benchmark_name, usual_groups([row for *_, part in parts for row in part.joined.rows]))
        runs = []
        for _, folder, name, part in parts:
            try:
                scores = score_rows(spec, part.joined.rows, rounds=rounds)
            except UserError as error:
                log.warning("%s (%s): left out: %s", folder, split, error)
                continue
            strict = scores.rules[0].result.per_row_strict
            run_split = RunSplit(
                name,
                folder,
                scores,
                dict(zip(part.joined.indexes, part.joined.rows, strict=True)),
                {int(row["dataset_index"]): row for row in part.answers},
                {
                    key: code == RIGHT
                    for key, code in zip(part.joined.indexes, strict, strict=True)
                    if code != NOT_COUNTED
                },
                read_record(folder),
            )
            runs.append(run_split)
        if runs:
            found.append(SplitRuns(spec, split, first.data, tuple(runs), chance(spec, first.joined.rows)))
    if not found:
        raise UserError(f"nothing to report: no split of {', '.join(map(str, folders))} has known answers")
    return found
