"""Rows with their audio decoded and their text tokenised; a row that cannot be used is replaced, never fatal."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from src.audio.waveform import Waveform, load_waveform
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.seeds import row_seed
from src.dataset.response_rows import Row
from src.prompts.chat import ChatTokenizer, text_ids, text_turn_ids, turn_ids

log = get_logger(__name__)
_TRIES = 20


class Rows(Protocol):
    """A sequence of rows, such as a :class:`src.dataset.mixture.Mixture`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def lengths(self) -> np.ndarray: ...

    def first_rows(self, mode: str, count: int) -> list[int]: ...


@dataclass(frozen=True)
class Example:
    """One training example.

    ``start``, ``main`` and ``outputs`` are token ids: the conversation before and behind the audio, and the target.
    ``replaced`` names the unusable rows in whose place this one stands. ``clip`` is a hash of the audio where clips
    may be known already; a known clip has no ``waveform``, nor has any in the text-only control.
    """

    key: str
    waveform: Waveform | None
    start: list[int]
    main: list[int]
    outputs: list[int]
    replaced: tuple[str, ...] = ()
    clip: str = ""


class Examples:
    """Map-style data set of :class:`Example` over rows.

    A row whose audio cannot be decoded or whose target is empty is replaced by another row of the same set, chosen
    by the bad row's key alone, so that every process and every resumed run chooses the same.
    """

    def __init__(
        self, rows: Rows, tokenizer: ChatTokenizer, explicit_tags: tuple[str, str] | None = None, audio: bool = True
    ) -> None:
        """``explicit_tags`` are the texts around the audio of models without learned separators.

        Without ``audio`` (the text-only control) nothing is decoded and rows that have no target alone are replaced.
        """
        self.rows = rows
        self.tokenizer = tokenizer
        self.explicit_tags = explicit_tags
        self.audio = audio
        self.known_clips: Container[str] | None = None
        """Clips (hashes of their encoded audio) that need no decoding; ``None`` if nobody keeps them."""

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every row, float32 ``(rows,)``."""
        return self.rows.lengths()

    def __getitem__(self, index: int) -> Example:
        """The example at ``index``; raises :class:`UserError` if twenty rows in a row cannot be used."""
        replaced: list[str] = []
        reason = ""
        for attempt in range(_TRIES):
            row = self.rows[index]
            try:
                return self._build(row, tuple(replaced))
            except UserError as error:
                reason = str(error)
            log.warning("row %s is replaced: %s", row.key, reason)
            replaced.append(row.key)
            index = row_seed(attempt, row.key) % len(self.rows)
        raise UserError(f"{_TRIES} rows tried in place of {replaced[0]} cannot be used either; the last: {reason}")

    def __getitems__(self, steps: Sequence[Sequence[int]]) -> list[list[Example]]:
        """The examples of a step's micro-batches, as a ``DataLoader`` asks for them."""
        return [[self[index] for index in rows] for rows in steps]

    def _build(self, row: Row, replaced: tuple[str, ...]) -> Example:
        outputs = text_ids(self.tokenizer, row.target)
        if not outputs:
            raise UserError(f"{row.key} has an empty target")
        if not self.audio or row.audio is None:
            turn = text_turn_ids(self.tokenizer, self._describe(row))
            return Example(row.key, None, turn.start, turn.main, outputs, replaced)
        clip = "" if self.known_clips is None else _hash_audio(row.audio)
        known = self.known_clips is not None and clip in self.known_clips
        waveform = None if known else load_waveform(row.audio)
        turn = turn_ids(self.tokenizer, row.context, self.explicit_tags)
        return Example(row.key, waveform, turn.start, turn.main, outputs, replaced, clip)

    def _describe(self, row: Row) -> str:
        """Text-only control: the description stands on a line behind the prompt."""
        opened, closed = self.explicit_tags or ("", "")
        return f"{row.context}\n{opened}{row.audio_description}{closed}"


def _hash_audio(audio: Mapping[str, Any]) -> str:
    """Name of a clip by its encoded bytes, or by its path where it lies in a file of its own."""
    content = audio.get("bytes")
    return hashlib.blake2b(
        content if content is not None else str(audio.get("path")).encode(), digest_size=12
    ).hexdigest()


@dataclass(frozen=True)
class Batch:
    """Examples of one step, undisturbed by the trainer: features are computed from it on the training device.

    ``waveforms`` is ``None`` for text-only batches and holds ``None`` for a clip of ``clips`` that is known already;
    ``num_targets`` counts target tokens before any cut.
    """

    keys: list[str]
    waveforms: list[Waveform | None] | None
    clips: list[str]
    starts: list[list[int]]
    mains: list[list[int]]
    outputs: list[list[int]]
    num_targets: int
    num_replaced: int = 0

    def __len__(self) -> int:
        return len(self.keys)


def collate(examples: Sequence[Example]) -> Batch:
    """Examples -> :class:`Batch`. Raises :class:`UserError` if only some of them have audio."""
    silent = [example.key for example in examples if example.waveform is None and not example.clip]
    if silent and len(silent) != len(examples):
        raise UserError(f"a batch mixes rows with and without audio; {silent[0]} has none")
    return Batch(
        keys=[example.key for example in examples],
        waveforms=None if silent else _pack([example.waveform for example in examples]),
        clips=[example.clip for example in examples],
        starts=[example.start for example in examples],
        mains=[example.main for example in examples],
        outputs=[example.outputs for example in examples],
        num_targets=sum(len(example.outputs) for example in examples),
        num_replaced=sum(len(example.replaced) for example in examples),
    )


def collate_step(micro_batches: Sequence[Sequence[Example]]) -> list[Batch]:
    """The micro-batches of one optimizer step of one process."""
    return [collate(examples) for examples in micro_batches]


def _pack(waveforms: Sequence[Waveform | None]) -> list[Waveform | None]:
    """The clips in mono as views of one tensor: a worker hands a tensor over by an open file, and those are few."""
    known = [waveform for waveform in waveforms if waveform is not None]
    if not known:
        return list(waveforms)
    pieces = [waveform.mono for waveform in known]
    views = iter(torch.cat(pieces).split([piece.numel() for piece in pieces]))
    return [None if waveform is None else Waveform(next(views)[None], waveform.sample_rate) for waveform in waveforms]
