"""Tokens of a response as streamed text: reasoning apart from the answer, which ends at stop texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from src.prompts.reasoning import THINKING, Reasoning
from src.prompts.stream_splitter import ResponsePart, StreamSplitter

REPLACEMENT = "\ufffd"
"""Written by tokenizers for bytes that are no character yet."""


class TextStream:
    """Decodes tokens as they come; a character with missing tokens is held back."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0

    def feed(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that ``ids`` add."""
        # some tokenizers decode a token by what stands before it: those shown last are decoded again with new ones
        # (https://github.com/huggingface/tokenizers/issues/1666)
        self._ids += ids
        before = self._decode(self._ids[: self._shown])
        text = self._decode(self._ids)
        if len(text) <= len(before) or (text.endswith(REPLACEMENT) and not last):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False) if ids else ""


class ResponseStream:
    """Splits a response into reasoning and answer while it is written.

    ``hidden`` tokens are left out of its text. The answer ends before the first of ``stops`` in it; ``stopped`` is
    then true. ``sent`` is for the caller: whether the first piece has been sent.
    """

    def __init__(
        self, tokenizer: Any, hidden: Collection[int], reasoning: Reasoning = THINKING, stops: Sequence[str] = ()
    ) -> None:
        self._hidden = hidden
        self._text = TextStream(tokenizer)
        self._parts = StreamSplitter(reasoning)
        self._stops = stops
        self._held = ""
        self._shown: dict[ResponsePart, list[str]] = {"thoughts": [], "answer": []}
        self.stopped = self.sent = False

    @property
    def thoughts(self) -> str:
        """The reasoning so far."""
        return "".join(self._shown["thoughts"])

    @property
    def answer(self) -> str:
        """The answer so far."""
        return "".join(self._shown["answer"])

    def feed(self, ids: Sequence[int]) -> list[tuple[ResponsePart, str]]:
        """Pieces that are certain once ``ids`` are written; nothing after a stop text."""
        return self._show(self._parts.feed(self._text.feed(self._visible(ids))))

    def end(self, ids: Sequence[int] = ()) -> list[tuple[ResponsePart, str]]:
        """Pieces of the last tokens, and the text that was held back."""
        pieces = [*self._parts.feed(self._text.feed(self._visible(ids), last=True)), *self._parts.end()]
        shown = self._show(pieces)
        if self._held and not self.stopped:
            shown.append(("answer", self._held))
            self._shown["answer"].append(self._held)
            self._held = ""
        return shown

    def _visible(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token not in self._hidden]

    def _show(self, pieces: Sequence[tuple[ResponsePart, str]]) -> list[tuple[ResponsePart, str]]:
        shown: list[tuple[ResponsePart, str]] = []
        for part, text in pieces:
            visible = self._before_stop(text) if part == "answer" and self._stops else text
            if visible:
                shown.append((part, visible))
                self._shown[part].append(visible)
        return shown

    def _before_stop(self, text: str) -> str:
        """The part of the answer that certainly does not belong to a stop text; the rest is held back."""
        if self.stopped:
            return ""
        text, self._held = self._held + text, ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        held = max(_begun(text, stop) for stop in self._stops)  # it may be the beginning of a stop text
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def thought_tokens(ids: Sequence[int], close: Sequence[int]) -> int:
    """Number of tokens up to the end of the thoughts; all if they do not end. ``close`` are the mark's own tokens."""
    for place in range(len(ids) - len(close) + 1):
        if list(ids[place : place + len(close)]) == list(close):
            return place + len(close)
    return len(ids)


def _begun(text: str, stop: str) -> int:
    """Length of the end of ``text`` with which ``stop`` may begin."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if stop.startswith(text[-length:])), 0)
