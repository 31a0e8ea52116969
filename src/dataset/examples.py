"""Training examples: rows with decoded audio and tokenised text. A row that cannot be used is replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from src.audio.augment import Augmenter, Draw
from src.audio.waveform import Waveform, load_waveform
from src.common.errors import UserError
from src.common.log import get_logger
from src.dataset.mixture import Mixture, TargetsEnd
from src.dataset.response_rows import ResponseRow
from src.dataset.shard_set import BrokenRowError
from src.dataset.stream_order import PlannedStep
from src.prompts.chat import ChatTokenizer, chat_ids, end_of_turn_ids, text_ids, text_turn_ids, turn_ids
from src.prompts.given_answers import AnswerFrame
from src.prompts.messages import instruction_messages, self_generation_messages
from src.prompts.texts import Prompts

log = get_logger(__name__)
_TRIES = 20  # if every second row were unusable, one example in a million would still fail


@dataclass(frozen=True)
class Example:
    """One training example.

    ``start``, ``main`` and ``outputs`` are token ids: the conversation before and after the audio, and the target.
    ``replaced`` names the unusable rows that this one replaces. ``clip`` is a hash of the audio if clips are cached;
    a cached clip has no ``waveform``, and no clip has one in the text-only control. ``description`` has the ids of
    the conversation with the clip in words, if they are asked for and the row has any. ``draw`` are its effects.
    """

    key: str
    waveform: Waveform | None
    start: list[int]
    main: list[int]
    outputs: list[int]
    replaced: tuple[str, ...] = ()
    clip: str = ""
    description: list[int] = field(default_factory=list)
    draw: Draw = field(default_factory=list)


class ExampleDataset:
    """Map-style data set of :class:`Example`.

    A row whose audio cannot be decoded or whose target is empty is replaced by another row of the same set. The
    choice depends only on the bad row's key, so that every process and every resumed run makes the same one. A row
    of a shard is replaced by one of the same shard; a shard that cannot be fetched is an error.
    """

    def __init__(
        self,
        rows: Mixture,
        tokenizer: ChatTokenizer,
        explicit_tags: tuple[str, str] | None = None,
        audio: bool = True,
        answers: AnswerFrame | None = None,
        described_by: Prompts | None = None,
        augmenter: Augmenter | None = None,
        targets_end: TargetsEnd = "none",
    ) -> None:
        """``explicit_tags`` are the texts around the audio of models without learned separators.

        ``answers`` frames those rows whose answers were given; it is needed only where there are such rows. With a
        prompt set ``described_by``, examples have the conversation with the description, written with it. An
        ``augmenter`` changes the clips: a row number ``epoch * len + row`` asks for the row as this epoch has it.
        ``targets_end="end_of_turn"`` appends the language model's end-of-turn token to all other targets but those
        that were cut.
        Without ``audio`` (the text-only control) nothing is decoded and only rows without a target are replaced.
        """
        self.rows = rows
        self.tokenizer = tokenizer
        self.explicit_tags = explicit_tags
        self.audio = audio
        self.answers = answers
        self.augmenter = augmenter
        self.described_by = described_by
        self._ending = end_of_turn_ids(tokenizer) if targets_end == "end_of_turn" else []
        self.known_clips: Container[str] | None = None
        """Cached clips (hashes of their encoded audio), which need no decoding; ``None`` without a cache."""

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every row, float32 ``(rows,)``."""
        return self.rows.lengths()

    def __getitem__(self, index: int) -> Example:
        """The example at ``index``; raises :class:`UserError` if it and 19 replacements cannot be used."""
        replaced: list[str] = []
        reason = ""
        epoch, index = divmod(index, len(self.rows)) if self.augmenter is not None else (0, index)
        for attempt in range(_TRIES):
            key = ""
            try:
                row = self.rows[index]
                key = row.key
                return self._build(row, tuple(replaced), epoch)
            except UserError as error:
                if not key and not isinstance(error, BrokenRowError):
                    raise  # not of the row: its shard cannot be fetched
                key = key or getattr(error, "key", "")
                reason = str(error)
            log.warning("row %s is replaced: %s", key, reason)
            replaced.append(key)
            index = self.rows.replacement(index, attempt, key)
        raise UserError(f"{_TRIES} rows tried in place of {replaced[0]} cannot be used either; the last: {reason}")

    def __getitems__(self, steps: Sequence[Sequence[int]]) -> list[list[Example]]:
        """The examples of a step's micro-batches, as a ``DataLoader`` asks for them."""
        if isinstance(steps, PlannedStep) and steps.upcoming:
            self.rows.fetch_ahead(steps.upcoming)
        return [[self[index] for index in rows] for rows in steps]

    def _build(self, row: ResponseRow, replaced: tuple[str, ...], epoch: int = 0) -> Example:
        closing: list[int] = []
        if row.given:
            assert self.answers is not None
            closing, outputs = self.answers.ids(row.target)
        else:
            outputs = text_ids(self.tokenizer, row.target)
            # of a response that was cut the model must not learn to stop in the middle of a sentence
            outputs += self._ending if outputs and not row.cut else []
        if not outputs:
            raise UserError(f"{row.key} has an empty target")
        description = self._described(row, closing)
        if not self.audio or row.audio is None:
            opened, closed = self.explicit_tags or ("", "")
            described = f"{row.context}\n{opened}{row.audio_description}{closed}"
            turn = text_turn_ids(self.tokenizer, described, row.system)
            suffix = turn.suffix_ids + closing
            return Example(row.key, None, turn.prefix_ids, suffix, outputs, replaced, description=description)
        clip = "" if self.known_clips is None else _hash_audio(row.audio)
        known = self.known_clips is not None and clip in self.known_clips
        waveform = None if known else load_waveform(row.audio)
        draw: Draw = []
        if self.augmenter is not None and waveform is not None:
            draw = self.augmenter.draw(row.key, epoch)
            waveform = self.augmenter.apply(waveform, draw)
        turn = turn_ids(self.tokenizer, row.context, self.explicit_tags, row.system)
        suffix = turn.suffix_ids + closing
        return Example(row.key, waveform, turn.prefix_ids, suffix, outputs, replaced, clip, description, draw)

    def _described(self, row: ResponseRow, closing: list[int]) -> list[int]:
        """Ids of the conversation in which the LLM wrote the target: it reads the description, or the question."""
        if self.described_by is None or not row.audio_description:
            return []
        if row.spoken_question:
            messages = instruction_messages(row.audio_description, row.context or None)
        else:
            messages = self_generation_messages(self.described_by, row.audio_description, row.context)
        *system, user = (message["content"] for message in messages)
        return chat_ids(self.tokenizer, system[0] if system else None, user) + closing


def _hash_audio(audio: Mapping[str, Any]) -> str:
    """Name of a clip: hash of its encoded bytes, or of its path if it is stored in a file of its own."""
    content = audio.get("bytes")
    content = str(audio.get("path")).encode() if content is None else content
    return hashlib.blake2b(content, digest_size=12).hexdigest()  # 96 bits: enough for a billion clips


@dataclass(frozen=True)
class Batch:
    """Examples of one micro-batch; the trainer computes the features on the training device.

    ``waveforms`` is ``None`` for text-only batches and contains ``None`` for cached clips of ``clips``;
    ``num_targets`` counts target tokens before any truncation. ``descriptions`` are those of the examples.
    """

    keys: list[str]
    waveforms: list[Waveform | None] | None
    clips: list[str]
    starts: list[list[int]]
    mains: list[list[int]]
    outputs: list[list[int]]
    num_targets: int
    num_replaced: int = 0
    draws: list[Draw] = field(default_factory=list)
    descriptions: list[list[int]] = field(default_factory=list)

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
        draws=[example.draw for example in examples],
        descriptions=[example.description for example in examples],
    )


def collate_step(micro_batches: Sequence[Sequence[Example]]) -> list[Batch]:
    """The micro-batches of one optimizer step of one process."""
    return [collate(examples) for examples in micro_batches]


def _pack(waveforms: Sequence[Waveform | None]) -> list[Waveform | None]:
    """The clips in mono as views of one tensor."""
    # A data worker sends each tensor through a file descriptor of its own, and their number is limited:
    # https://docs.pytorch.org/docs/stable/multiprocessing.html

    known = [waveform for waveform in waveforms if waveform is not None]
    if not known:
        return list(waveforms)
    pieces = [waveform.mono for waveform in known]
    views = iter(torch.cat(pieces).split([piece.numel() for piece in pieces]))
    return [None if waveform is None else Waveform(next(views)[None], waveform.sample_rate) for waveform in waveforms]
