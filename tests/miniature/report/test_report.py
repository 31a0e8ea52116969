"""The report on made-up runs: numbers, checks, and a page that stands alone."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.miniature.report.build import build_report
from examples.miniature.report.clips import choose_clips
from examples.miniature.report.manifest import Manifest, read_manifest
from examples.miniature.report.results import JobResults, gather
from examples.miniature.report.rows import job_checks, result_rows
from src.common.errors import ConfigError, UserError
from src.prompts.texts import load_prompts
from src.report.templating import mark_leaks
from tests.support.fake_runs import make_fake_job, make_training
from tests.support.html_checker import HtmlChecker


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("job")
    return folder, make_fake_job(folder, count=40, seeds=2)


@pytest.fixture(scope="module")
def results(job: tuple[Path, Manifest]) -> JobResults:
    return gather(job[1])


@pytest.fixture(scope="module")
def page(job: tuple[Path, Manifest]) -> str:
    folder, manifest = job
    build_report(manifest, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def by_metric(results: JobResults) -> dict[tuple[str, str], Any]:
    return {(row.system, row.metric): row for row in result_rows(results)}


def test_rows_hold_every_system_split_and_interval(results: JobResults) -> None:
    rows = by_metric(results)
    for title in ("ALARM-CA", "ALARM-P", "AL-Whisper", "Text oracle", "No audio", "Wrong audio"):
        for split in ("known", "unseen"):
            row = rows[title, f"choice_accuracy/{split}"]
            assert row.n == 40 and row.low <= row.value <= row.high
    verdicts = results.main.choice["known"]
    assert rows["ALARM-CA", "choice_accuracy/known"].value == sum(v.right for v in verdicts) / 40
    assert rows["ALARM-CA", "open_accuracy/unseen"].n == 40
    assert 0 < rows["chance", "choice_accuracy/known"].value < 0.6


def test_accuracy_by_kind_adds_up(results: JobResults) -> None:
    rows = by_metric(results)
    kinds = [row for (system, metric), row in rows.items() if system == "ALARM-P" and "accuracy/known/" in metric]
    choice = [row for row in kinds if row.metric.startswith("choice")]
    assert sum(row.n for row in choice) == 40
    total = sum(row.value * row.n for row in choice) / 40
    assert total == pytest.approx(rows["ALARM-P", "choice_accuracy/known"].value)


def test_ratio_is_to_the_oracle_on_the_same_questions(results: JobResults) -> None:
    rows = by_metric(results)
    ratio = rows["AL-Whisper", "choice_ratio_to_oracle/unseen"]
    expected = (
        rows["AL-Whisper", "choice_accuracy/unseen"].value / rows["Text oracle", "choice_accuracy/unseen"].value
    )
    assert ratio.value == pytest.approx(expected) and ratio.low < ratio.value < ratio.high


def test_betraying_shares(results: JobResults) -> None:
    rows = by_metric(results)
    assert rows["Targets as generated", "betraying_share"].value == pytest.approx(0.95)
    assert rows["Targets, rephrased", "betraying_share"].value < 0.05
    assert rows["ALARM-CA", "betraying_share"].value == 0 and rows["Text oracle", "betraying_share"].value == 1


def test_ablation_is_the_mean_over_seeds(results: JobResults) -> None:
    rows = by_metric(results)
    seeds = [rows[f"rephrased, seed {seed}", "choice_accuracy/known"].value for seed in (1, 2)]
    mean = rows["rephrased", "choice_accuracy_over_seeds/known"]
    assert mean.value == pytest.approx(sum(seeds) / 2) and mean.n == 40
    assert all(system.runs.group is None for system in results.listed)


def test_checks_hold_on_a_good_job(results: JobResults) -> None:
    checks = job_checks(results)
    assert len(checks) == 8
    assert [check.name for check in checks if not check.passed] == []


def test_changed_weights_and_an_able_control_fail_their_checks(job: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = job
    make_training(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["llm_digest"]["after"] = "other"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    cheat = [
        replace(system, choice=str(folder / "generated" / "mini_mcqa_alarm_ca"))
        if system.key == "wrong_audio"
        else system
        for system in manifest.systems
    ]
    changed = replace(manifest, systems=cheat, trainings=[replace(manifest.trainings[0], path=str(tmp_path / "run"))])
    failed = {
        check.name.split(":")[0].split(" before")[0] for check in job_checks(gather(changed)) if check.passed is False
    }
    assert failed == {"With another clip's audio", "The language model's weights are bit-identical"}


def test_what_was_not_measured_is_said_so(job: tuple[Path, Manifest]) -> None:
    manifest = job[1]
    bare = replace(manifest, systems=manifest.systems[:1], targets=[], trainings=[], text_skill=None, stages=None)
    results = gather(bare)
    assert all(check.passed is None for check in job_checks(results))
    assert not any("ratio" in row.metric for row in result_rows(results))


def test_results_json_has_rows_and_stage_seconds(job: tuple[Path, Manifest], page: str) -> None:
    results = json.loads((job[0] / "results.json").read_text())
    assert set(results["rows"][0]) == {"system", "metric", "value", "low", "high", "n"}
    assert results["stages"] == {"scenes": 12.5, "train_whisper": 95.0}


def test_page_stands_alone_and_is_well_formed(page: str) -> None:
    checker = HtmlChecker(page)
    assert checker.open == []
    assert all(reference.startswith(("data:", "#")) for reference in checker.references)
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert checker.counts["audio"] == 12 and checker.counts["svg"] == 3


def test_page_says_what_it_must(page: str) -> None:
    for text in (
        "ALARM-CA", "Text oracle", "Ablations", "chance-line", "whisker", "Thoughts that betray a reader",
        "<mark>description</mark>", "python scenes.py --seed 1", "not rephrased", "prefers-color-scheme",
    ):  # fmt: skip
        assert text in page, text
    assert "python unfinished.py" not in page


def test_page_survives_hostile_text(results: JobResults, job: tuple[Path, Manifest]) -> None:
    hostile = '<script>alert("x")</script>'
    marked = mark_leaks(f"the description says {hostile}", load_prompts("mini"))
    assert "<mark>description</mark>" in marked and "<script" not in marked


def test_clips_differ_in_kind_and_show_a_mistake(results: JobResults) -> None:
    for split, clips in choose_clips(results).items():
        kinds = [clip.kind for clip in clips if clip.options]
        assert len(kinds) == 4 and len(set(kinds)) >= 3
        own = [reply for clip in clips for reply in clip.replies if reply.is_main]
        if any(not verdict.right for verdict in results.main.choice[split]):
            assert any(not reply.right for reply in own)
        assert all(base64.b64decode(clip.audio.split(",")[1])[:4] == b"fLaC" for clip in clips)


def test_missing_run_and_foreign_answers_are_user_errors(job: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = job
    first = manifest.systems[0]
    with pytest.raises(UserError, match="no saved data set at .*nowhere"):
        gather(replace(manifest, systems=[replace(first, choice=str(folder / "nowhere"))]))
    make_fake_job(tmp_path / "other", count=12)
    foreign = replace(first, choice=str(tmp_path / "other" / "generated" / "mini_mcqa_alarm_ca"))
    with pytest.raises(UserError, match="without an answer"):
        gather(replace(manifest, systems=[foreign]))
    shutil.rmtree(tmp_path / "other")


def test_manifest_errors_name_the_key(job: tuple[Path, Manifest], tmp_path: Path) -> None:
    data = json.loads((job[0] / "manifest.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**data, "choise_set": "x"}))
    with pytest.raises(ConfigError, match="choise_set: unknown key; did you mean 'choice_set'"):
        read_manifest(tmp_path / "m.json")
    (tmp_path / "m.json").write_text(json.dumps({**data, "main": "x"}))
    with pytest.raises(ConfigError, match="main is 'x', which is no system"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(UserError, match="cannot read the manifest"):
        read_manifest(tmp_path / "nothing.json")
    assert read_manifest(job[0] / "manifest.json") == job[1]
