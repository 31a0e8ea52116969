"""The page over benchmark runs: numbers, groups, pairs, single questions, and nothing from outside."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict

from src.benchmarks.leaderboards import PublishedScore
from src.common.errors import UserError
from src.common.files import write_json
from src.common.paths import REPO_ROOT, generated_dir, raw_dir
from src.report import benchmark_page
from src.report.benchmark_page import choose_questions, write_page
from src.report.benchmark_runs import read_runs
from tests.support.html_checker import HtmlChecker

COUNT = 24
Row = dict[str, Any]


def clip(seconds: float = 0.1) -> dict[str, Any]:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(8000 * seconds)), 8000, format="WAV")
    return {"bytes": file.getvalue(), "path": "clip.wav"}


def question(number: int) -> Row:
    return {
        "question": f"what <b>is</b> it? {number}", "choices": ["bell", "horn", "wind"], "answer": "bell",
        "audio": clip(), "id": f"id{number}", "dataset_index": number, "kind": ("first", "last")[number % 2],
    }  # fmt: skip


def answer(row: Row, right: bool, unparsed: bool = False, hit: bool = False) -> Row:
    return {
        "dataset_index": row["dataset_index"], "question": row["question"], "choices": row["choices"],
        "llm_answer": None if unparsed else "bell" if right else "wind", "thoughts": f"i think <{row['id']}>",
        "response": "i think</think>\n<answer>x</answer>" if unparsed else "i think</think>\n<answer>0</answer>",
        "parse_status": "not_a_number" if unparsed else "index", "finish_reason": "stop", "budget_hit": hit,
        "num_tokens": 10 + row["dataset_index"], "seconds": 0.1, "error": None,
    }  # fmt: skip


def save_run(name: str, rows: list[Row], dataset: str = "mini_mcqa") -> Path:
    folder = generated_dir("llm", f"{dataset}_{name}_64_32")
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(str(folder))
    write_json(folder / "run.json", {"config": {"dataset": {"name": dataset}, "seed": 3}})
    return folder


def save_set(name: str, rows: list[Row]) -> None:
    data = Dataset.from_list(rows).cast_column("audio", Audio(sampling_rate=16_000))
    DatasetDict({"test": data}).save_to_disk(str(raw_dir(name)))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """One run that is right but for six questions, one unparsed; another that has only the first half right."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "data"))
    rows = [question(number) for number in range(COUNT)]
    save_set("mini_mcqa", rows)
    first = [answer(row, row["dataset_index"] >= 6, row["dataset_index"] == 0, True) for row in rows]
    return [save_run("a", first), save_run("b", [answer(row, row["dataset_index"] < 12) for row in rows])]


def test_runs_are_scored_and_compared(runs: list[Path]) -> None:
    test = read_runs(runs, rounds=100)[0]
    assert [run.name for run in test.runs] == ["a_64_32", "b_64_32"]
    assert [run.scores.main.value for run in test.runs] == [0.75, 0.5]
    assert (test.runs[0].scores.unparsed, test.runs[0].budget_hits, test.runs[1].budget_hits) == (1, COUNT, 0)
    paired = test.compare(*test.runs)
    assert paired is not None and (paired.both, paired.first, paired.second, paired.neither) == (6, 12, 6, 0)
    assert test.runs[0].lengths is not None and test.runs[0].lengths[2] == 10 + COUNT - 1
    assert test.chance == pytest.approx(1 / 3)


def test_the_page_stands_alone_and_shows_everything(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page" / "report.html"
    script = REPO_ROOT / "scripts" / "benchmarks" / "report.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, runs), "--output", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    checker = HtmlChecker(page)
    assert checker.open == [] and all(link.startswith(("data:", "#")) for link in checker.references)
    assert not re.search(r"https?://|@import|<script src", page)
    assert checker.counts["audio"] == COUNT and checker.counts["article"] == COUNT
    for text in (
        "75.00 %", "50.00 %", "1/24", "+25.00", ">first<", ">last<", "not_a_number 1", "Pairs of runs", "seed 3",
        "what &lt;b&gt;is&lt;/b&gt; it? 3", "i think &lt;id3&gt;", 'class="gold"', "thoughts closed by the budget",
    ):  # fmt: skip
        assert text in page, text
    marks = re.findall(r'data-marks="([^"]*)"', page)
    assert [marks.count(kind) for kind in ("unparsed budget differs", "wrong budget differs", "budget")] == [1, 17, 6]
    assert "Published scores" not in page


def test_published_scores_come_with_what_the_runs_were_asked(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_page, "published_scores", lambda benchmark, split: (PublishedScore("Other", 50.0),))
    imported = {"name": "published", "digest": "12ab", "source": "published 67c6776"}
    record = json.loads((runs[0] / "run.json").read_text())
    write_json(runs[0] / "run.json", {**record, "prompts": {**imported, "name": "full", "source": "shipped"}})
    write_json(runs[1] / "run.json", {**record, "prompts": imported})
    out = tmp_path / "report.html"
    write_page(runs, out, questions=1, rounds=10)
    page = out.read_text()
    assert "prompts full 12ab (shipped)" in page and "prompts published 12ab (published 67c6776)" in page
    note = "prompt sets that are not those of the published ALARM system"
    assert f"{note}: full (shipped)." in page
    write_page(runs[1:], out, questions=1, rounds=10)
    assert "Published scores" in out.read_text() and note not in out.read_text()


def test_a_run_over_the_first_rows_may_lack_groups_of_another(runs: list[Path], tmp_path: Path) -> None:
    """The groups of a generic benchmark were those of each run's own rows, and the page stopped with a KeyError."""
    rows = [question(number) for number in range(COUNT)]
    few = save_run("few", [answer(row, True) for row in rows[:1]])
    out = tmp_path / "report.html"
    for folders in ([runs[0], few], [few, runs[0]]):
        write_page(folders, out, questions=1, rounds=10)
        assert ">first<" in out.read_text() and ">last<" in out.read_text()


def test_rows_without_a_known_answer_are_not_compared(runs: list[Path], tmp_path: Path) -> None:
    """They were counted as wrong in both runs, in the comparison and next to the single questions."""
    save_set("mini_mcqa", [{**question(number), "answer": None if number < 2 else "bell"} for number in range(COUNT)])
    (test,) = read_runs(runs, rounds=10)
    paired = test.compare(*test.runs)
    assert paired is not None and (paired.difference.n, paired.neither) == (COUNT - 2, 0)
    write_page(runs[1:], tmp_path / "report.html", questions=COUNT, rounds=10)
    page = (tmp_path / "report.html").read_text()
    assert page.count('title="unknown"') == 2 and "expected: None" not in page


def test_every_parsed_status_is_named(runs: list[Path], tmp_path: Path) -> None:
    """The page said that all replies but those by number are unparsed, also of runs with letters."""
    write_page(runs[:1], tmp_path / "report.html", questions=1, rounds=10)
    caption = "All but index, value, chosen_letter, chosen_text, likelihood are unparsed."
    assert caption in (tmp_path / "report.html").read_text()


def test_clips_that_do_not_fit_are_told(runs: list[Path]) -> None:
    test = read_runs(runs, rounds=20)[0]
    size = len(clip()["bytes"]) * 4 // 3
    questions, used = choose_questions(test, 10, 3 * size)
    assert used == 3 * size and sum(bool(item.audio) for item in questions) == 3 and len(questions) == 10
    assert "no room left" in questions[-1].no_audio
    told = sum(bool({"wrong", "unparsed"} & set(item.marks)) for item in questions)
    assert told >= 5, "half of the questions are such that a run has wrong"


def test_published_scores_stand_beside_known_benchmarks(runs: list[Path], tmp_path: Path) -> None:
    rows = [question(number) for number in range(4)]
    save_set("mmar", rows)
    metadata = [
        {**{key: row[key] for key in ("id", "question", "choices", "answer")}, "audio_path": "./audio/x.wav",
         "modality": "sound", "category": "Signal Layer", "sub-category": "x"} for row in rows
    ]  # fmt: skip
    write_json(raw_dir("mmar") / "metadata" / "test_metadata.json", metadata)
    run = save_run("a", [answer(row, True) for row in rows[:3]], "mmar")  # a run over the first rows
    out = tmp_path / "report.html"
    write_page([run, *runs], out, questions=2, audio_mb=0, rounds=20)
    page = out.read_text()
    assert "Gemini 2.5 Pro" in page and "random choice" in page and "MMAR, test" in page and "mini_mcqa, test" in page
    assert HtmlChecker(page).counts["section"] == 2 and "word rule (official" in page


def test_what_is_no_run_is_told(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run.json that names its data set"):
        write_page([tmp_path], tmp_path / "x.html")
    with pytest.raises(UserError, match="given twice"):
        write_page([runs[0], runs[0]], tmp_path / "x.html")
    record = json.loads((runs[0] / "run.json").read_text())
    record["config"]["dataset"]["name"] = "gone"
    write_json(runs[0] / "run.json", record)
    with pytest.raises(UserError, match="no data set 'gone'"):
        write_page(runs, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
