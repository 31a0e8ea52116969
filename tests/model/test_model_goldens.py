"""Adapters, fusions, the whole tiny model and waveforms to embeddings, against recorded numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.golden_adapters import check_adapters, check_fusion
from tests.support.golden_e2e import check_e2e
from tests.support.golden_multimodal import check_multimodal
from tests.support.golden_rules import CaseResult, goldens_dir

CASES = [(check_adapters, 60), (check_fusion, 18), (check_multimodal, 100), (check_e2e, 16)]


@pytest.mark.parametrize(("check", "at_least"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_recorded_cases(check: Callable[[Path], Iterator[CaseResult]], at_least: int) -> None:
    results = list(check(goldens_dir()))
    assert len(results) >= at_least
    assert [result for result in results if not result.passed] == []
