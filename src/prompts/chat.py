"""One conversation turn as token ids: what stands before the audio, and what stands behind it.

The rendered user turn is split at its first newline into *start* (``<|im_start|>user`` and the newline) and *main*
(content, end of turn, the assistant's header). Audio goes between the two. No special tokens are added while
tokenising: the chat template has already written them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from src.common.errors import UserError


class ChatTokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render a conversation by the model's own template."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Tokenise ``text``; the result has ``input_ids``."""


@dataclass(frozen=True)
class TurnIds:
    """Token ids of one user turn; the audio belongs between ``start`` and ``main``."""

    start: list[int]
    main: list[int]


def text_ids(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Ids of ``text`` as it stands, without special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def split_turn(tokenizer: ChatTokenizer, content: str) -> tuple[str, str]:
    """Render a user turn with the assistant's header; return the text up to the first newline (with it) and the rest.

    Raises :class:`UserError` if the template writes no newline.
    """
    turn = [{"role": "user", "content": content}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    start, newline, main = rendered.partition("\n")
    if not newline:
        raise UserError(
            "the tokenizer's chat template writes no newline behind the user's header, so there is no place for the "
            f"audio; got {rendered[:60]!r}; use a language model with a chat template like Qwen3's"
        )
    return start + newline, main


def turn_ids(tokenizer: ChatTokenizer, content: str, explicit_tags: tuple[str, str] | None = None) -> TurnIds:
    """Ids of a user turn.

    ``explicit_tags`` are the texts around the audio of checkpoints without learned separators: the first ends
    ``start``, the second begins ``main``.
    """
    start, main = split_turn(tokenizer, content)
    if explicit_tags is not None:
        start, main = start + explicit_tags[0], explicit_tags[1] + main
    return TurnIds(text_ids(tokenizer, start), text_ids(tokenizer, main))


def system_ids(tokenizer: ChatTokenizer, text: str | None) -> list[int]:
    """Ids of a system turn, rendered by the template alone; empty for no text."""
    if not text:
        return []
    rendered = tokenizer.apply_chat_template([{"role": "system", "content": text}], tokenize=False)
    return text_ids(tokenizer, rendered)


def chat_ids(tokenizer: ChatTokenizer, system: str | None, content: str) -> list[int]:
    """Ids of a text-only conversation: system turn, user turn, the assistant's header."""
    turn = turn_ids(tokenizer, content)
    return [*system_ids(tokenizer, system), *turn.start, *turn.main]


def opens_thoughts(tokenizer: ChatTokenizer) -> bool:
    """Whether the assistant's header already opens the thoughts, so that a response begins inside them."""
    return split_turn(tokenizer, "")[1].rstrip().endswith("<think>")
