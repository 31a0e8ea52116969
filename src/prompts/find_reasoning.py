"""Finds how a language model reasons: by its chat template, unless the user has named a format."""

from __future__ import annotations

import re
import weakref
from contextlib import suppress
from itertools import product
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.prompts.chat import ChatTokenizer, render_chat, split_turn, text_ids
from src.prompts.reasoning import FORMATS, Reasoning, ReasoningFormat, find_format

log = get_logger(__name__)
_ASKED = [{"role": "user", "content": "x"}]
_SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates switch the reasoning: Qwen3, SmolLM3, GLM; Granite, DeepSeek-V3.1.

There is no standard for their names; Qwen3's: https://qwen.readthedocs.io/en/stable/getting_started/quickstart.html
"""
_TAG = re.compile(r"(<\|?|\[|◁)([A-Za-z][\w:.-]*)(\|?>|\]|▷)")
_ABOUT_REASONING = re.compile(r"think|thought|reason", re.IGNORECASE)
_ENDS = {"begin": "end", "BEGIN": "END", "start": "end", "START": "END"}
_FOUND: weakref.WeakKeyDictionary[Any, tuple[Any, Reasoning]] = weakref.WeakKeyDictionary()
_CHOSEN: weakref.WeakKeyDictionary[Any, ReasoningFormat] = weakref.WeakKeyDictionary()


def find_reasoning(tokenizer: ChatTokenizer) -> Reasoning:
    """How responses are built: by the header, else by the texts and switches of the chat template.

    A model is expected to reason if its header opens the reasoning, its default system text asks for it, or a switch
    of its template can turn it off; with no switch, if its template knows the format at all. A header that closes the
    reasoning at once turns it off. Two tags about thoughts in the template that are no known format's are a format of
    their own (``<seed:think> </seed:think>``). The format is ``think`` where the template has none.
    """
    template = getattr(tokenizer, "chat_template", None)
    known = _FOUND.get(tokenizer)
    if known is None or known[0] != template:
        known = _FOUND[tokenizer] = (template, _find(tokenizer, str(template or "")))
    return known[1]


def choose_reasoning(tokenizer: Any, name: str | None) -> Any:
    """Use the format ``name`` in place of the one that the template shows; returns the tokenizer.

    The template's own switch is set, too: on, or off for ``none``. Raises :class:`UserError` for an unknown name.
    """
    if name is None:
        return tokenizer
    chosen = find_format(name)
    if isinstance(tokenizer.chat_template, str):
        value = "true" if chosen.closing else "false"
        # an expression behind the blocks, which would otherwise take a line end at the template's beginning with them
        switches = "".join(f"{{%- set {switch} = {value} %}}" for switch in _SWITCHES) + "{{- '' }}"
        tokenizer.chat_template = switches + tokenizer.chat_template
    _CHOSEN[tokenizer] = chosen
    _FOUND.pop(tokenizer, None)
    return tokenizer


def hidden_tokens(tokenizer: Any) -> set[int]:
    """Control tokens that are left out of a response's text; those of its reasoning format are not."""
    ids = {token for mark in find_reasoning(tokenizer).format.marks for token in text_ids(tokenizer, mark)}
    return set(getattr(tokenizer, "all_special_ids", ())) - (ids - {getattr(tokenizer, "unk_token_id", None)})


def _find(tokenizer: ChatTokenizer, template: str) -> Reasoning:
    header, chosen = split_turn(tokenizer, "")[1].rstrip(), _CHOSEN.get(tokenizer)
    if chosen is not None:
        opened = bool(chosen.opening) and header.endswith(chosen.opening)
        expected = bool(chosen.closing) and not header.endswith(chosen.closing)
        if not chosen.closing and header.endswith(tuple(form.opening for form in FORMATS.values() if form.opening)):
            log.warning("reasoning=%s: the chat template opens the reasoning all the same: %r", chosen.name, header)
        return Reasoning(chosen, opened, expected)
    formats = [form for form in FORMATS.values() if form.marks]
    known = [
        form for form in formats if form.opening in template and (form.answer_opening or form.closing) in template
    ]
    own = [] if known else _own_format(template, header)
    # what the header shows counts, also for a format whose texts are not in the template as they are
    for form in (*known, *(each for each in formats if not each.answer_opening), *own):
        if header.endswith(form.opening):
            return Reasoning(form, opened=True)
    known = known or own
    if not known:
        return Reasoning(expected=False)
    return Reasoning(known[0], expected=not header.endswith(known[0].closing) and _is_expected(tokenizer, known[0]))


def _own_format(template: str, header: str) -> list[ReasoningFormat]:
    """The format of the first two tags in a template that stand around reasoning; none if there are no such tags.

    An opening tag at the end of the ``header`` is enough.
    """
    for left, name, right in dict.fromkeys(_TAG.findall(template)):
        if not _ABOUT_REASONING.search(name):
            continue
        opening = f"{left}{name}{right}"
        # </seed:think>; <|END_THINKING|>, <|end_of_thought|>
        closings = [opening.replace(begin, end, 1) for begin, end in _ENDS.items() if begin in name]
        closings.append(f"{left}/{name}{right}")
        expected = closings[:1] if header.endswith(opening) else []
        for closing in [each for each in closings if each in template] or expected:
            return [find_format(f"{opening} {closing}")]
    return []


def _is_expected(tokenizer: ChatTokenizer, form: ReasoningFormat) -> bool:
    usual = render_chat(tokenizer, _ASKED)
    if form.opening in usual:
        return True
    changing = set()
    for switch, value in product(_SWITCHES, (True, False)):
        with suppress(UserError):  # a template may refuse a value: that changes nothing
            if render_chat(tokenizer, _ASKED, **{switch: value}) != usual:
                changing.add(value)
    return not changing or False in changing
