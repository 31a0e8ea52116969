"""Published scores of other systems, for context next to our own: the tables of ``leaderboards.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

NOT_STATED = "not stated"


@dataclass(frozen=True)
class PublishedScore:
    """A system's published overall score and scores by group, with ``source``, ``edition`` and ``prompt``."""

    system: str
    overall: float
    groups: dict[str, float] = field(default_factory=dict)
    source: str = ""
    edition: str = NOT_STATED
    prompt: str = NOT_STATED


def published_scores(benchmark: str, split: str) -> tuple[PublishedScore, ...]:
    """Published scores in percent for a split of a benchmark, best first; none for sets that nobody published on.

    Scores whose source does not name a split are listed for all splits that others name.
    """
    found = [
        PublishedScore(
            system,
            scores[table["splits"][f"{benchmark} {split}"]],
            dict(zip(table.get("groups", ()), scores[1:], strict=False)),  # some rows have the overall score only
            table["source"],
            table.get("edition", NOT_STATED),
        )
        for table in _tables()
        if f"{benchmark} {split}" in table["splits"]
        for system, scores in table["scores"].items()
    ]
    return tuple(sorted(found, key=lambda score: -score.overall))


@cache
def _tables() -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return tables
