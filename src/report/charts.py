"""Line charts and histograms as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Point = tuple[float, float]
Scale = Literal["wide", "near", "zero"]
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 30  # margins; left and below for the labels
LOG_SPAN = 15
"""Largest value over smallest from which the vertical axis is logarithmic."""


@dataclass(frozen=True)
class Series:
    """Points ``(x, y)`` under a label; ``style`` is a class of the style sheet."""

    label: str
    points: Sequence[Point]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels; ``ticks`` are the values that get a label."""

    start: float
    end: float
    from_pixel: float
    to_pixel: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        def scaled(number: float) -> float:
            return math.log10(number) if self.log else number

        low, high = scaled(self.start), scaled(self.end)
        share = (scaled(value) - low) / (high - low) if high > low else 0.5
        return self.from_pixel + share * (self.to_pixel - self.from_pixel)


def line_chart(series: Sequence[Series], x_label: str, title: str, scale: Scale = "wide") -> Markup:
    """SVG of several lines over one axis; empty markup without finite points.

    The vertical axis begins at zero; with ``wide`` it is logarithmic where values differ much, with ``near`` so too,
    and else begins near the smallest value.
    """
    finite = [[(x, y) for x, y in item.points if math.isfinite(x) and math.isfinite(y)] for item in series]
    points = [point for each in finite for point in each]
    if not points:
        return Markup("")
    x_axis, y_axis = _horizontal([x for x, _ in points]), _vertical([y for _, y in points], scale)
    lines = [_line(item, each, x_axis, y_axis) for item, each in zip(series, finite, strict=True) if each]
    return _chart(x_axis, y_axis, x_label, title, lines)


@dataclass(frozen=True)
class Histogram:
    """Counts ``(bins,)`` between ``edges`` ``(bins + 1,)``, all of one width, of ``n`` values."""

    label: str
    edges: Sequence[float]
    counts: Sequence[int]
    n: int
    style: str

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.edges[1] - self.edges[0]


def histogram_chart(
    found: Sequence[Histogram], x_label: str, title: str, bands: Sequence[tuple[str, float, float]] = ()
) -> Markup:
    """SVG of histograms over each other, as percent of their values in bins of the widest one's width.

    ``bands`` (label, low, high) are marked where they are on the axis; empty markup without values.
    """
    found = [item for item in found if item.n and item.counts]
    if not found:
        return Markup("")
    widest = max(item.width for item in found)
    # bins of different widths are comparable as densities: scale each to the widest
    heights = [[100 * count / item.n * widest / item.width for count in item.counts] for item in found]
    x_axis = _horizontal([item.edges[-1] for item in found])
    y_axis = _vertical([0.0, *(max(each) for each in heights)], "zero")
    drawn = [_band(x_axis, *band) for band in bands]
    drawn += [_steps(item, each, x_axis, y_axis) for item, each in zip(found, heights, strict=True)]
    return _chart(x_axis, y_axis, x_label, title, drawn, " %")


def _chart(x_axis: _Axis, y_axis: _Axis, x_label: str, title: str, drawn: Sequence[Markup], unit: str = "") -> Markup:
    """The frame around what is drawn: grid, labels of both axes."""
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)
    for tick in y_axis.ticks:
        svg += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, LEFT - 6, y_axis(tick) + 3.5, _short(tick) + unit, y=y_axis(tick))
    for tick in x_axis.ticks:
        svg += Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            x_axis(tick), HEIGHT - BOTTOM + 14, _short(tick)
        )
    svg += Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
        WIDTH - RIGHT, HEIGHT - 3, x_label
    )
    return Markup("").join([svg, *drawn, Markup("</svg>")])


def _band(x_axis: _Axis, label: str, low: float, high: float) -> Markup:
    """A shaded part of the axis; nothing if it is outside."""
    start, end = max(low, x_axis.start), min(high, x_axis.end)
    if start >= end:
        return Markup("")
    return Markup(
        '<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{} {:g} to {:g}</title></rect>'
    ).format(x_axis(start), TOP, x_axis(end) - x_axis(start), HEIGHT - TOP - BOTTOM, label, low, high)


def _steps(item: Histogram, heights: Sequence[float], x_axis: _Axis, y_axis: _Axis) -> Markup:
    ground = y_axis(0)
    path = [f"M{x_axis(item.edges[0]):.1f},{ground:.1f}"]
    for left, right, height in zip(item.edges, item.edges[1:], heights, strict=False):
        path.append(f"L{x_axis(left):.1f},{y_axis(height):.1f}L{x_axis(right):.1f},{y_axis(height):.1f}")
    path.append(f"L{x_axis(item.edges[-1]):.1f},{ground:.1f}Z")
    return Markup('<path class="line area {}" d="{}"><title>{}</title></path>').format(
        item.style, "".join(path), item.label
    )


def _horizontal(values: Sequence[float]) -> _Axis:
    start, end = min(0.0, min(values)), max(values)
    ticks = nice_ticks(start, end, 4)
    return _Axis(start, end, LEFT, WIDTH - RIGHT, False, ticks)


def _vertical(values: Sequence[float], scale: Scale) -> _Axis:
    low, high = min(values), max(values)
    if scale != "zero" and low > 0 and high / low > LOG_SPAN:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        # some room for the curve, not up to the next power of ten, which may be far
        start, end = max(10.0**first, low / 1.3), min(10.0**last, high * 1.3)
        powers = [10.0**power for power in range(first, last + 1)]
        ticks = [tick for tick in powers if start <= tick <= end]
        if len(ticks) < 3:  # few powers of ten: label 2 and 5 as well
            finer = [round(factor * power, 12) for power in powers for factor in (1, 2, 5)]
            ticks = [tick for tick in finer if start <= tick <= end]
        return _Axis(start, end, HEIGHT - BOTTOM, TOP, True, tuple(ticks))
    if scale != "near" or high == low:
        start, end = min(0.0, low), high * 1.05 or 1.0  # all zeros: any axis that is not empty
    else:
        start, end = low - 0.05 * (high - low), high + 0.05 * (high - low)
    return _Axis(start, end, HEIGHT - BOTTOM, TOP, False, nice_ticks(start, end, 5))


def nice_ticks(start: float, end: float, count: int) -> tuple[float, ...]:
    """About ``count`` round values in ``[start, end]``."""
    span = end - start
    if span <= 0:
        return (start,)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    # 1e-9: a tick that rounding moved just outside still counts
    first = math.ceil(start / step - 1e-9)
    return tuple(round(n * step, 12) for n in range(first, math.floor(end / step + 1e-9) + 1))


def _line(item: Series, points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> Markup:
    pixels = [(x_axis(x), y_axis(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    line = Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>').format(
        item.style, path, item.label
    )
    if not item.dots:
        return line
    dots = (
        Markup(
            '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{} {:.4g} at {:g}</title></circle>'
        ).format(item.style, px, py, item.label, y, x)
        for (px, py), (x, y) in zip(pixels, points, strict=True)
    )
    return line + Markup("").join(dots)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.3g}"
