"""Scoring as many rows as AIR-Bench has, with bootstrap intervals of every group, against resampling row by row.

In:  nothing; made-up rows of AIR-Bench Foundation's shape.
Out: a table; rows with --json. The baseline draws rows with numpy and counts every group in every bootstrap round;
the published scorers have no intervals at all.

    python scripts/perf/score.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, run_bench, timed  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def made_up_rows(count: int) -> list[dict[str, Any]]:
    """Rows with a prediction that is right in three of five cases, spread over the benchmark's 19 tasks."""
    from src.benchmarks.airbench import DOMAIN_OF

    tasks = list(DOMAIN_OF)
    return [
        {
            "uniq_id": number, "question": "which?", "choice_a": "one", "choice_b": "two", "choice_c": "three",
            "answer_gt": "two", "task_name": tasks[number % 19], "dataset_name": f"source{number % 25 // 19}",
            "model_prediction": ("one", "two", "two", "three", "two")[number * 7919 % 11 % 5],
        }
        for number in range(count)
    ]  # fmt: skip


def baseline(rows: list[dict[str, Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Percentile intervals of all rows and every group: rows drawn one by one, groups counted in every round."""
    import numpy as np

    from src.benchmarks.airbench import BENCHMARK

    ruling = BENCHMARK.published(rows)
    right = np.array([mark == "C" for mark in ruling.per_row_strict])
    groups = {}
    for grouping in BENCHMARK.groupings:
        labels = np.array([str(grouping.label(row)) for row in rows])
        groups |= {f"{grouping.name} {label}": labels == label for label in dict.fromkeys(labels)}
    generator, samples = np.random.default_rng(0), {name: [] for name in ["all", *groups]}
    for _ in range(rounds):
        drawn = generator.integers(0, len(rows), len(rows))
        hits = right[drawn]
        samples["all"].append(hits.mean())
        for name, member in groups.items():
            samples[name].append(hits[member[drawn]].mean())
    return {name: tuple(np.quantile(values, [0.025, 0.975])) for name, values in samples.items()}  # type: ignore[misc]


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--rows", type=int, default=25_000, help="rows (25000)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap rounds (1000)")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """One row: seconds of both ways."""
    from src.benchmarks.airbench import BENCHMARK
    from src.benchmarks.score import score_rows

    rows = made_up_rows(args.rows)
    ways = {
        "ours": timed(lambda: score_rows(BENCHMARK, rows, rounds=args.resamples)),
        "baseline": timed(lambda: baseline(rows, args.resamples)),
    }
    spent = alternate(ways, args.rounds)
    name = f"score {args.rows} rows, {args.resamples} bootstrap rounds"
    return [BenchRow(name, "s", spent["ours"], spent["baseline"], "cpu")]


if __name__ == "__main__":
    run_cli(main)
