"""Benchmarks, their rules, and the result of a rule: which rows are right, wrong or not counted, by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from src.prompts.multiple_choice import READ_STATUSES

BenchmarkRow = Mapping[str, Any]
"""Metadata of a question, with the prediction where it is scored."""
RIGHT, WRONG, NOT_COUNTED = "C", "W", "-"
"""Codes of a row in :attr:`RuleResult.per_row`."""
PREDICTION, RESPONSE, STATUS = "model_prediction", "response", "parse_status"
"""Keys of a scored row: text of the chosen option; letter reply of the official files; status of our parser."""
CHOICE_KEYS = ("choice_a", "choice_b", "choice_c", "choice_d")
COMMON_COLUMNS = ("question", "choices", "answer", "audio", "id", "dataset_index")


@dataclass(frozen=True)
class Accuracy:
    """Rows that are right, of those that are counted."""

    right: int = 0
    n: int = 0

    @property
    def share(self) -> float:
        """Accuracy; 0 without rows, as the published scorers print it."""
        return self.right / self.n if self.n else 0.0

    @property
    def percent(self) -> str:
        """Accuracy in percent with two decimals."""
        return f"{self.share * 100:.2f}"


@dataclass(frozen=True)
class RuleResult:
    """Result of one rule over a file.

    ``per_row`` has the published scorer's code for each row in file order, ``lines`` its printout, ``tables`` its
    groups by table name, ``numbers`` single values. ``per_row_strict`` is the same rule with every row counted that
    has a known answer; unparsed replies are wrong there, also where the published scorer counts them otherwise.
    ``unparsed`` flags those replies, ``notes`` name rows on which the published scorer stops, ``reused_letter`` lists
    blank replies that it scores with the letter of an earlier row.
    """

    per_row: str
    per_row_strict: str
    unparsed: tuple[bool, ...]
    lines: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, Accuracy]] = field(default_factory=dict)
    numbers: Mapping[str, str | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reused_letter: tuple[int, ...] = ()

    @property
    def published(self) -> Accuracy:
        """Rows as the published scorer counts them."""
        return accuracy_of(self.per_row)

    @property
    def all_rows(self) -> Accuracy:
        """Every row with a known answer."""
        return accuracy_of(self.per_row_strict)

    @property
    def per_row_answered(self) -> str:
        """``per_row_strict`` with unparsed replies not counted."""
        pairs = zip(self.per_row_strict, self.unparsed, strict=True)
        return "".join(NOT_COUNTED if unparsed else code for code, unparsed in pairs)


def accuracy_of(per_row: str) -> Accuracy:
    """Right and counted rows of a string of codes."""
    return Accuracy(per_row.count(RIGHT), len(per_row) - per_row.count(NOT_COUNTED))


def strict_codes(right: Iterable[bool], unparsed: Iterable[bool], known: Iterable[bool]) -> str:
    """Codes with every row of a known answer counted: right if the rule says so and the reply was parsed."""
    return "".join(
        NOT_COUNTED if not has_gold else RIGHT if correct and not blank else WRONG
        for correct, blank, has_gold in zip(right, unparsed, known, strict=True)
    )


def count_by(labels: Iterable[str | None], per_row: str, fixed: Sequence[str] = ()) -> dict[str, Accuracy]:
    """Accuracies by label: the ``fixed`` labels first, then others as they appear; rows without a label nowhere."""
    right: dict[str, int] = dict.fromkeys(fixed, 0)
    seen: dict[str, int] = dict.fromkeys(fixed, 0)
    for label, code in zip(labels, per_row, strict=True):
        if label is not None and code != NOT_COUNTED:
            right[label] = right.get(label, 0) + (code == RIGHT)
            seen[label] = seen.get(label, 0) + 1
    return {label: Accuracy(right[label], seen[label]) for label in seen}


def label_of(row: BenchmarkRow, key: str) -> str | None:
    """The row's group by a column; None if it has none. Of a list of labels the first counts."""
    value = row.get(key)
    if isinstance(value, (list, tuple)):  # 13 rows of MMAU have a list as their category
        value = value[0] if value else None
    return None if value is None else str(value)


def first_few(items: Sequence[Any], separator: str = ", ") -> str:
    """The first five items for a message."""
    return separator.join(map(str, items[:5])) + (f"{separator.rstrip()} …" if len(items) > 5 else "")


def is_known(row: BenchmarkRow, gold_key: str) -> bool:
    """Whether the row's right answer is known: hidden ones are null or blank in the published files."""
    value = row.get(gold_key)
    return value is not None and bool(str(value).strip())


def is_unparsed(row: BenchmarkRow) -> bool:
    """Whether the row has no prediction: none at all, a blank one, or one with the status of an unparsed reply."""
    value = row.get(PREDICTION)
    if value is None or not str(value).strip():
        return True
    return row.get(STATUS) not in (None, *READ_STATUSES)  # None: answers of another program have no status


Rule = Callable[[Sequence[BenchmarkRow]], RuleResult]


@dataclass(frozen=True)
class GroupBy:
    """Rows in groups: ``label`` gives a row's group (None: in none); ``fixed`` groups are listed even when empty."""

    name: str
    label: Callable[[BenchmarkRow], str | None]
    fixed: tuple[str, ...] = ()

    @classmethod
    def column(cls, name: str, key: str = "", fixed: tuple[str, ...] = ()) -> GroupBy:
        """Groups by the values of the column ``key``; default: the one called ``name``."""
        return cls(name, partial(label_of, key=key or name), fixed)


@dataclass(frozen=True)
class Average:
    """A macro average: the unweighted mean over the groups of the :class:`GroupBy` called ``grouping``.

    With ``parent`` the groups are first averaged inside their parent, then the parents. ``headline`` marks the
    number that the benchmark's leaderboard shows.
    """

    name: str
    grouping: str
    parent: Callable[[str], str | None] | None = None
    headline: bool = False


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its fields, groups, rules and averages, and how a raw row becomes the common columns.

    ``published`` scores files of chosen texts (``model_prediction``) as the published system does; ``official`` is
    the benchmark's own rule where it differs, over the same file; ``official_replies`` scores files of letter
    replies (``response``) as the benchmark's own inference writes them. ``convert`` maps a raw row and its place to
    the common columns, ``keep`` is the row as the kept metadata has it, ``left_out`` says why a raw row is not used
    (None: it is). With ``source_path`` clips are rewritten from there (mono, 16 kHz, the first 60 s).
    """

    name: str
    title: str
    groupings: tuple[GroupBy, ...]
    published_title: str
    published: Rule
    convert: Callable[[BenchmarkRow, int], dict[str, Any]]
    keep: Callable[[BenchmarkRow], BenchmarkRow] = lambda row: row
    left_out: Callable[[BenchmarkRow], str | None] = lambda row: None
    source_path: Callable[[BenchmarkRow], str] | None = None
    id_key: str = "id"
    official_title: str = ""
    official: Rule | None = None
    official_replies: Rule | None = None
    averages: tuple[Average, ...] = ()
    expected_rows: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def row_id(self, row: BenchmarkRow) -> str | None:
        """The row's id as the converted set has it; None if it has none."""
        value = row.get(self.id_key)
        return None if value is None else str(value)


def common_row(question: Any, choices: list[str], answer: Any, audio: str, row_id: Any, index: int) -> dict[str, Any]:
    """The common columns in their order; ``audio`` is a path below the folder of the download."""
    return dict(zip(COMMON_COLUMNS, (question, choices, answer, audio, row_id, index), strict=True))
