"""Rows of one response folder: raw set, prompts and responses joined by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.roots import roots_of, stored_cell
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import prompts_dir, raw_dir, responses_dir
from src.dataset.splits import find_split_indexes
from src.dataset.tables import check_same_text, join_rows, native_splits, open_split, read_keys, text_sizes

_log = get_logger(__name__)
CONTEXT_MODES: tuple[str, ...] = ("WithContext", "NoContext")
_TARGETS = {"WithContext": "llm_answer_with_context", "NoContext": "llm_answer_no_context"}
# For lengths by which batches are formed, before anything is decoded or tokenised.
TOKENS_PER_SECOND = 25.0  # the rate of the adapters' embeddings
BYTES_PER_TOKEN = 4.0  # the rule of thumb for English


@dataclass(frozen=True)
class ResponseRow:
    """One example before decoding.

    ``key`` names it in messages (``corpus/dataset_index``); ``audio`` is the stored ``{"bytes", "path"}`` mapping, or
    ``None`` without audio; ``context`` is the user's text (empty in ``NoContext``), ``target`` the LLM's response, or
    an answer that was ``given`` (:mod:`src.dataset.given_rows`), which may have a ``system`` text.
    ``audio_description`` is the clip in words: its description, or with ``spoken_question`` the question in it.
    ``cut`` says that the limit of tokens ended the response.
    """

    key: str
    audio: Mapping[str, Any] | None
    context: str
    audio_description: str
    target: str
    system: str = ""
    given: bool = False
    spoken_question: bool = False
    cut: bool = False


class StoredRows:
    """Rows of sets on this machine, which the subclasses open and join; ``keys`` int64 ``(rows,)``.

    The raw set has the clips, the source the targets and the clips in words; both have the positions of the rows.
    """

    keys: np.ndarray
    return_audio: bool
    _raw: Any
    _raw_rows: np.ndarray
    _source: Any
    _source_rows: np.ndarray
    _target: str
    _about: str | None
    _audio: Any = None

    def _open_audio(self, raw_name: str) -> None:
        """Open the clips. Raises :class:`UserError` if the raw set has none."""
        if not self.return_audio:
            return
        if "audio" not in self._raw.column_names:
            raise UserError(f"raw set {raw_name} has no column 'audio'; return_audio=false trains on text alone")
        from datasets import Audio

        # Undecoded: a broken clip must not fail the read; src/audio decodes.
        self._audio = self._raw.select_columns(["audio"]).cast_column("audio", Audio(decode=False))
        self._audio_roots = roots_of(self._raw)

    def _clip(self, index: int) -> Any:
        """Undecoded clip of a row; ``None`` without audio."""
        if self._audio is None:
            return None
        return stored_cell(self._audio[int(self._raw_rows[index])]["audio"], self._audio_roots)

    def __len__(self) -> int:
        return int(self.keys.size)

    def without_description(self) -> int:
        """Number of rows whose clip has no description in words (in responses, no question either)."""
        if self._about is None:
            return len(self)
        return int((text_sizes(self._source, self._source_rows, self._about) == 0).sum())

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every example, float32 ``(rows,)``, from durations and text sizes."""
        total = text_sizes(self._source, self._source_rows, self._target) / BYTES_PER_TOKEN
        seconds = self.seconds()
        if seconds is not None:
            # a duration may be null: such a clip counts as empty, while NaN has no place in an order by length
            total = total + np.nan_to_num(seconds) * TOKENS_PER_SECOND
        return total.astype(np.float32)

    def seconds(self) -> np.ndarray | None:
        """Length of every clip in seconds, float32 ``(rows,)``; None without audio, or if the raw set lacks it."""
        return durations(self._raw, self._raw_rows) if self.return_audio else None


class ResponseRows(StoredRows):
    """Examples of one response folder and split, read from memory-mapped files row by row."""

    def __init__(
        self,
        response_folder: str,
        mode: str = "WithContext",
        fraction: float = 1.0,
        random: bool = False,
        split: str = "train",
        return_audio: bool = True,
    ) -> None:
        """Open the sets, join them and choose the rows.

        Args:
            response_folder: name below ``responses/MODEL``, e.g. ``cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512``.
            mode: ``WithContext`` or ``NoContext``: which response is the target, and whether the context is kept.
            fraction: the first ``int(n * fraction)`` rows of the split, or with ``random`` as many drawn with seed 1.
            split: an index file's name, else one of the raw set's own splits.
            return_audio: false for the text-only control.

        Raises :class:`UserError` naming the set and the first bad keys if the sets do not fit together.
        """
        if mode not in CONTEXT_MODES:
            raise UserError(f"{response_folder}: context mode {mode!r}; known: {', '.join(CONTEXT_MODES)}")
        if not 0.0 < fraction <= 1.0:
            raise UserError(f"{response_folder}: fraction {fraction}, expected more than 0 and at most 1")
        name = ResponseName.parse(response_folder)
        self.name = response_folder
        self.split = split
        self.mode = mode
        self.return_audio = return_audio
        self.raw_name = _raw_name(name)
        indexes = find_split_indexes(self.raw_name, name, split)
        stored_split = split if indexes is None else "train"
        folder = responses_dir(name.model, response_folder)
        self._open_raw = partial(open_split, raw_dir(self.raw_name), stored_split, f"raw set of {self.name}")
        # Responses have the raw set's splits, or all rows in train.
        has_split = not folder.is_dir() or stored_split in native_splits(folder)
        response_split = stored_split if has_split else "train"
        self._open_responses = partial(open_split, folder, response_split, f"responses {self.name}")
        self._raw, self._source = self._open_raw(), self._open_responses()
        raw_keys = read_keys(self._raw, f"raw set {self.raw_name}")
        keys = self._without_failed(raw_keys) if indexes is None else indexes.keys
        asked_by = f"split {split!r} of {self.raw_name}" if indexes is None else str(indexes.path)
        self.keys = rows_of_split(keys, fraction, random)
        self._raw_rows = join_rows(raw_keys, self.keys, f"raw set {self.raw_name}", asked_by)
        self._source_rows = self._join_responses(asked_by)
        columns = self._source.column_names
        self._target = _TARGETS[mode]
        if self._target not in columns:
            raise UserError(f"responses {self.name} have no column {self._target!r}; they have {', '.join(columns)}")
        self._context = next((column for column in ("prompt", "context") if column in columns), None)
        self._about = next((column for column in ("audio_description", "question") if column in columns), None)
        finish = "finish_reason_no_context" if mode == "NoContext" else "finish_reason"
        self._finish = finish if finish in columns else None
        self._prompts, self._prompt_rows = self._open_prompts(asked_by)
        self._texts = self._source.select_columns(
            [column for column in (self._target, self._context, self._about, self._finish) if column is not None]
        )
        self._open_audio(self.raw_name)

    def _without_failed(self, raw_keys: np.ndarray) -> np.ndarray:
        """Keys without those whose response is marked as failed, which only split indexes would leave out."""
        status = "status_no_context" if self.mode == "NoContext" else "status"
        if status not in self._source.column_names:
            return raw_keys
        made = self._source.select_columns([status]).with_format("arrow")[:].column(status).to_pylist()
        keys = read_keys(self._source, f"responses {self.name}")
        failed = keys[np.array([each != "ok" for each in made], dtype=bool)]
        kept = raw_keys[~np.isin(raw_keys, failed)]
        if kept.size < raw_keys.size:
            lost = raw_keys.size - kept.size
            _log.info("%s, %s: %d of %d rows have no valid response", self.name, self.split, lost, raw_keys.size)
        if raw_keys.size and not kept.size:
            raise UserError(f"responses {self.name}: no row of split {self.split!r} has a response for {self.mode}")
        return kept

    def _join_responses(self, asked_by: str) -> np.ndarray:
        """Rows of the responses; both sets must describe the same clips."""
        name = f"responses {self.name}"
        rows = join_rows(read_keys(self._source, name), self.keys, name, asked_by)
        what = f"raw set {self.raw_name} and {name}"
        # Opened for the comparison only: it reads all texts, whose pages count as this process's memory as long as
        # the file is mapped.
        raw, responses = self._open_raw(), self._open_responses()
        for column in ("audio_description", "question"):
            check_same_text(raw, self._raw_rows, responses, rows, column, what)
        return rows

    def _open_prompts(self, asked_by: str) -> tuple[Any, np.ndarray | None]:
        """The prompt set and its rows, if the responses do not contain the prompt that they answer."""
        if self._context is not None or self.mode == "NoContext":
            return None, None
        prompts = open_split(prompts_dir(self.raw_name), "train", f"prompts of {self.name}")
        keys = read_keys(prompts, f"prompts of {self.raw_name}")
        rows = join_rows(keys, self.keys, f"prompts of {self.raw_name}", asked_by)
        return prompts.select_columns(["prompt"]), rows

    def __getitem__(self, index: int) -> ResponseRow:
        texts = self._texts[int(self._source_rows[index])]
        context = ""
        if self.mode == "WithContext":
            if self._prompts is not None and self._prompt_rows is not None:
                context = self._prompts[int(self._prompt_rows[index])]["prompt"]
            elif self._context is not None:
                context = texts[self._context]
        return ResponseRow(
            key=f"{self.raw_name}/{int(self.keys[index])}",
            audio=self._clip(index),
            context=context or "",
            audio_description=(texts[self._about] if self._about else "") or "",
            target=texts[self._target] or "",
            spoken_question=self._about == "question",
            cut=self._finish is not None and texts[self._finish] == "length",
        )


def durations(raw: Any, rows: np.ndarray) -> np.ndarray | None:
    """The column ``duration`` of a raw set on the rows, float32 ``(rows,)``; None if there is no such column."""
    if "duration" not in raw.column_names:
        return None
    stored = raw.select_columns(["duration"]).with_format("arrow")[:].column("duration").to_numpy()
    return stored[rows].astype(np.float32)


def rows_of_split(keys: np.ndarray, fraction: float, random: bool) -> np.ndarray:
    """The first ``int(n * fraction)`` of ``keys (n,)``, or with ``random`` as many drawn with seed 1."""
    limit = int(keys.size * fraction)
    if random:  # RandomState(1) as in the published code, so that the same rows are drawn
        keys = keys[np.sort(np.random.RandomState(1).permutation(keys.size)[:limit])]
    return keys[:limit]


def missing_folders(response_folder: str) -> list[Path]:
    """Folders of a response set that are not on this machine: its own and that of its raw set."""
    name = ResponseName.parse(response_folder)
    folders = [responses_dir(name.model, response_folder), raw_dir(_raw_name(name))]
    return [folder for folder in folders if not folder.is_dir()]


def _raw_name(name: ResponseName) -> str:
    """Name of the raw set's folder."""
    # _filtered is part of an instruction set's name; of a corpus it says that the responses were checked.
    filtered = f"{name.base}_filtered"
    return filtered if name.checked and raw_dir(filtered).is_dir() else name.base
