"""Shared by all pages: template environment, texts of numbers, marked words, and inlined files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from src.benchmarks.intervals import Interval
from src.prompts.leakage import leak_spans
from src.prompts.texts import Prompts

TEMPLATES = Path(__file__).resolve().parent / "templates"
STYLES = 8
"""Colours of runs in the style sheet."""


def page_environment(folder: Path = TEMPLATES) -> Environment:
    """Templates of a folder; inserted texts are escaped. Filters: ``percent``, ``range``, ``seconds``."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,  # answers come from models, names from data sets
        undefined=StrictUndefined,  # a misspelt name in a template is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, range=interval_text, seconds=seconds_text)
    return environment


def fill_page(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A page that needs no other file: a template of ours with ``values``, with its styles and scripts inside."""
    about = {"written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    files = {"css": Markup("").join(map(inline, styles)), "script": Markup("").join(map(inline, scripts))}
    return page_environment().get_template(template).render({**about, **files, **values})


def folder_names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, each with as many parents as are needed to distinguish it from the others."""
    paths = [folder.resolve().parts for folder in folders]

    def alone(path: tuple[str, ...], depth: int) -> bool:
        return depth == len(path) or sum(other[-depth:] == path[-depth:] for other in paths) == 1

    return ["/".join(path[-next(depth for depth in count(1) if alone(path, depth)) :]) for path in paths]


def run_style(number: int) -> str:
    """Class of the style sheet for a run's colour."""
    return f"run{number % STYLES}"


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
    """A style sheet or script of the templates folder, to be written into the page."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def mark_leaks(text: str, prompts: Prompts) -> Markup:
    """Text for HTML with the words that show its author read a text in ``mark`` elements."""
    parts, end = [], 0
    for span in leak_spans(text, prompts):
        parts += [escape(text[end : span.start]), Markup("<mark>{}</mark>").format(text[span.start : span.end])]
        end = span.end
    return Markup("").join([*parts, escape(text[end:])])


def mark_words(text: str, words: str) -> Markup:
    """Text for HTML with all places of these words marked, in any case and with any signs between them."""
    pattern = r"\W+".join(map(re.escape, words.split()))
    if not pattern:
        return escape(text)
    parts = re.split(rf"(?<!\w)({pattern})", text, flags=re.IGNORECASE)
    marked = (Markup("<mark>{}</mark>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts))
    return Markup("").join(marked)
