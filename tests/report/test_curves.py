"""The page of training curves: finished, running and broken runs, one or several."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.common.files import write_json
from src.common.run_record import record_start
from src.report.charts import Series, line_chart
from src.report.curves import thin, write_curves
from tests.support.fake_runs import make_training
from tests.support.html_checker import HtmlChecker


def make_run(folder: Path, steps: int = 60, finished: bool = True, slope: float = 1.0) -> Path:
    """A run as train.py leaves it, with an evaluation and samples every 20 steps."""
    lines: list[dict[str, Any]] = []
    samples = []
    for step in range(10, steps + 1, 10):
        loss = slope * 5 / step
        rates = {
            "learning_rate": 1e-4 * step,
            "grad_norm": loss,
            "clips_per_second": 30.0,
            "rows_replaced": step // 50,
        }
        lines.append({"step": step, "epoch": step / 100, "loss": loss, **rates})
        if step % 20 == 0:
            lines.append({"step": step, "eval_cameo_loss": loss + 0.1, "eval_cameo_tokens": 9000.0})
            lines.append({"step": step, "eval_speech_group_loss": loss + 0.1, "eval_loss": loss + 0.1})
            lines.append({"step": step, "eval_with_context_bleu": float(step), "eval_no_context_rougeL": 0.5})
            target = "i hear a dog.\n</think>\n\na dog"
            shared = {"step": step, "set": "cameo", "mode": "WithContext", "key": "cameo/3", "target": target}
            samples.append({**shared, "prompt": "what <b>is</b> it?", "answer": f"i hear {step}"})
    folder.mkdir(parents=True)
    for name, rows in (("metrics.jsonl", lines), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        config = {"dataset": {"name": "speech_4b"}, "model": {"llm": "Qwen/Qwen3"}}
        write_json(folder / "run.json", {"config": config, "seconds": {"run": 75.0}})
    return folder


def page_of(*folders: Path) -> str:
    """The page over these runs."""
    out = folders[0].parent / "page" / "curves.html"
    write_curves(folders, out)
    return out.read_text(encoding="utf-8")


def test_page_of_a_finished_run(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "whisper"))
    checker = HtmlChecker(page)
    assert checker.open == [] and all(link.startswith(("data:", "#")) for link in checker.references)
    assert "http://" not in page and "https://" not in page and "@import" not in page
    for text in (
        "Training loss", "Learning rate", "Clips per second", "Gradient norm", "Rows replaced", "All sets",
        ">speech<", ">cameo<", "BLEU, with context", "ROUGE-L, no context", "finished; speech_4b, Qwen/Qwen3",
        "1 min 15 s",
    ):  # fmt: skip
        assert text in page, text
    assert checker.counts["svg"] == 10  # token counts are no curve
    assert "Step 60" in page and "i hear 60" in page and "i hear 40" not in page  # the last save alone
    assert "what &lt;b&gt;is&lt;/b&gt; it?" in page and "(no answer: unfinished thoughts)" in page


def test_runs_whose_parents_are_alike_get_different_names(tmp_path: Path) -> None:
    """Names had one parent at most, so that these two runs were both called x/run."""
    page = page_of(make_run(tmp_path / "a" / "x" / "run"), make_run(tmp_path / "b" / "x" / "run"))
    assert "a/x/run" in page and "b/x/run" in page


def test_page_of_a_run_that_was_killed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "killed", finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 70, "lo')
    config = {"dataset": {"name": "unfinished_mixture"}, "model": {"llm": "some/llm"}}
    record_start(folder, config, resumed=False)
    page = page_of(folder)
    assert "unfinished_mixture, some/llm" in page
    assert "running, or stopped before its end" in page and HtmlChecker(page).counts["svg"] == 10


def test_a_record_of_an_earlier_run_is_not_of_this_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "again")
    os.utime(folder / "run.json", (1e9, 1e9))
    assert "running, or stopped before its end" in page_of(folder)


def test_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", 40, False, 2.0)
    make_training(tmp_path / "third")
    page = page_of(first, second, tmp_path / "third")
    assert "3 runs" in page and "a/run" in page and "b/run" in page and ">third<" in page
    chart = page.split('aria-label="Training loss"')[1].split("</svg>")[0]
    assert [f'class="line run{place}"' in chart for place in range(4)] == [True, True, True, False]
    assert page.count("<details>") == 2


def test_nothing_logged_yet_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "metrics.jsonl").touch()
    assert "Nothing has been logged yet" in page_of(tmp_path / "fresh")
    with pytest.raises(UserError, match="nowhere: no metrics.jsonl there"):
        write_curves([tmp_path / "nowhere"], tmp_path / "x.html")


def test_long_curves_are_averaged() -> None:
    points = [(float(x), float(x % 2)) for x in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100 and thinned[0] == (4.5, 0.5) and thinned[-1][0] == 994.5
    assert thin(points[:100], 100) == points[:100]


def test_an_axis_near_the_values_shows_small_differences() -> None:
    points = [(1.0, 0.84), (2.0, 0.83)]
    assert ">0.83</text>" in line_chart([Series("a", points, "run0")], "step", "t", "near")
    assert ">0</text>" in line_chart([Series("a", points, "run0")], "step", "t")
    wide = [(1.0, 1e-5), (2.0, 1e-2)]
    assert ">1e-05</text>" in line_chart([Series("a", wide, "run0")], "step", "t", "near")
    assert ">1e-05</text>" not in line_chart([Series("a", wide, "run0")], "step", "t", "zero")
