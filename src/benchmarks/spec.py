"""What one benchmark is: fields, groups, rules, averages, and how its raw rows become the common columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.benchmarks.outcomes import Row, Ruling
from src.benchmarks.rules import CHOICE_KEYS

Rule = Callable[[Sequence[Row]], Ruling]
COMMON_COLUMNS = ("question", "choices", "answer", "audio", "id", "dataset_index")


@dataclass(frozen=True)
class Grouping:
    """Rows in groups: ``label`` gives a row's group (None: in none); ``fixed`` groups are listed even when empty."""

    name: str
    label: Callable[[Row], str | None]
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Average:
    """A macro average: the unweighted mean over the groups of ``grouping``.

    With ``parent`` the groups are first averaged inside their parent, then the parents. ``headline`` marks the
    number that the benchmark's leaderboard shows.
    """

    name: str
    grouping: str
    parent: Callable[[str], str | None] | None = None
    headline: bool = False


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    ``published`` scores files of chosen texts (``model_prediction``) as the published system does; ``official`` is
    the benchmark's own rule where it differs, over the same file; ``official_replies`` scores files that hold the
    letter replies (``response``) of the benchmark's own inference. ``convert`` maps a raw row and its place to the
    common columns, ``keep`` is the row as the kept metadata has it, ``left_out`` says why a raw row is not used
    (None: it is). With ``source_path`` clips are rewritten from there (mono, 16 kHz, the first 60 s).
    ``prediction_keys`` are other keys that official scripts read the prediction from.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    groupings: tuple[Grouping, ...]
    published_title: str
    published: Rule
    convert: Callable[[Row, int], dict[str, Any]]
    keep: Callable[[Row], Row] = lambda row: row
    left_out: Callable[[Row], str | None] = lambda row: None
    source_path: Callable[[Row], str] | None = None
    id_key: str = "id"
    gold_key: str = "answer"
    official_title: str = ""
    official: Rule | None = None
    official_replies: Rule | None = None
    averages: tuple[Average, ...] = ()
    micro_is_headline: bool = True
    prediction_keys: tuple[str, ...] = ()
    expected_rows: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()

    def row_id(self, row: Row) -> str | None:
        """The row's id as the converted set has it; None if it has none."""
        value = row.get(self.id_key)
        return None if value is None else str(value)

    def grouping(self, name: str) -> Grouping:
        """The grouping of that name."""
        return next(item for item in self.groupings if item.name == name)


def present_choices(row: Row) -> list[str]:
    """Texts of ``choice_a`` to ``choice_d`` whose key exists; a null is the text ``None``, as published."""
    return [str(row[key]) for key in CHOICE_KEYS if key in row]


def common_row(question: Any, choices: list[str], answer: Any, audio: str, row_id: Any, index: int) -> dict[str, Any]:
    """The common columns in their order; ``audio`` is a path below the folder of the download."""
    return {
        "question": question,
        "choices": choices,
        "answer": answer,
        "audio": audio,
        "id": row_id,
        "dataset_index": index,
    }
