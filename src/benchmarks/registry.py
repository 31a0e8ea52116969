"""The known benchmarks by name. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from src.benchmarks import airbench, mmar, mmau, mmaupro, mmsu
from src.benchmarks.generic import generic
from src.benchmarks.spec import Benchmark

BENCHMARKS = {module.BENCHMARK.name: module.BENCHMARK for module in (mmau, mmar, mmsu, airbench, mmaupro)}


def benchmark(name: str, group_by: Sequence[str] = (), splits: Sequence[str] = ("test",)) -> Benchmark:
    """The benchmark of that name; for any other name a generic one, grouped by the given columns of its metadata."""
    known = BENCHMARKS.get(name)
    return known if known is not None else generic(name, group_by, splits)
