"""Filter rows whose clip does not say its text, by the error rates of a speech recognition transcript.

Transcripts are logged row by row: a run that was stopped continues, and another threshold or normalisation needs no
transcription. Published reference: ``scripts/alarm/filter_dataset.py`` of Blinorot/ALARM (HeySQuAD, WER at most 0.5).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import LISTING, next_step, set_problem
from src.common.files import json_lines, read_json_lines, write_json, write_text
from src.common.lock import locked_folders
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import data_root, indexes_dir, indexes_filtered_dir, raw_dir, transcripts_dir
from src.corpus.postprocess.asr_score import error_rates, find_normalisation
from src.corpus.postprocess.audio_filter import FILTER_FILE
from src.corpus.postprocess.transcribe import AsrSettings, Transcript
from src.corpus.targets.instructions import FILTERED, filter_responses
from src.dataset.row_log import StageLog, input_digest
from src.dataset.splits import read_indexes, write_indexes
from src.dataset.tables import find_rows, native_splits, open_split, read_keys
from src.dataset.writer import save_rows
from src.generation.input_dataset import RowRef

_log = get_logger(__name__)
_LOG_EVERY_S = 30.0
UNREADABLE, MISSING, NO_REFERENCE, WER, CER = "unreadable", "missing", "no_reference", "wer", "cer"
TEXT_COLUMNS = ("question", "text")
ROWS_FILE, REPORT_FILE = "asr.jsonl", "asr_filter.json"
TranscribeRows = Callable[[str, Sequence[RowRef]], Iterator[Transcript]]
"""Transcripts of rows of the raw set of this name, in any order."""


@dataclass(frozen=True)
class AsrLimits:
    """Which rows stay: error rates up to the limits (None: no limit), after ``normalisation`` of both texts.

    ``text_column`` contains what should be said: None is ``question`` or ``text``, whichever is there first.
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
class ScoredTranscript:
    """Error rates of a row's transcript, None without one. ``reason`` says why the row is left out, or is empty."""

    split: str
    dataset_index: int
    reason: str
    wer: float | None
    cer: float | None
    reference: str
    heard: str


@dataclass(frozen=True)
class AnswerChoice:
    """Response sets that are filtered with an instruction set: those of one model or length limit, or all."""

    llm: str | None = None
    max_tokens: int | None = None

    def covers(self, name: ResponseName) -> bool:
        """Whether a response folder is among them."""
        return self.llm in (None, name.model) and self.max_tokens in (None, name.max_tokens)


def filter_by_asr(
    name: str,
    settings: AsrSettings,
    limits: AsrLimits,
    transcribe: TranscribeRows,
    limit: int | None = None,
    overwrite: bool = False,
    answers: AnswerChoice | None = None,
) -> dict[str, Any]:
    """Transcribe the rows of ``raw/NAME`` that have no transcript yet, score all, and write the rows that stay.

    A set with split indexes (an audio corpus) gets ``indexes_filtered/NAME``: the split without rows that the audio
    filter listed and rows that fail here. A set with its own splits (an instruction set) gets ``raw/NAME_filtered``,
    rows in the order of their numbers, which stay; its response sets are filtered with it. Next to both are
    ``asr.jsonl``, every row with its rates, and ``asr_filter.json``. With ``limit`` only the first rows of every
    split are scored, and nothing but transcripts is written.

    A filtered set of another program that is complete is kept, and only response sets are filtered with it, unless
    ``overwrite``. ``answers`` are the response sets in question.

    Returns counts and rates by split, nothing if the filtered set is another program's. Raises :class:`UserError` if
    the set or its text is not there, or if another program's result would be changed.
    """
    answers = answers or AnswerChoice()
    splits = _splits(name)
    if limit is None and _is_kept(name, overwrite):
        _filter_answers(name, answers, overwrite)
        return {}
    with locked_folders([transcripts_dir(name), indexes_filtered_dir(name)]):
        scored = _score(name, splits, settings, limits, transcribe, limit)
        result = {split: statistics(rows) for split, rows in scored.items()}
        if limit is None:
            kept = {
                split: np.array([row.dataset_index for row in rows if not row.reason], dtype=np.int64)
                for split, rows in scored.items()
            }
            none = [split for split, keys in kept.items() if not keys.size]
            if none:
                raise UserError(
                    f"{name}: no row of split {', '.join(none)} stays ({result[none[0]]['dropped']}), so nothing is "
                    "written; look at --language, --normalisation and --max-wer"
                )
            folder = _write_kept(name, kept, answers, overwrite)
            write_text(folder / ROWS_FILE, json_lines(asdict(row) for rows in scored.values() for row in rows))
            about = {"asr": asdict(settings), "limits": asdict(limits), "splits": result}
            write_json(folder / REPORT_FILE, about)
        return result


def statistics(rows: Sequence[ScoredTranscript]) -> dict[str, Any]:
    """Rows before and kept, dropped ones by reason, and mean rates of all scored rows and of those kept."""
    scored = [row for row in rows if row.wer is not None]
    kept = [row for row in rows if not row.reason]
    dropped = Counter(row.reason for row in rows if row.reason)
    means = {
        f"{which}mean_{rate}": round(sum(getattr(row, rate) for row in part) / len(part), 4) if part else None
        for which, part in (("", scored), ("kept_", kept))
        for rate in (WER, CER)
    }
    return {"before": len(rows), "kept": len(kept), "dropped": dict(sorted(dropped.items())), **means}


def score(
    reference: str, record: Mapping[str, Any] | None, limits: AsrLimits
) -> tuple[str, float | None, float | None]:
    """Why a row is left out (empty: it stays), and its word and character error rates."""
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
    """Splits to write, each with its split of the raw set and its keys there (None: all)."""
    split_up = read_indexes(indexes_dir(name))
    if not split_up:
        if not raw_dir(name).is_dir():
            raise UserError(f"no raw set {raw_dir(name)}; collect it with scripts/alarm/collect.py {name}")
        return {split: (split, None) for split in native_splits(raw_dir(name))}
    # the audio filter's decisions hold; its indexes do not show them, because this filter may have replaced those
    bad = indexes_filtered_dir(name) / "dropped.jsonl"
    unreadable = np.array([entry["dataset_index"] for entry in read_json_lines(bad)], dtype=np.int64)
    return {split: ("train", np.setdiff1d(keys, unreadable)) for split, keys in split_up.items()}


def _score(
    name: str,
    splits: Mapping[str, tuple[str, np.ndarray | None]],
    settings: AsrSettings,
    limits: AsrLimits,
    transcribe: TranscribeRows,
    limit: int | None,
) -> dict[str, list[ScoredTranscript]]:
    """All rows of the splits in the order of their keys, after those without a transcript were transcribed."""
    sources = dict.fromkeys(source for source, _ in splits.values())
    tables = {source: _SplitTable(name, source, limits, settings) for source in sources}
    try:
        wanted = {split: tables[source].keys_of(keys)[:limit] for split, (source, keys) in splits.items()}
        pending = [
            (source, row) for split, (source, _) in splits.items() for row in tables[source].pending(wanted[split])
        ]
        done = sum(keys.size for keys in wanted.values()) - len(pending)
        _log.info("%s: %d clips to transcribe, %d transcribed before", name, len(pending), done)
        started = logged = time.monotonic()
        for done, transcript in enumerate(transcribe(name, pending) if pending else (), start=1):
            tables[transcript.split].keep(transcript)
            now = time.monotonic()
            if now - logged > _LOG_EVERY_S or done == len(pending):
                logged = now
                rate = done / max(now - started, 1e-6)
                _log.info("%s: %d of %d clips, %.1f clips/s", name, done, len(pending), rate)
        return {split: tables[source].score(split, wanted[split], limits) for split, (source, _) in splits.items()}
    finally:
        for table in tables.values():
            table.log.close()


class _SplitTable:
    """Reference texts of one split of a raw set, and the transcripts so far."""

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
        # a set that was collected again may have another clip under a number; its ids tell clips apart
        ids = [each for each in ("unique_id_1", "unique_id_2") if each in table.column_names]
        self._digests = [input_digest(*map(str, row.values())) for row in table.select_columns(ids)] if ids else []
        folder = transcripts_dir(name) / Path(settings.model).name / split
        self.log = StageLog(folder, self.keys, settings.fingerprint())

    def keys_of(self, keys: np.ndarray | None) -> np.ndarray:
        """Ascending keys: the given ones, or all."""
        return np.sort(self.keys if keys is None else keys)

    def pending(self, wanted: np.ndarray) -> list[int]:
        """Positions of rows without a transcript."""
        rows = find_rows(self.keys, wanted).tolist()
        return [row for row in rows if row >= 0 and not self.log.has(row, self._digest(row))]

    def keep(self, transcript: Transcript) -> None:
        """Log a transcript."""
        row, error = transcript.row, transcript.error
        fields = {"text": transcript.text} if error is None else {"text": "", "error": error}
        self.log.append(row, self._digest(row), error is None, **fields)

    def score(self, split: str, wanted: np.ndarray, limits: AsrLimits) -> list[ScoredTranscript]:
        """The rows with these keys, in their order."""
        found = []
        for key, row in zip(wanted.tolist(), find_rows(self.keys, wanted).tolist(), strict=True):
            known = row >= 0 and self.log.has(row, self._digest(row))
            reference = (self._texts[row][self._column] or "") if row >= 0 else ""
            record = self.log.read(row) if known else None
            text = record["text"] if record else ""
            found.append(ScoredTranscript(split, key, *score(reference, record, limits), reference, text))
        return found

    def _digest(self, row: int) -> int:
        # without ids the number stands for the clip, in the 32 bits that the log keeps of a digest
        return self._digests[row] if self._digests else int(self.keys[row]) & 0xFFFFFFFF


def _is_kept(name: str, overwrite: bool) -> bool:
    """Whether another program filtered the set, so that nothing needs transcribing."""
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
    columns = [set(open_split(raw_dir(name), split, name).column_names) for split in native_splits(raw_dir(name))]
    problem = set_problem(folder, sorted(set.intersection(*columns)))
    return next_step(f"raw set {folder.name}", folder, problem, ours=False, overwrite=overwrite) == "skip"


def _write_kept(name: str, kept: Mapping[str, np.ndarray], answers: AnswerChoice, overwrite: bool) -> Path:
    """Write the indexes, or the filtered set and its answers; returns the folder."""
    if read_indexes(indexes_dir(name)):
        folder = indexes_filtered_dir(name)
        for split, keys in kept.items():
            write_indexes(folder, split, keys)
        return folder
    filtered = raw_dir(f"{name}{FILTERED}")
    save_rows(raw_dir(name), filtered, kept)
    _filter_answers(name, answers, overwrite)
    return filtered


def _filter_answers(name: str, answers: AnswerChoice, overwrite: bool) -> None:
    """Write the answers to the rows that stay as the sets that training reads; other folders are ignored."""
    filtered = f"{name}{FILTERED}"
    for source in sorted((data_root() / "responses").glob(f"*/{name}_*_*")):
        try:
            parsed = ResponseName.parse(source.name)
        except UserError:
            continue
        # the pattern also matches answers of NAME_filtered, and of sets whose names begin alike
        if parsed.base != name or parsed.rephrased or parsed.checked or not answers.covers(parsed):
            continue
        if not (source / LISTING).is_file():
            continue
        target = source.with_name(ResponseName(filtered, parsed.model, parsed.max_tokens).format())
        with locked_folders([source]):
            made = filter_responses(source, target, filtered, overwrite)
        if made is not None:
            _log.info("%s: answers of the rows that stay", target)
