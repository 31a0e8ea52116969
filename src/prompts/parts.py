"""Telling thoughts from answer while a response is still being written."""

from __future__ import annotations

from typing import Literal

from src.prompts.thoughts import CLOSE_THOUGHTS, OPEN_THOUGHTS

Part = Literal["thoughts", "answer"]


class PartSplitter:
    """Takes a response in pieces and gives them back marked as thoughts or answer.

    The think tags and the white space around both parts are left out. Text that may be the beginning of a tag, or
    white space at the end of a part, is held back until it is known. ``inside_thoughts`` as in ``split_response``.

    Some models close thoughts that neither they nor the header opened. The tag is left out; what has been given back
    as answer by then stays so, because it has been shown.
    """

    def __init__(self, inside_thoughts: bool) -> None:
        self._inside = inside_thoughts
        self._part: Part | None = None
        self._held = ""
        self._begun = False
        self._closed = False

    @property
    def answering(self) -> bool:
        """Whether the thoughts are over."""
        return self._part == "answer"

    def feed(self, text: str) -> list[tuple[Part, str]]:
        """What can be shown now that ``text`` has been written."""
        return self._take(text, ended=False)

    def end(self) -> list[tuple[Part, str]]:
        """What was held back and belongs to the response, which ends here."""
        return self._take("", ended=True)

    def _take(self, text: str, ended: bool) -> list[tuple[Part, str]]:
        self._held += text
        if self._part is None and not self._open(ended):
            return []
        shown: list[tuple[Part, str]] = []
        if self._part == "thoughts":
            thoughts, closed, rest = self._held.partition(CLOSE_THOUGHTS)
            if not closed:
                self._show(shown, thoughts, 0 if ended else _begun_tag(thoughts))
                return shown
            self._show(shown, thoughts.rstrip(), 0)
            self._part, self._begun, self._held, self._closed = "answer", False, rest, True
        if not self._closed:
            before, closed, rest = self._held.partition(CLOSE_THOUGHTS)
            if not closed:
                self._show(shown, before, 0 if ended else _begun_tag(before))
                return shown
            self._held, self._closed = before + rest, True
        self._show(shown, self._held, 0)
        return shown

    def _open(self, ended: bool) -> bool:
        """Settle in which part the response begins; false while that is unknown."""
        body = self._held.lstrip()
        if not ended and OPEN_THOUGHTS.startswith(body):
            return False
        opened = body.startswith(OPEN_THOUGHTS)
        self._part = "thoughts" if opened or self._inside or CLOSE_THOUGHTS in body else "answer"
        self._held = body.removeprefix(OPEN_THOUGHTS)
        return True

    def _show(self, shown: list[tuple[Part, str]], text: str, uncertain: int) -> None:
        """Show ``text`` but for its last ``uncertain`` characters and white space at its ends."""
        visible = text[: len(text) - uncertain].rstrip()
        self._held = text[len(visible) :]
        if not self._begun:
            visible = visible.lstrip()
        if visible and self._part is not None:
            self._begun = True
            shown.append((self._part, visible))


def _begun_tag(text: str) -> int:
    """Length of the end of ``text`` with which a closing tag may begin."""
    lengths = range(min(len(text), len(CLOSE_THOUGHTS)), 0, -1)
    return next((length for length in lengths if CLOSE_THOUGHTS.startswith(text[-length:])), 0)
