"""Prompts as token ids and embeddings: of rows, with their clips encoded batch by batch, and of conversations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from src.audio.each_clip import each_clip
from src.audio.waveform import AudioError, Waveform, load_waveform
from src.common.errors import UserError, check_host, error_text, one_line
from src.inference.ensemble import EmbedderEnsemble
from src.inference.types import Request, RequestError, Segment
from src.prompts import Prompts
from src.prompts.chat import ChatTokenizer, Placeholders, chat_ids, following_ids, render_marked, text_ids
from src.prompts.messages import clip_layout, self_generation_messages

T = TypeVar("T")
NO_DESCRIPTION = RequestError("missing_text", "the row has no audio_description")


@dataclass(frozen=True)
class RowInput:
    """One row to be answered: the user's ``content``, and the ``audio`` in any form :func:`load_waveform` takes.

    ``seed`` as in :class:`Request`; a row with ``error`` only passes the reason on. ``options`` are texts to be
    scored as answers. ``change`` is applied to the decoded clip.
    """

    key: str
    content: str = ""
    audio: Any = None
    description: str | None = None
    seed: int | None = None
    error: RequestError | None = None
    change: Callable[[Waveform], Waveform] | None = None
    options: tuple[str, ...] = ()


class PromptBuilder:
    """Builds prompts of one system text: system turn, user's header, audio, user's text, assistant's header.

    ``explicit_tags`` says, for each audio embedder, whether the tags around the audio are text instead of learned
    embeddings.
    """

    def __init__(
        self, tokenizer: ChatTokenizer, prompts: Prompts, system: str, explicit_tags: Sequence[bool] = (False,)
    ) -> None:
        self._tokenizer, self._prompts, self._system = tokenizer, prompts, system
        self._around, self._inside = clip_layout(prompts, explicit_tags)

    def with_audio(self, content: str, embeddings: Sequence[Tensor]) -> tuple[Segment, ...]:
        """Prompt of one clip; ``embeddings`` has a tensor ``(frames, llm_dim)`` from each audio embedder."""
        placeholders = Placeholders()
        system = [{"role": "system", "content": self._system}] if self._system else []
        return self.conversation(
            [*system, {"role": "user", "content": placeholders.next() + content}], placeholders, [embeddings]
        )

    def with_description(self, content: str, description: str) -> tuple[Segment, ...]:
        """Prompt with a description in place of the audio, as the model's training targets were made."""
        system, user = self_generation_messages(self._prompts, description, content)
        return (chat_ids(self._tokenizer, system["content"], user["content"]),)

    def text_only(self, content: str) -> tuple[Segment, ...]:
        """Prompt without audio."""
        return (chat_ids(self._tokenizer, self._system or None, content),)

    def conversation(
        self, messages: Sequence[dict[str, str]], placeholders: Placeholders, clips: Sequence[Sequence[Tensor]]
    ) -> tuple[Segment, ...]:
        """Prompt of a conversation with ``placeholders`` for the clips; embeddings as in :meth:`with_audio`.

        Text is never tokenised across a clip, nor across the texts between the embeddings of an ensemble. Raises
        :class:`UserError` for a conversation that the chat template refuses.
        """
        segments: list[Segment] = []
        ids: list[int] = []
        closing = ""
        for text, clip in placeholders.split(render_marked(self._tokenizer, messages, placeholders)):
            opening = self._around[0] if clip is not None else ""
            ids += (following_ids if segments else text_ids)(self._tokenizer, closing + text + opening)
            if clip is None:
                break  # the text after the last clip
            # an ensemble has texts between the embeddings of its checkpoints; `None` stands for the embeddings
            embeddings = iter(clips[clip])
            for inside in self._inside:
                if inside is None:
                    segments += [ids, next(embeddings)] if ids else [next(embeddings)]
                    ids = []
                else:
                    ids += following_ids(self._tokenizer, inside)
            closing = self._around[1]
        return (*segments, ids) if ids else tuple(segments)

    def option_ids(self, row: RowInput) -> tuple[list[int], ...]:
        """Token ids of a row's options."""
        return tuple(text_ids(self._tokenizer, option) for option in row.options)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def audio_requests(
    batches: Iterable[Sequence[RowInput]],
    ensemble: EmbedderEnsemble,
    builder: PromptBuilder,
    max_seconds: float = math.inf,
) -> Iterator[Request]:
    """Encode the rows' audio batch by batch and build their prompts; bad audio becomes a request with ``error``.

    Clips beyond ``max_seconds`` are not even decoded: hours of audio in one file would fill the memory. Raises
    :class:`MachineError` if the device or the disk fails.
    """
    for batch in batches:
        decoded: list[tuple[RowInput, Waveform]] = []
        for row in batch:
            waveform = decode_row(row, max_seconds)
            if isinstance(waveform, RequestError):
                yield Request(row.key, error=waveform)
            else:
                decoded.append((row, waveform))
        for row, embeddings in each_clip(ensemble.encode, decoded):  # one by one, if the batch fails together
            if isinstance(embeddings, Exception):
                reason = f"audio cannot be encoded: {error_text(embeddings)}"
                yield Request(row.key, error=RequestError("unencodable_audio", reason))
                continue
            try:
                segments = builder.with_audio(row.content, embeddings)
                yield Request(row.key, segments, row.seed, options=builder.option_ids(row))
            except UserError as error:  # a conversation that the chat template refuses costs its row only
                yield Request(row.key, error=RequestError("bad_prompt", str(error)))


def text_requests(rows: Iterable[RowInput], builder: PromptBuilder, read: bool) -> Iterator[Request]:
    """Prompts without audio: with the description in its place if ``read``, with nothing otherwise."""
    for row in rows:
        if row.error is not None:
            yield Request(row.key, error=row.error)
        elif read and not row.description:
            yield Request(row.key, error=NO_DESCRIPTION)
        else:
            text = row.description if read else None
            try:
                segments = builder.with_description(row.content, text) if text else builder.text_only(row.content)
                yield Request(row.key, segments, row.seed, options=builder.option_ids(row))
            except UserError as error:
                yield Request(row.key, error=RequestError("bad_prompt", str(error)))


def decode_row(row: RowInput, max_seconds: float = math.inf) -> Waveform | RequestError:
    """The row's clip, changed as the row says, or why there is none. Raises :class:`MachineError` as above."""
    if row.error is not None:
        return row.error
    if row.audio is None:
        return RequestError("missing_audio", "the row has no audio")
    try:
        waveform = load_waveform(row.audio, max_seconds=max_seconds)
        return waveform if row.change is None else row.change(waveform)
    except AudioError as error:
        check_host(error)
        return RequestError(error.fault, str(error))
    except Exception as error:  # decoders raise any type; it costs this row only
        check_host(error)
        return RequestError("unreadable_audio", f"{one_line(error)}")
