"""The page over corpora: it stands alone, shows what was measured, and says what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.paths import REPO_ROOT
from src.corpus.analysis.analyze import AnalysisSettings, analyze_corpora
from src.report.charts import Histogram, histogram_chart
from src.report.corpus_page import write_corpus_page
from src.report.templating import mark_words
from tests.support.html_checker import HtmlChecker
from tests.support.reported_corpus import FINAL, PLAIN, make_reported_corpus
from tests.support.tiny_corpus import make_rows, save_raw


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of its own."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script."""
    script = str(REPO_ROOT / "scripts" / "alarm" / "corpus_report.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_the_page_stands_alone_and_shows_everything(tmp_path: Path) -> None:
    make_reported_corpus()
    save_raw(make_rows(3), "gtzan")
    out, numbers = tmp_path / "page" / "report.html", tmp_path / "numbers.json"
    done = run("esc50", "gtzan", "--out", str(out), "--json", str(numbers), "--samples", "3")
    assert done.returncode == 0 and done.stdout.strip() == str(out), done.stderr
    page = out.read_text()
    checker = HtmlChecker(page)
    assert checker.open == [] and all(link.startswith(("data:", "#")) for link in checker.references)
    assert not re.search(r"https?://|@import|<script src", page)
    assert checker.counts["article"] == checker.counts["audio"] == 6
    for text in (
        "2 corpora", "ESC-50", "GTZAN", "published window 100–612", "answer filter 100–500", "no answer 1",
        "What &lt;is&gt; it?", " a dog &lt;barks&gt;.", "I hear a dog &lt;barks&gt;.",
        "It is <mark>mentioned</mark> first.", "Still there after rephrasing", "by the checker alone",
        "unreadable 1", "too long 3", PLAIN, FINAL, "There are no prompts yet.", "There are no responses yet.",
        "prompts: full 12ab (shipped)", "prompts: unknown set (not recorded)",
    ):  # fmt: skip
        assert text.lower() in page.lower(), text
    told = json.loads(numbers.read_text())
    assert [corpus["name"] for corpus in told["corpora"]] == ["esc50", "gtzan"]
    assert told["corpora"][0]["responses"][1]["rates"]["response"] == {"n": 18, "betraying": 1}


def test_a_wrong_name_is_one_line(tmp_path: Path) -> None:
    save_raw(make_rows(2), "esc50")
    done = run("esc5", "--out", str(tmp_path / "x.html"))
    assert done.returncode == 1 and "error: no raw set 'esc5'" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x.html").exists()


def test_clips_that_are_broken_or_do_not_fit_are_told(tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[1]["audio"] = {"bytes": b"no audio", "path": "1.wav"}
    rows[2]["audio"] = {"bytes": None, "path": str(tmp_path / "gone.wav")}
    (tmp_path / "gone.wav").write_bytes(b"soon gone")
    save_raw(rows, "esc50")
    (tmp_path / "gone.wav").unlink()
    findings = analyze_corpora(["esc50"], AnalysisSettings())
    write_corpus_page(findings, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<audio") == 1 and page.count("the clip cannot be read") == 2
    write_corpus_page(findings, tmp_path / "b.html", audio_mb=0.001)
    page = (tmp_path / "b.html").read_text()
    assert page.count("<audio") == 0 and page.count("no room left for the clip") == 1


def test_histograms_of_other_widths_are_comparable() -> None:
    narrow = Histogram("narrow", [0, 1, 2, 3, 4], [10, 10, 10, 10], 40, "run1")
    wide = Histogram("wide", [0, 2, 4], [20, 20], 40, "run2")
    chart = str(histogram_chart([narrow, wide], "words", "Lengths", [("window", 2, 100), ("far", 50, 60)]))
    narrow_path, wide_path = re.findall(r'<path class="line area run\d" d="([^"]+)"', chart)
    heights = [set(re.findall(r"L[\d.]+,([\d.]+)", path)) for path in (narrow_path, wide_path)]
    assert heights[0] == heights[1]  # both hold half of their values in each half of the axis
    assert chart.count('class="band"') == 1 and "window 2 to 100" in chart
    assert histogram_chart([], "words", "x") == ""


def test_words_are_marked_in_escaped_text() -> None:
    assert str(mark_words("A <b> is  LISTED, listed.", "is listed")) == "A &lt;b&gt; <mark>is  LISTED</mark>, listed."
    assert str(mark_words("<i>", "")) == "&lt;i&gt;"
