"""Damages to one cell of a corpus's upstream files: tables, lists, JSON, TextGrids and rows of the Hub, in turn."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.corpus.recipe import Inputs

WRONG = ("", "?", "\udcff", "nan", "-1e999", "A\u2028B")
"""Damages of a cell: nothing, another text, bytes that are not UTF-8, no number, too large, odd."""
WRONG_VALUES: tuple[Any, ...] = (None, "?", [], -1, "", {})
"""The same for a value of a JSON file."""
LISTS = (".txt", ".tsv", "segments", "text", ".TXT", ".TextGrid")


def damages(root: Path, inputs: Inputs, limit: int) -> Iterator[tuple[str, Inputs]]:
    """Up to ``limit`` single damages spread over all cells, each in place until the next is asked for.

    Yields what was damaged and the inputs to read.
    """
    spots = [spot for path in sorted(root.rglob("*")) if path.is_file() for spot in _spots(root, path)]
    spots += [("hub", split, row, name) for split, rows in inputs.rows.items() for row, name in _hub_cells(rows)]
    step = max(1, len(spots) // limit)
    for turn, spot in enumerate(spots[::step][:limit]):
        if spot[0] == "hub":
            _, split, row, name = spot
            yield f"{split} row {row}, {name}", _with_cell(inputs, split, row, name, ("", None)[turn % 2])
            continue
        path: Path = spot[1]
        before = path.read_bytes()
        try:
            path.write_bytes(_damaged(before, spot, turn))
            yield f"{path.name}: {spot[2:]} (kind {turn})", inputs
        finally:
            path.write_bytes(before)


def _spots(root: Path, path: Path) -> Iterator[tuple[Any, ...]]:
    if path.suffix == ".json" and "state" not in path.name and "dataset" not in path.name:
        yield from (("json", path, keys) for keys in _leaves(json.loads(path.read_bytes())))
    elif path.suffix == ".csv":
        rows = _rows(path.read_bytes(), _delimiter(path))
        for line in range(2 if path.name == "tracks.csv" else 0 if path.name == "tr_meta.csv" else 1, len(rows)):
            yield from (("csv", path, line, column) for column in range(len(rows[line])))
    elif path.name.endswith(LISTS) and not path.name.startswith(("README", "LICENSE")):
        for line, text in enumerate(path.read_text(encoding="utf-8").split("\n")):
            if line == 0 and ("ID" in text or "SPEAKER" in text):
                continue
            yield from (("list", path, line, place) for place in range(len(_tokens(text))))


def _tokens(line: str) -> list[re.Match[str]]:
    return list(re.finditer(r"[^\s|]+", line))


def _delimiter(path: Path) -> str:
    return "\t" if path.name == "meta.csv" else ","


def _rows(data: bytes, delimiter: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), delimiter=delimiter))


def _leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, (*keys, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, each in enumerate(value):
            yield from _leaves(each, (*keys, place))
    elif keys:
        yield keys


def _damaged(data: bytes, spot: tuple[Any, ...], turn: int) -> bytes:
    wrong = WRONG[turn % len(WRONG)]
    if spot[0] == "json":
        found = json.loads(data)
        place = found
        for key in spot[2][:-1]:
            place = place[key]
        place[spot[2][-1]] = copy.copy(WRONG_VALUES[turn % len(WRONG_VALUES)])
        return json.dumps(found).encode()
    if spot[0] == "csv":
        _, path, line, column = spot
        rows = _rows(data, _delimiter(path))
        rows[line][column] = wrong
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=_delimiter(path)).writerows(rows)
        return text.getvalue().encode("utf-8", "surrogateescape")
    _, _, line, place = spot
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    token = _tokens(lines[line])[place]
    lines[line] = lines[line][: token.start()] + wrong + lines[line][token.end() :]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _hub_cells(rows: Any) -> Iterator[tuple[int, str]]:
    for row in range(len(rows)):
        yield from ((row, name) for name in rows.column_names)


def _with_cell(inputs: Inputs, split: str, row: int, name: str, value: Any) -> Inputs:
    from datasets import Dataset

    rows = inputs.rows[split]
    cells = [dict(rows[number]) for number in range(len(rows))]
    cells[row][name] = value
    try:
        damaged = Dataset.from_list(cells, features=rows.features)
    except (TypeError, ValueError, AttributeError):  # a column of another type takes no text
        cells[row][name] = None
        damaged = Dataset.from_list(cells, features=rows.features)
    return replace(inputs, rows={**inputs.rows, split: damaged})
