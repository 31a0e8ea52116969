"""Builds prompts from conversations, with each clip at the position that was used in training.

One clip in one turn gives the same token ids as ``ask.py`` and the runs over data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from src.inference.prompt_builder import PromptBuilder
from src.inference.types import Segment
from src.prompts import Prompts
from src.prompts.chat import Placeholders
from src.serving.schema import AssistantMessage, ChatRequest, Message, SystemMessage, TextPart, text_of


class Conversations:
    """Builds the prompts of one model; ``explicit_tags`` as in :class:`PromptBuilder`."""

    def __init__(self, tokenizer: Any, prompts: Prompts, explicit_tags: Sequence[bool]) -> None:
        self._system = prompts.generation_system
        self._builder = PromptBuilder(tokenizer, prompts, self._system, explicit_tags)

    def segments(self, messages: Sequence[Message], embeddings: Sequence[Sequence[Tensor]]) -> tuple[Segment, ...]:
        """The prompt; ``embeddings`` has, for each clip, a tensor ``(frames, llm_dim)`` from each audio embedder.

        Raises :class:`UserError` for a conversation that the chat template refuses.
        """
        placeholders = Placeholders()
        turns = [] if isinstance(messages[0], SystemMessage) else [("system", self._system)]
        for message in messages:
            if isinstance(message, SystemMessage):
                turns.append(("system", text_of(message.content)))
            elif isinstance(message, AssistantMessage):
                turns.append(("assistant", text_of(message.content)))
            else:
                turns.append(("user", _user_text(message.content, placeholders)))
        conversation = [{"role": role, "content": text} for role, text in turns if text or role != "system"]
        return self._builder.conversation(conversation, placeholders, embeddings)


def _user_text(parts: Sequence[Any], placeholders: Placeholders) -> str:
    """Texts and placeholders: a single clip comes first; several stand where they are written."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    # training only has one clip, before the text: clients that write it behind theirs get the same prompt
    if len(parts) - len(texts) <= 1:
        return (placeholders.next() if len(texts) < len(parts) else "") + "\n".join(texts)
    written, after_text = "", False
    for part in parts:
        is_text = isinstance(part, TextPart)
        written += ("\n" if after_text and is_text else "") + (part.text if is_text else placeholders.next())
        after_text = is_text
    return written


def clip_parts(chat: ChatRequest) -> list[tuple[str, Any]]:
    """The clips of a request in order, each with its place in the body."""
    return [
        (f"messages[{turn}].content[{place}]", part)
        for turn, message in enumerate(chat.messages)
        for place, part in enumerate(message.content or ())
        if not isinstance(part, TextPart)
    ]
