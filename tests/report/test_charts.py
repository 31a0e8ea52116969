"""Charts, spectrograms and texts of numbers that all pages share."""

from __future__ import annotations

import re

import numpy as np
import pytest

from src.common.errors import UserError
from src.report.charts import Series, line_chart, nice_ticks
from src.report.spectrogram import log_spectrum, read_sound
from src.report.templating import percent, seconds_text


def test_spectrum_shows_a_tone_at_its_height() -> None:
    rate = 16_000
    time = np.arange(rate) / rate
    low, high = (
        log_spectrum(np.sin(2 * np.pi * hertz * time).astype(np.float32), rate)[:, 40].argmax()
        for hertz in (200, 3000)
    )
    assert low > high, "low notes stand below"
    assert log_spectrum(np.zeros(100, dtype=np.float32), rate).max() <= 1


def test_unreadable_clip_names_the_row() -> None:
    with pytest.raises(UserError, match="known, dataset_index 3: the clip cannot be read"):
        read_sound({"bytes": b"nothing", "path": None}, "known, dataset_index 3")


def test_line_chart_takes_gaps_and_large_ranges() -> None:
    assert line_chart([Series("a", [], "train")], "step", "t") == ""
    svg = line_chart([Series("a", [(0, 100.0), (1, float("nan")), (2, 0.1)], "train", True)], "step", "<t>")
    assert svg.count("<circle") == 2 and "&lt;t&gt;" in svg and "nan" not in svg
    assert re.findall(r'text-anchor="end">([\d.]+)<', svg) == ["0.1", "1", "10", "100"]
    assert line_chart([Series("flat", [(5, 0.0)], "train")], "step", "t")


@pytest.mark.parametrize(
    ("span", "ticks"), [((0, 300), (0, 100, 200, 300)), ((0, 1.05), (0, 0.5, 1.0)), ((3, 3), (3,))]
)
def test_ticks_are_round(span: tuple[float, float], ticks: tuple[float, ...]) -> None:
    assert nice_ticks(*span, 3) == ticks


def test_texts_of_numbers() -> None:
    assert (percent(0.925), percent(None), percent(float("nan"))) == ("92.5 %", "–", "–")
    assert [seconds_text(value) for value in (None, 3.21, 42.4, 75)] == ["–", "3.2 s", "42 s", "1 min 15 s"]
