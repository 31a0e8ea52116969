"""Praat TextGrid files, long or short, read by Praat's own rule: only free-standing numbers, texts and flags count.

Source: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
"""

from __future__ import annotations

import re
from pathlib import Path

from src.common.errors import UserError

Interval = tuple[float, float, str]
_TOKEN = re.compile(r'"(?:[^"]|"")*"|<\w+>|(?<![^\s=])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\S)|![^\n]*')


def first_tier(path: Path) -> list[Interval]:
    """Intervals of the first tier: start and end in seconds, and text. Raises :class:`UserError` naming the file."""
    data = path.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("!")]
    try:
        tier = next(place for place, token in enumerate(tokens) if token == '"IntervalTier"')
        count = int(tokens[tier + 4])  # behind the class: name, start, end, number of intervals
        cells = tokens[tier + 5 : tier + 5 + 3 * count]
        if len(cells) != 3 * count:
            raise ValueError(f"{count} intervals are announced, {len(cells) // 3} are there")
        return [
            (float(cells[place]), float(cells[place + 1]), cells[place + 2][1:-1].replace('""', '"'))
            for place in range(0, len(cells), 3)
        ]
    except (StopIteration, ValueError, IndexError) as error:
        raise UserError(f"{path} is not a TextGrid with a tier of intervals ({error or 'none found'})") from error
