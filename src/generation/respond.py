"""Rows to requests: what the model hears or reads, in which order, around the user's text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from src.audio.each_clip import each_clip
from src.audio.waveform import AudioError, Waveform, load_waveform
from src.common.errors import UserError
from src.common.machine import check_host
from src.generation.ears import Ears
from src.generation.requests import Fault, Request, Segment
from src.prompts import Prompts
from src.prompts.chat import ChatTokenizer, chat_ids, text_ids, turn_ids
from src.prompts.layouts import ensemble_heading, ensemble_intro, ensemble_marks, self_generation_messages

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One row to be answered: the user's ``content``, and the ``audio`` in any form :func:`load_waveform` takes.

    ``seed`` as in :class:`Request`; an item with ``fault`` only carries the reason on.
    """

    key: str
    content: str = ""
    audio: Any = None
    description: str | None = None
    seed: int | None = None
    fault: Fault | None = None


class Turns:
    """Writes prompts for one system text: system turn, user's header, audio, user's text, assistant's header."""

    def __init__(
        self, tokenizer: ChatTokenizer, prompts: Prompts, system: str, explicit_tags: Sequence[bool] = (False,)
    ) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._system = system
        self._explicit = list(explicit_tags)

    def hearing(self, content: str, clips: Sequence[Tensor]) -> tuple[Segment, ...]:
        """The prompt of a clip as one or several front ends hear it; one tensor ``(frames, llm_dim)`` each."""
        if len(clips) == 1:
            tags = (self._prompts.description_open, self._prompts.description_close)
            turn = turn_ids(self._tokenizer, content, tags if self._explicit[0] else None, self._system)
            return turn.start, clips[0], turn.main
        *marks, around = ensemble_marks(self._prompts, self._explicit)
        turn, count = turn_ids(self._tokenizer, content, around if any(around) else None, self._system), len(clips)
        before = [*turn.start, *self._ids(ensemble_intro(self._prompts, count))]
        segments: list[Segment] = []
        for number, (clip, (opening, closing)) in enumerate(zip(clips, marks, strict=True), 1):
            before += self._ids(ensemble_heading(self._prompts, number, count) + opening)
            segments += [before, clip]
            before = self._ids(f"{closing}\n")
        return *segments, [*before, *turn.main]

    def reading(self, content: str, description: str) -> tuple[Segment, ...]:
        """The prompt in which a description stands for the audio, as the model's training targets were made."""
        system, user = self_generation_messages(self._prompts, description, content)
        return (chat_ids(self._tokenizer, system["content"], user["content"]),)

    def deaf(self, content: str) -> tuple[Segment, ...]:
        """The prompt without any audio."""
        return (chat_ids(self._tokenizer, self._system, content),)

    def _ids(self, text: str) -> list[int]:
        return text_ids(self._tokenizer, text)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def hearing_requests(
    batches: Iterable[Sequence[Item]], ears: Ears, turns: Turns, max_seconds: float = math.inf
) -> Iterator[Request]:
    """Encode the items' audio batch by batch and write their prompts; bad audio becomes a request with ``fault``.

    Clips beyond ``max_seconds`` are not even decoded: hours of audio in one file would fill the memory.
    """
    for batch in batches:
        good: list[tuple[Item, Waveform]] = []
        for item in batch:
            waveform, fault = _load(item, max_seconds)
            if waveform is None:
                yield Request(item.key, fault=fault)
            else:
                good.append((item, waveform))
        yield from _encode(good, ears, turns)


def text_requests(items: Iterable[Item], turns: Turns, read: bool) -> Iterator[Request]:
    """Prompts without audio: with the description in its place if ``read``, with nothing otherwise."""
    for item in items:
        if item.fault is not None:
            yield Request(item.key, fault=item.fault)
        elif read and not item.description:
            yield Request(item.key, fault=Fault("missing_text", "the row has no audio_description"))
        else:
            described, plain = partial(turns.reading, item.content), partial(turns.deaf, item.content)
            yield _request(item, partial(described, item.description or "") if read else plain)


def _request(item: Item, write: Callable[[], tuple[Segment, ...]]) -> Request:
    """The request of an item; a conversation that the chat template refuses costs its row alone."""
    try:
        return Request(item.key, write(), item.seed)
    except UserError as error:
        return Request(item.key, fault=Fault("bad_prompt", str(error)))


def _load(item: Item, max_seconds: float) -> tuple[Waveform | None, Fault | None]:
    if item.fault is not None:
        return None, item.fault
    if item.audio is None:
        return None, Fault("missing_audio", "the row has no audio")
    try:
        return load_waveform(item.audio, max_seconds=max_seconds), None
    except AudioError as error:
        check_host(error)
        return None, Fault(error.fault, str(error))
    except Exception as error:  # whatever a decoder raises costs this row alone
        check_host(error)
        return None, Fault("unreadable_audio", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _encode(good: Sequence[tuple[Item, Waveform]], ears: Ears, turns: Turns) -> Iterator[Request]:
    """Encode a batch and write its prompts. Raises :class:`MachineError` if the device is lost."""
    for item, clips in each_clip(ears.encode, good):
        if isinstance(clips, Exception):
            reason = f"audio cannot be encoded: {' '.join(str(clips).split())[:300]}"
            yield Request(item.key, fault=Fault("unencodable_audio", reason))
        else:
            yield _request(item, partial(turns.hearing, item.content, clips))
