"""Conversations as token ids, with the places of the audio.

A conversation is rendered once by the model's own chat template, with a mark in the user's content where the audio
belongs, and split at the mark: nothing is assumed about headers, line ends, default system turns or the token at the
beginning. Training, runs, the server and ``ask.py`` all place audio here. No special tokens are added while
tokenising: the chat template has already written them.
"""

from __future__ import annotations

import re
import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from src.common.errors import UserError, error_text
from src.common.log import get_logger

log = get_logger(__name__)
_STAND_IN = "x"
"""Ordinary text in the place of every mark, for the render that a marked one is compared with."""


class ChatTokenizer(Protocol):
    """The methods of a Hugging Face tokenizer that are used here."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render a conversation by the model's own template."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Tokenise ``text``; the result has ``input_ids``."""


@dataclass(frozen=True)
class TurnIds:
    """Token ids of a conversation up to the audio in its user turn, and after it."""

    prefix_ids: list[int]
    suffix_ids: list[int]


class Placeholders:
    """Placeholders of one conversation, which no user can write by chance or on purpose."""

    def __init__(self) -> None:
        # private-use characters around a random name: neither texts nor templates contain them
        self._name = secrets.token_hex(12)
        self._count = 0

    def next(self) -> str:
        """Placeholder for the next clip."""
        self._count += 1
        return f"\ue000{self._name}{self._count - 1}\ue001"

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """Stretches of text, each with the number of the clip behind it; ``None`` behind the last."""
        found = re.split(self._pattern, text)
        return list(zip(found[::2], [*map(int, found[1::2]), None], strict=True))

    def replaced(self, text: str) -> str:
        """``text`` with an ordinary letter in the place of every mark."""
        return re.sub(self._pattern, _STAND_IN, text)

    def all_in(self, text: str) -> bool:
        """Whether ``text`` contains every placeholder once, in the order in which they were made."""
        return re.findall(self._pattern, text) == [str(number) for number in range(self._count)]

    @property
    def _pattern(self) -> str:
        return f"\ue000{self._name}([0-9]+)\ue001"


def text_ids(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Ids of ``text`` without special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


_BLANK_IN_FRONT: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def following_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of ``text`` as they are behind other text, although it is tokenised by itself."""
    # Tokenizers in the manner of SentencePiece (Llama 2, Mistral v0.3) put a blank in front of every text. Behind the
    # audio, or between two clips, it would be a token that the template does not write. Tokenised behind a special
    # token the text has none. https://github.com/google/sentencepiece/issues/305
    anchor = getattr(tokenizer, "bos_token", None) or getattr(tokenizer, "eos_token", None)
    if not anchor or not text:
        return text_ids(tokenizer, text)
    anchored = len(text_ids(tokenizer, anchor))
    if tokenizer not in _BLANK_IN_FRONT:
        alone, behind = text_ids(tokenizer, _STAND_IN), text_ids(tokenizer, anchor + _STAND_IN)[anchored:]
        _BLANK_IN_FRONT[tokenizer] = alone != behind
    return text_ids(tokenizer, anchor + text)[anchored:] if _BLANK_IN_FRONT[tokenizer] else text_ids(tokenizer, text)


def render_chat(tokenizer: ChatTokenizer, messages: Sequence[dict[str, str]], **options: Any) -> str:
    """A conversation and the assistant's header, as the model's own template writes them.

    For a template without a system role the system text begins the first user turn, an empty line behind it. Without
    a system message the template's default system turn stays, if it has one. ``options`` are variables of the
    template. Raises :class:`UserError` for a tokenizer without a template, and for conversations that the template
    refuses.
    """
    conversation = [dict(message) for message in messages]
    if conversation and conversation[0]["role"] == "system" and not has_system_role(tokenizer):
        system = conversation.pop(0)["content"]
        if first := next((message for message in conversation if message["role"] == "user"), None):
            first["content"] = f"{system}\n\n{first['content']}"
    return _render(tokenizer, conversation, **options)


def render_marked(
    tokenizer: ChatTokenizer, messages: Sequence[dict[str, str]], marks: Placeholders, **options: Any
) -> str:
    """As :func:`render_chat`, for messages with ``marks`` in their content.

    Raises :class:`UserError` unless every mark is there once and all the text around them is what the template writes
    around ordinary text: audio is never placed by guess.
    """
    rendered = render_chat(tokenizer, messages, **options)
    if not marks.all_in(rendered):
        raise UserError(
            "the chat template of the language model does not write the user's content once and as it is, so there "
            f"is no place for the audio; got {marks.replaced(rendered)[:120]!r}; use another language model"
        )
    plain = [{**message, "content": marks.replaced(message["content"])} for message in messages]
    if marks.replaced(rendered) != (expected := render_chat(tokenizer, plain, **options)):
        raise UserError(
            "the chat template of the language model writes other text around the audio than around words: "
            f"{marks.replaced(rendered)[:120]!r}, expected {expected[:120]!r}; use another language model"
        )
    return rendered


def split_turn(tokenizer: ChatTokenizer, content: str, system: str | None = None) -> tuple[str, str]:
    """Render system turn, user turn and the assistant's header; return the text before and behind the audio.

    The audio is the first thing in the user's content, so the first text ends with the user's header and the second
    begins with ``content``. Raises :class:`UserError` as :func:`render_marked` does.
    """
    marks = Placeholders()
    rendered = render_marked(tokenizer, _messages(system, marks.next() + content), marks)
    (start, _), (main, _) = marks.split(rendered)
    return start, main


def turn_ids(
    tokenizer: ChatTokenizer, content: str, explicit_tags: tuple[str, str] | None = None, system: str | None = None
) -> TurnIds:
    """Ids of a conversation of one user turn with audio.

    ``explicit_tags`` are the texts around the audio of checkpoints without learned separators: the first ends
    ``prefix_ids``, the second begins ``suffix_ids``.
    """
    start, main = split_turn(tokenizer, content, system)
    if explicit_tags is not None:
        start, main = start + explicit_tags[0], explicit_tags[1] + main
    return TurnIds(text_ids(tokenizer, start), following_ids(tokenizer, main))


def text_turn_ids(tokenizer: ChatTokenizer, content: str, system: str | None = None) -> TurnIds:
    """Ids of a conversation of one user turn without audio; ``prefix_ids`` may be empty."""
    rendered = render_chat(tokenizer, _messages(system, content))
    start, main = split_turn(tokenizer, content, system)
    # The published system tokenises the header by itself. Where it does not end with a line end, its last blank may
    # belong to the first word, so that both are tokenised together.
    if start.endswith("\n") and start + main == rendered:
        return TurnIds(text_ids(tokenizer, start), following_ids(tokenizer, main))
    return TurnIds([], text_ids(tokenizer, rendered))


def chat_ids(tokenizer: ChatTokenizer, system: str | None, content: str) -> list[int]:
    """Ids of a text-only conversation: system turn, user turn, the assistant's header."""
    turn = text_turn_ids(tokenizer, content, system)
    return [*turn.prefix_ids, *turn.suffix_ids]


# with the template: a user may replace it, and choose_reasoning() does
_SYSTEM_ROLES: weakref.WeakKeyDictionary[Any, tuple[Any, bool]] = weakref.WeakKeyDictionary()


def has_system_role(tokenizer: ChatTokenizer) -> bool:
    """Whether the template writes a system message; some refuse it, some leave it out. Logged once if not."""
    template = getattr(tokenizer, "chat_template", None)
    known = _SYSTEM_ROLES.get(tokenizer)
    if known is not None and known[0] == template:
        return known[1]
    marks = Placeholders()
    messages = _messages(marks.next(), marks.next())
    _render(tokenizer, messages[1:])  # a template that cannot be used at all raises its own error
    # Gemma 2's template raises on a system message (https://github.com/huggingface/chat-ui/issues/1386); others, as
    # Mistral's first, leave it out without an error
    try:
        found = marks.all_in(_render(tokenizer, messages))
    except UserError:
        found = False
    if not found:
        log.info("the chat template has no system role: system texts stand at the beginning of the user's turn")
    _SYSTEM_ROLES[tokenizer] = (template, found)
    return found


def check_chat_template(tokenizer: ChatTokenizer, llm: str) -> None:
    """Check that audio can be placed in the template of ``llm``. Raises :class:`UserError`."""
    try:
        split_turn(tokenizer, _STAND_IN)
    except UserError as error:
        raise UserError(f"LLM {llm!r}: {error}") from error


def _messages(system: str | None, content: str) -> list[dict[str, str]]:
    user = {"role": "user", "content": content}
    return [{"role": "system", "content": system}, user] if system else [user]


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """The token with which the model ends its turn, as its chat template writes it behind a response.

    It is the end-of-text token where the template writes none. Raises :class:`UserError` if there is neither.
    """
    marks = Placeholders()
    asked = [{"role": "user", "content": _STAND_IN}, {"role": "assistant", "content": marks.next()}]
    rendered = _render(tokenizer, asked, add_generation_prompt=False)
    special = {*getattr(tokenizer, "all_special_ids", ()), *getattr(tokenizer, "added_tokens_decoder", ())}
    if marks.all_in(rendered):
        # stripped: some templates write a blank or a line end before the token
        ids = text_ids(tokenizer, marks.split(rendered)[-1][0].strip())
        if ids and ids[0] in special:
            return ids[:1]
    if tokenizer.eos_token_id is None:
        raise UserError("the chat template writes no token behind a response, and the tokenizer has no eos_token")
    return [tokenizer.eos_token_id]


def _render(tokenizer: ChatTokenizer, conversation: list[dict[str, str]], **options: Any) -> str:
    # as text, not ids: it is split at the marks of the audio, and each stretch is tokenised by itself
    options = {"tokenize": False, "add_generation_prompt": True, **options}
    try:
        return str(tokenizer.apply_chat_template(conversation, **options))
    except Exception as error:  # templates raise exceptions of any type
        if not getattr(tokenizer, "chat_template", "unknown"):
            raise UserError(
                "the tokenizer has no chat template, expected an instruction-tuned model; take its instruct variant, "
                "or put the template into its folder as chat_template.jinja"
            ) from error
        reason = error_text(error, 200)
        raise UserError(f"the chat template of the language model refuses the conversation: {reason}") from error
