"""Splits a streamed response into reasoning and answer."""

from __future__ import annotations

from typing import Literal

from src.prompts.reasoning import THINKING, Reasoning

ResponsePart = Literal["thoughts", "answer"]


class StreamSplitter:
    """Takes a response in pieces and returns them labelled as thoughts or answer.

    The marks of the model's format and the white space around both parts are left out. Text that may be the beginning
    of a mark, or white space at the end of a part, is held back until it is known.

    Some models close thoughts that neither they nor the header opened. The mark is left out; what has been given back
    as answer by then stays so, because it has been shown.
    """

    def __init__(self, reasoning: Reasoning = THINKING) -> None:
        self._format, self._inside = reasoning.format, reasoning.opened
        self._part: ResponsePart | None = None
        self._held = ""  # text that is not given back yet
        self._begun = False  # whether anything of the part has been given back
        self._thought = False  # whether any thoughts have been
        self._closed = not self._format.closing  # a later mark of that kind is text of the answer
        self._before_answer = bool(self._format.answer_opening)
        self._after_thoughts = self._ended = False

    def feed(self, text: str) -> list[tuple[ResponsePart, str]]:
        """Pieces that are final after ``text``: they cannot be part of a mark any more."""
        return self._take(text, ended=False)

    def end(self) -> list[tuple[ResponsePart, str]]:
        """The pieces held back so far, at the end of the response."""
        return self._take("", ended=True)

    def _take(self, text: str, ended: bool) -> list[tuple[ResponsePart, str]]:
        shown: list[tuple[ResponsePart, str]] = []
        if self._ended:
            return shown
        self._held += text
        if self._part is None and not self._open(ended):
            return shown
        while not self._ended and self._answer_begins(ended):
            marks = self._marks()
            found = [(place, mark) for mark in marks if (place := self._held.find(mark)) >= 0]
            if not found:
                held = max((_begun(self._held, mark) for mark in marks), default=0)
                self._show(shown, self._held, 0 if ended else held)
                return shown
            place, mark = min(found)  # the first in the text
            before, rest = self._held[:place], self._held[place + len(mark) :]
            if mark == self._format.answer_closing and self._part == "answer":
                self._show(shown, before, 0)
                self._ended = True
            elif mark != self._format.closing:  # a mark inside the thoughts
                self._held = f"{before.rstrip()}\n\n{rest.lstrip()}"
            elif self._part == "thoughts":
                self._show(shown, before.rstrip(), 0)
                self._thought |= self._begun
                self._part, self._begun, self._held, self._closed = "answer", False, rest, True
                self._after_thoughts = True
            else:
                self._held, self._closed = before + rest, True
        return shown

    def _open(self, ended: bool) -> bool:
        """Determine in which part the response begins; false while that is unknown."""
        body, form = self._held.lstrip(), self._format
        starts = [mark for mark in (form.opening, form.answer_opening) if mark]
        if not ended and any(mark.startswith(body) for mark in starts):
            return False
        opened, direct = (bool(mark) and body.startswith(mark) for mark in (form.opening, form.answer_opening))
        # thoughts that neither the response nor the header opened are seen only if their end is in the first piece
        closes = bool(form.closing) and form.closing in body
        thoughts = not direct and (opened or self._inside or closes)
        self._part = "thoughts" if thoughts else "answer"
        self._held = body.removeprefix(form.opening)
        self._closed = self._closed or direct
        return True

    def _answer_begins(self, ended: bool) -> bool:
        """Drop the mark in front of the answer, or go back to the thoughts; false while it is unknown which."""
        if self._after_thoughts:
            body, mark = self._held.lstrip(), self._format.opening
            if mark and body.startswith(mark):  # the model opens its thoughts again
                rest = body.removeprefix(mark).lstrip()
                self._part, self._begun = "thoughts", self._thought
                self._held = f"\n\n{rest}" if self._thought else rest
            elif not ended and mark.startswith(body):
                return False
            self._after_thoughts = False
        if self._part == "answer" and self._before_answer:
            body, mark = self._held.lstrip(), self._format.answer_opening
            if body.startswith(mark):
                self._held = body.removeprefix(mark)
            elif not ended and mark.startswith(body):
                return False
            self._before_answer = False
        return True

    def _marks(self) -> list[str]:
        form = self._format
        if self._part == "thoughts":
            return [mark for mark in (form.closing, *form.inner) if mark]
        return [mark for mark in ("" if self._closed else form.closing, form.answer_closing) if mark]

    def _show(self, shown: list[tuple[ResponsePart, str]], text: str, uncertain: int) -> None:
        """Show ``text`` but for its last ``uncertain`` characters and white space at its ends."""
        visible = text[: len(text) - uncertain].rstrip()
        self._held = text[len(visible) :]
        if not self._begun:
            visible = visible.lstrip()
        if visible and self._part is not None:
            self._begun = True
            shown.append((self._part, visible))


def _begun(text: str, mark: str) -> int:
    """Length of the end of ``text`` with which ``mark`` may begin."""
    lengths = range(min(len(text), len(mark)), 0, -1)
    return next((length for length in lengths if mark.startswith(text[-length:])), 0)
