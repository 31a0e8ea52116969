"""A response's parts: the thoughts before ``</think>``, the answer behind it, the text inside answer tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

OPEN_THOUGHTS, CLOSE_THOUGHTS = "<think>", "</think>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"

ResponseStatus = Literal["answered", "unfinished_thoughts", "empty_answer"]


@dataclass(frozen=True)
class SplitResponse:
    """Thoughts and answer of a response, both stripped; the answer is empty while the thoughts are unfinished."""

    thoughts: str
    answer: str
    status: ResponseStatus

    def __iter__(self) -> Iterator[str]:
        """Unpack as ``thoughts, answer``."""
        return iter((self.thoughts, self.answer))


def split_response(text: str, inside_thoughts: bool = True) -> SplitResponse:
    """Split a response at its first ``</think>``.

    With ``inside_thoughts`` the response began inside the thoughts (the chat template wrote ``<think>``), so a text
    without ``</think>`` is all thoughts; otherwise such a text is all answer unless it opens the thoughts itself.
    """
    body = text.lstrip()
    opened = body.startswith(OPEN_THOUGHTS)
    before, closed, after = body.partition(CLOSE_THOUGHTS)
    if closed:
        thoughts, answer = before.removeprefix(OPEN_THOUGHTS).strip(), after.strip()
        return SplitResponse(thoughts, answer, "answered" if answer else "empty_answer")
    if opened or (inside_thoughts and body):
        return SplitResponse(body.removeprefix(OPEN_THOUGHTS).strip(), "", "unfinished_thoughts")
    return SplitResponse("", body.strip(), "answered" if body.strip() else "empty_answer")


def extract_answer(text: str) -> str:
    """Text after the last ``<answer>`` and before the next ``</answer>``, stripped; all of it without tags."""
    return text.rpartition(OPEN_ANSWER)[2].partition(CLOSE_ANSWER)[0].strip()
