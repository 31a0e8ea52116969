"""Conversations to prompts: every clip where the model learnt to hear it, earlier turns before the last.

One clip in one turn gives the prompt of ``ask.py`` and of the runs over data sets, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from src.generation.requests import Segment
from src.prompts import Prompts
from src.prompts.chat import Marks, render_marked, text_ids
from src.prompts.layouts import ensemble_heading, ensemble_intro, ensemble_marks
from src.serving.schema import AssistantMessage, ChatRequest, Message, SystemMessage, TextPart, text_of


class Conversations:
    """Writes the prompts of one model; ``explicit_tags`` as :class:`Ears` has them, one for each front end."""

    def __init__(self, tokenizer: Any, prompts: Prompts, explicit_tags: Sequence[bool]) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._explicit = list(explicit_tags)

    def segments(self, messages: Sequence[Message], heard: Sequence[Sequence[Tensor]]) -> tuple[Segment, ...]:
        """The prompt; ``heard`` has, clip by clip, a tensor ``(frames, llm_dim)`` for each front end.

        The conversation is rendered once by the model's own template, with marks where the clips belong. Raises
        :class:`UserError` for a conversation that the template refuses.
        """
        marks = Marks()
        turns = [] if isinstance(messages[0], SystemMessage) else [("system", self._prompts.generation_system)]
        for message in messages:
            if isinstance(message, SystemMessage):
                turns.append(("system", text_of(message.content)))
            elif isinstance(message, AssistantMessage):
                turns.append(("assistant", text_of(message.content)))
            else:
                turns.append(("user", self._user_turn(message.content, marks)))
        conversation = [{"role": role, "content": text} for role, text in turns if text or role != "system"]
        rendered = render_marked(self._tokenizer, conversation, marks)
        return self._around(rendered, marks, [front_end for clip in heard for front_end in clip])

    def _user_turn(self, parts: Sequence[Any], marks: Marks) -> str:
        """Texts and marks: the clip first if there is one, as in training; several where they stand."""
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        clips = len(parts) - len(texts)
        if clips == 0:
            return "\n".join(texts)
        if clips == 1:
            return self._clip(marks) + "\n".join(texts)
        written, after_text = "", False
        for part in parts:
            is_text = isinstance(part, TextPart)
            written += ("\n" if after_text and is_text else "") + (part.text if is_text else self._clip(marks))
            after_text = is_text
        return written

    def _clip(self, marks: Marks) -> str:
        """A clip as the front ends hear it, one after another; layout and texts are those of ``Turns``."""
        count = len(self._explicit)
        if count == 1:
            tags = (self._prompts.description_open, self._prompts.description_close)
            opening, closing = tags if self._explicit[0] else ("", "")
            return opening + marks.next() + closing
        *each, (first, last) = ensemble_marks(self._prompts, self._explicit)
        written = first + marks.cut + ensemble_intro(self._prompts, count)
        for number, (opening, closing) in enumerate(each, 1):
            heading = ensemble_heading(self._prompts, number, count)
            written += f"{marks.cut}{heading}{opening}{marks.next()}{closing}\n"
        return written + marks.cut + last

    def _around(self, rendered: str, marks: Marks, clips: Sequence[Tensor]) -> tuple[Segment, ...]:
        """The rendered text as ids, and the clips at their marks; nothing is tokenised across a mark."""
        segments: list[Segment] = []
        ids: list[int] = []
        for text, clip in marks.split(rendered):
            ids += text_ids(self._tokenizer, text) if text else []
            if clip is not None:
                segments += [ids, clips[clip]] if ids else [clips[clip]]
                ids = []
        return (*segments, ids) if ids else tuple(segments)


def clip_parts(chat: ChatRequest) -> list[tuple[str, Any]]:
    """The clips of a request in order, each with its place in the body."""
    return [
        (f"messages[{turn}].content[{place}]", part)
        for turn, message in enumerate(chat.messages)
        for place, part in enumerate(message.content or ())
        if not isinstance(part, TextPart)
    ]
