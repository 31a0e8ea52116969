"""What all pages share: the template environment, texts of numbers, and files that stand inside a page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from src.benchmarks.intervals import Interval

TEMPLATES = Path(__file__).resolve().parent / "templates"


def page_environment() -> Environment:
    """Templates of the folder, escaping what is put in, with the filters ``percent``, ``range``, ``seconds``."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, range=interval_text, seconds=seconds_text)
    return environment


def percent(value: float | None, digits: int = 1) -> str:
    """``0.925`` -> ``92.5 %``; a dash for nothing."""
    return "–" if value is None or value != value else f"{value * 100:.{digits}f} %"


def interval_text(found: Interval | None) -> str:
    """Ends of an interval in percent: ``89.1–95.0``."""
    return "" if found is None or found.n == 0 else f"{found.low * 100:.1f}–{found.high * 100:.1f}"


def seconds_text(value: float | None) -> str:
    """``75`` -> ``1 min 15 s``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def inline(name: str) -> Markup:
    """A style sheet or script of the templates folder, to stand inside the page."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
