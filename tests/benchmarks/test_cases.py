"""The recorded cases of the published scorers, conversions, parsing and joins agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from tests.support.benchmark_cases import CaseResult, check_cases

CASES = REPO_ROOT / "tests" / "reference" / "benchmark_cases"


def result_of(folder: Path) -> dict[str, CaseResult]:
    return {result.name: result for result in check_cases(folder)}


@pytest.mark.parametrize("result", check_cases(CASES), ids=lambda result: result.name)
def test_recorded_case_agrees(result: CaseResult) -> None:
    assert result.compared
    assert not result.differences, result.line()


def test_a_wrong_expectation_is_told(tmp_path: Path) -> None:
    """The check can fail: one count, one group, one join and one conversion are spoilt."""
    shutil.copytree(CASES, tmp_path / "cases")
    expected = tmp_path / "cases" / "expected.json"
    scores = json.loads(expected.read_text())
    scores["mmau/text.json"]["task"]["sound"]["correct"] += 1
    del scores["mmar/text.json"]["modality"]["music"]
    expected.write_text(json.dumps(scores))
    joins = tmp_path / "cases" / "join.json"
    cases = json.loads(joins.read_text())
    cases[0]["right_by_id"][3][1] = "something else"
    cases[1]["response"]["test"][0]["dataset_index"] = 99  # refused although a right assignment is expected
    cases[1]["metadata"] = cases[1]["metadata"]
    joins.write_text(json.dumps(cases))
    found = result_of(tmp_path / "cases")
    assert found["mmau/text.json"].differences == ("task.sound.correct: expected 12, found 11",)
    assert "modality, groups" in found["mmar/text.json"].differences[0]
    assert found["join, plain: joined"].differences
    assert not found["mmsu/text.json"].differences


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no cases"):
        list(check_cases(tmp_path))
