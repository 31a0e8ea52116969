"""Leave out rows whose clip does not say its text, judged by speech recognition: word and character error rates.

Transcripts are kept row by row, so that a run that was stopped goes on, and another threshold or normalisation costs
nothing. Published reference: ``scripts/alarm/filter_dataset.py`` of Blinorot/ALARM (HeySQuAD, WER at most 0.5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import next_step, set_problem
from src.common.json_lines import json_lines, read_json_lines
from src.common.lock import held
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import data_root, indexes_dir, indexes_filtered_dir, raw_dir, transcripts_dir
from src.common.run_record import write_json, write_text
from src.corpus.sets.asr_score import error_rates, find_normalisation
from src.corpus.sets.audio_filter import FILTER_FILE
from src.corpus.sets.subset import save_rows
from src.corpus.stages.instructions import FILTERED, filter_responses
from src.corpus.stages.journal import Journal, input_digest
from src.corpus.stages.transcribe import AsrSettings, Heard, with_log
from src.dataset.splits import read_indexes, write_indexes
from src.dataset.tables import find_rows, native_splits, open_split, read_keys
from src.generation.tables import RowRef

_log = get_logger(__name__)
UNREADABLE, MISSING, NO_REFERENCE, WER, CER = "unreadable", "missing", "no_reference", "wer", "cer"
TEXT_COLUMNS = ("question", "text")
ROWS_FILE, REPORT_FILE = "asr.jsonl", "asr_filter.json"
HearRows = Callable[[str, Sequence[RowRef]], Iterator[Heard]]
"""What is heard in rows of the raw set of this name, in any order."""


@dataclass(frozen=True)
class AsrLimits:
    """Which rows stay: error rates up to the limits (None: no limit), after ``normalisation`` of both texts.

    ``text_column`` holds what should be said: None is ``question`` or ``text``, whichever is there first.
    """

    max_wer: float | None = 0.5
    max_cer: float | None = None
    normalisation: str = "letters"
    text_column: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_wer", "max_cer"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name} is {value}, expected at least 0")
        find_normalisation(self.normalisation)


@dataclass(frozen=True)
class Judged:
    """A row with what was heard; ``reason`` is empty if it stays. Rates are None where there are none."""

    split: str
    dataset_index: int
    reason: str
    wer: float | None
    cer: float | None
    reference: str
    heard: str


@dataclass(frozen=True)
class AnswerChoice:
    """Response sets of an instruction set that are filtered with it: of one model, of one length limit, or all."""

    llm: str | None = None
    max_tokens: int | None = None

    def covers(self, name: ResponseName) -> bool:
        """Whether a response folder is among them."""
        return self.llm in (None, name.model) and self.max_tokens in (None, name.max_tokens)


def filter_by_asr(
    name: str,
    settings: AsrSettings,
    limits: AsrLimits,
    hear: HearRows,
    limit: int | None = None,
    overwrite: bool = False,
    answers: AnswerChoice | None = None,
) -> dict[str, Any]:
    """Transcribe the rows of ``raw/NAME`` that have no transcript yet, judge all, and write what stays.

    A set with split indexes (an audio corpus) gets ``indexes_filtered/NAME``: the split without rows that the audio
    filter listed and rows that fail here. A set with its own splits (an instruction set) gets ``raw/NAME_filtered``,
    rows in the order of their numbers, which stay; its response sets are filtered with it. Beside both lie
    ``asr.jsonl``, every row with its rates, and ``asr_filter.json``. With ``limit`` only the first rows of every
    split are judged, and nothing but transcripts is written.

    A filtered set of another program that is complete is kept, and only response sets are filtered with it, unless
    ``overwrite``. ``answers`` are the response sets in question.

    Returns counts and rates by split, nothing if the filtered set is another program's. Raises :class:`UserError` if
    the set or its text is not there, or if another program's result would be changed.
    """
    answers = answers or AnswerChoice()
    splits = _splits(name)
    if limit is None and _is_kept(name, overwrite):
        _filter_all_answers(name, answers, overwrite)
        return {}
    with held([transcripts_dir(name)]):
        judged = _judge(name, splits, settings, limits, hear, limit)
    result = {split: statistics(rows) for split, rows in judged.items()}
    if limit is None:
        kept = {
            split: np.array([row.dataset_index for row in rows if not row.reason], dtype=np.int64)
            for split, rows in judged.items()
        }
        none = [split for split, keys in kept.items() if not keys.size]
        if none:
            raise UserError(
                f"{name}: no row of split {', '.join(none)} stays ({result[none[0]]['dropped']}), so nothing is "
                "written; look at --language, --normalisation and --max-wer"
            )
        folder = _write_kept(name, kept, answers, overwrite)
        write_text(folder / ROWS_FILE, json_lines(asdict(row) for rows in judged.values() for row in rows))
        about = {"asr": asdict(settings), "limits": asdict(limits), "splits": result}
        write_json(folder / REPORT_FILE, about)
    return result


def statistics(rows: Iterable[Judged]) -> dict[str, Any]:
    """Rows before and kept, dropped ones by reason, and mean rates of all judged rows and of those kept."""
    counts: Counter[str] = Counter()
    rates: dict[str, list[tuple[float, float]]] = {"": [], "kept_": []}
    for row in rows:
        counts[row.reason] += 1
        if row.wer is not None and row.cer is not None:
            rates[""].append((row.wer, row.cer))
            if not row.reason:
                rates["kept_"].append((row.wer, row.cer))
    kept = counts.pop("", 0)
    means = {
        f"{which}mean_{rate}": round(sum(pair[place] for pair in pairs) / len(pairs), 4) if pairs else None
        for which, pairs in rates.items()
        for place, rate in enumerate((WER, CER))
    }
    return {"before": kept + counts.total(), "kept": kept, "dropped": dict(sorted(counts.items())), **means}


def judge(
    reference: str, record: Mapping[str, Any] | None, limits: AsrLimits
) -> tuple[str, float | None, float | None]:
    """Why a row is left out (empty: it stays), and its rates."""
    if record is None:
        return MISSING, None, None
    if not record["ok"]:
        return UNREADABLE, None, None
    normalise = find_normalisation(limits.normalisation)
    wanted = normalise(reference)
    if not wanted:
        return NO_REFERENCE, None, None
    wer, cer = error_rates(wanted, normalise(record["text"]))
    if limits.max_wer is not None and wer > limits.max_wer:
        return WER, wer, cer
    if limits.max_cer is not None and cer > limits.max_cer:
        return CER, wer, cer
    return "", wer, cer


def _splits(name: str) -> dict[str, tuple[str, np.ndarray | None]]:
    """Splits to be written: the raw set's split of each, and its keys; None for all of that split."""
    split_up = read_indexes(indexes_dir(name))
    if not split_up:
        return {split: (split, None) for split in _native(name)}
    bad = indexes_filtered_dir(name) / "dropped.jsonl"
    unheard = np.array([entry["dataset_index"] for entry in read_json_lines(bad)], dtype=np.int64)
    return {split: ("train", np.setdiff1d(keys, unheard)) for split, keys in split_up.items()}


def _native(name: str) -> tuple[str, ...]:
    if not raw_dir(name).is_dir():
        raise UserError(f"no raw set {raw_dir(name)}; collect it with scripts/alarm/collect.py {name}")
    return native_splits(raw_dir(name))


def _judge(
    name: str,
    splits: Mapping[str, tuple[str, np.ndarray | None]],
    settings: AsrSettings,
    limits: AsrLimits,
    hear: HearRows,
    limit: int | None,
) -> dict[str, list[Judged]]:
    """All rows of the splits, in the order of their numbers, after what had no transcript was transcribed."""
    tables = {source: _Table(name, source, limits, settings) for source in {source for source, _ in splits.values()}}
    try:
        wanted = {split: tables[source].keys_of(keys)[:limit] for split, (source, keys) in splits.items()}
        pending = [
            (source, row) for split, (source, _) in splits.items() for row in tables[source].pending(wanted[split])
        ]
        _log.info("%s: %d clips to hear, %d heard before", name, len(pending), _rows(wanted) - len(pending))
        if pending:
            for heard in with_log(name, hear(name, pending), len(pending)):
                tables[heard.split].keep(heard)
        return {
            split: [tables[source].judge(split, int(key), limits) for key in wanted[split]]
            for split, (source, _) in splits.items()
        }
    finally:
        for table in tables.values():
            table.journal.close()


def _rows(wanted: Mapping[str, np.ndarray]) -> int:
    return sum(keys.size for keys in wanted.values())


class _Table:
    """One split of a raw set: what should be said, and the transcripts so far."""

    def __init__(self, name: str, split: str, limits: AsrLimits, settings: AsrSettings) -> None:
        table = open_split(raw_dir(name), split, f"raw set {name}")
        column = limits.text_column or next((each for each in TEXT_COLUMNS if each in table.column_names), "")
        missing = [each or " or ".join(TEXT_COLUMNS) for each in ("audio", column) if each not in table.column_names]
        if missing:
            raise UserError(
                f"raw set {name}, split {split!r}: no column {', '.join(missing)};"
                f" it has {', '.join(table.column_names)} (--text-column)"
            )
        self.keys = read_keys(table, f"raw set {name}")
        self._texts = table.select_columns([column])
        self._column = column
        ids = [each for each in ("unique_id_1", "unique_id_2") if each in table.column_names]
        self._digests = [input_digest(*map(str, row.values())) for row in table.select_columns(ids)] if ids else []
        folder = transcripts_dir(name) / Path(settings.model).name / split
        self.journal = Journal(folder, self.keys, settings.mark())

    def keys_of(self, keys: np.ndarray | None) -> np.ndarray:
        """Ascending keys: the given ones, or all."""
        return np.sort(self.keys if keys is None else keys)

    def pending(self, wanted: np.ndarray) -> list[int]:
        """Positions of rows without a transcript."""
        rows = find_rows(self.keys, wanted)
        return [int(row) for row in rows if row >= 0 and not self.journal.has(int(row), self._digest(int(row)))]

    def keep(self, heard: Heard) -> None:
        """Write down what was heard."""
        fields = {"text": heard.text} if heard.error is None else {"text": "", "error": heard.error}
        self.journal.append(heard.row, self._digest(heard.row), heard.error is None, **fields)

    def judge(self, split: str, key: int, limits: AsrLimits) -> Judged:
        """The row with this key."""
        row = int(find_rows(self.keys, np.array([key]))[0])
        known = row >= 0 and self.journal.has(row, self._digest(row))
        reference = (self._texts[row][self._column] or "") if row >= 0 else ""
        record = self.journal.read(row) if known else None
        reason, wer, cer = judge(reference, record, limits)
        return Judged(split, key, reason, wer, cer, reference, record["text"] if record else "")

    def _digest(self, row: int) -> int:
        return self._digests[row] if self._digests else int(self.keys[row]) & 0xFFFFFFFF


def _is_kept(name: str, overwrite: bool) -> bool:
    """Whether another program filtered the set, so that nothing is transcribed."""
    if read_indexes(indexes_dir(name)):
        folder = indexes_filtered_dir(name)
        ours = any((folder / record).is_file() for record in (FILTER_FILE, REPORT_FILE))
        if ours or not any(folder.glob("*_indexes.npy")):
            return False
        reason = "its indexes are not filtered by speech recognition"
        return next_step(f"filtered split of {name}", folder, reason, ours=False, overwrite=overwrite) == "skip"
    folder = raw_dir(f"{name}{FILTERED}")
    if (folder / REPORT_FILE).is_file():
        return False
    columns = [set(open_split(raw_dir(name), split, name).column_names) for split in _native(name)]
    problem = set_problem(folder, sorted(set.intersection(*columns)))
    return next_step(f"raw set {folder.name}", folder, problem, ours=False, overwrite=overwrite) == "skip"


def _write_kept(name: str, kept: Mapping[str, np.ndarray], answers: AnswerChoice, overwrite: bool) -> Path:
    """Write indexes or the filtered set; returns the folder."""
    if read_indexes(indexes_dir(name)):
        folder = indexes_filtered_dir(name)
        for split, keys in kept.items():
            write_indexes(folder, split, keys)
        return folder
    filtered = raw_dir(f"{name}{FILTERED}")
    save_rows(raw_dir(name), filtered, kept)
    _filter_all_answers(name, answers, overwrite)
    return filtered


def _filter_all_answers(name: str, answers: AnswerChoice, overwrite: bool) -> None:
    for source in sorted((data_root() / "responses").glob(f"*/{name}_*_*")):
        _filter_answers(source, name, answers, overwrite)


def _filter_answers(source: Path, name: str, answers: AnswerChoice, overwrite: bool) -> None:
    """The answers to the rows that stay, as the set that training reads; folders of other sets are passed over."""
    try:
        parsed = ResponseName.parse(source.name)
    except UserError:
        return
    if parsed.base != name or parsed.rephrased or parsed.checked or not (source / "dataset_dict.json").is_file():
        return
    if not answers.covers(parsed):
        return
    filtered = f"{name}{FILTERED}"
    target = source.with_name(ResponseName(filtered, parsed.model, parsed.max_tokens).format())
    with held([source]):
        made = filter_responses(source, target, filtered, overwrite)
    if made is not None:
        _log.info("%s: answers of the rows that stay", target)
