"""Prepares a response for the rewriter and restores its format afterwards.

The rewriter is a reasoning LLM itself: a ``<think>`` block (or the marks of another format) in its prompt would look
like its own reasoning, and an ``<answer>`` block like its own result. Both are renamed in its prompt and renamed back
in its output. Whatever the original had around its tags (blank lines, a missing tag, reasoning that was cut) is
stored, not rewritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from src.prompts.reasoning import CLOSE_ANSWER, CLOSE_THOUGHTS, OPEN_ANSWER, OPEN_THOUGHTS, THINK, ReasoningFormat

INNER_ANSWER_TAG = "reply"
"""Name of an ``<answer>`` block inside the response while the rewriter sees it."""

RestoreStatus = Literal["ok", "no_answer", "unclosed_answer", "empty", "lost_reasoning", "lost_answer"]
"""Whether a rewriting can be used, or why not.

``no_answer``: no ``<answer>``; ``unclosed_answer``: the result was cut; ``empty``: nothing inside the tags;
``lost_reasoning`` / ``lost_answer``: a part of the response is gone, or the tag between the parts.
"""


@dataclass(frozen=True)
class Prepared:
    """A response as the rewriter sees it (``text``), and what :func:`restore` puts back.

    ``opening`` and ``closing`` are the original's opening and closing of the reasoning with the white space around
    them; ``closing`` is None for a reasoning that was cut. ``trail`` is the white space at the end.
    """

    text: str
    tag: str
    inner_tag: str
    opening: str
    closing: str | None
    trail: str
    has_thoughts: bool
    has_answer: bool


@dataclass(frozen=True)
class Restored:
    """A rewritten response in the original's format; empty unless ``status`` is ``ok``."""

    text: str
    status: RestoreStatus


def prepare(response: str, reasoning_tag: str, form: ReasoningFormat = THINK) -> Prepared:
    """Rename the tags of ``response`` and complete its reasoning block.

    ``form`` is the format of the response. An opening ``<think>`` that the chat template gave is written out, and a
    reasoning that was cut is closed: the result is ``<TAG>``, thoughts, ``</TAG>``, empty line, answer. If the text
    itself contains ``<TAG>``, the tag gets a number. Raises :class:`ValueError` for a blank response.
    """
    if not response.strip():
        raise ValueError("a blank response cannot be rewritten")
    opening = re.match(rf"\s*(?:{re.escape(form.opening)}\s*)?", response)
    assert opening is not None  # the pattern matches the empty string too
    thoughts, closed, answer = response[opening.end() :].partition(form.closing)
    for mark in form.inner:  # marks between parts of the reasoning mean nothing to another model
        thoughts = thoughts.replace(mark, "\n\n")
    gap = thoughts[len(thoughts.rstrip()) :]
    thoughts = thoughts.rstrip()
    if closed:
        inside = answer.lstrip().removeprefix(form.answer_opening).lstrip()
        closing = f"{gap}{form.closing}{answer[: len(answer) - len(inside)]}"
        answer = inside.rstrip().removesuffix(form.answer_closing).rstrip()
        trail = inside[len(answer) :]
    else:
        closing, trail = None, gap
    # the response may itself speak of such tags, and restoring must not rename those
    tag = _unused_name(reasoning_tag, response)
    inner = _unused_name(INNER_ANSWER_TAG, response)
    text = f"{OPEN_THOUGHTS}\n{thoughts}\n{CLOSE_THOUGHTS}" + (f"\n\n{answer}" if answer else "")
    text = _rename(_rename(text, "think", tag), "answer", inner)
    return Prepared(text, tag, inner, opening[0], closing, trail, bool(thoughts), bool(answer))


def restore(rewritten: str, prepared: Prepared, form: ReasoningFormat = THINK) -> Restored:
    """The response inside the rewriter's output, with the tags and white space of the original.

    ``rewritten`` is the rewriter's whole output with its reasoning; the result stands between the last
    ``<answer>`` and the next ``</answer>``. Text that a rewriter adds after reasoning that had been cut is
    dropped: what was cut stays cut.
    """
    inside, status = extract_result(rewritten, form)
    if status != "ok":
        return Restored("", status)
    # a rewriter that gives the tag its usual name means the same block
    inside = _rename(inside, "think", prepared.tag)
    inside = inside.removeprefix(f"<{prepared.tag}>")
    thoughts, closed, answer = inside.partition(f"</{prepared.tag}>")
    thoughts, answer = thoughts.strip(), answer.strip()
    if prepared.has_thoughts and not thoughts or prepared.closing is not None and not closed:
        return Restored("", "lost_reasoning")
    if prepared.has_answer and not answer:
        return Restored("", "lost_answer")
    if prepared.closing is None:
        text = f"{prepared.opening}{thoughts}{prepared.trail}"
    else:
        text = f"{prepared.opening}{thoughts}{prepared.closing}{answer}{prepared.trail}"
    return Restored(_rename(_rename(text, prepared.tag, "think"), prepared.inner_tag, "answer"), "ok")


def extract_result(rewritten: str, form: ReasoningFormat = THINK) -> tuple[str, RestoreStatus]:
    """Stripped text between the last ``<answer>`` and the next ``</answer>``, and ``ok`` or what is wrong.

    The rewriter's own reasoning, up to its first end by ``form``, does not count: it may quote the tags.
    """
    _, thought, after = rewritten.partition(form.closing) if form.closing else (rewritten, "", "")
    # a first </think> inside the result is a renamed block that got its usual name back
    inside = OPEN_ANSWER not in after and CLOSE_ANSWER in after
    body = after if thought and not inside else rewritten
    _, opened, result = body.rpartition(OPEN_ANSWER)
    if not opened:
        return "", "no_answer"
    result, closed, _ = result.partition(CLOSE_ANSWER)
    if not closed:
        return "", "unclosed_answer"
    result = result.strip()
    return result, "ok" if result else "empty"


def _rename(text: str, old: str, new: str) -> str:
    return text.replace(f"<{old}>", f"<{new}>").replace(f"</{old}>", f"</{new}>")


def _unused_name(tag: str, text: str) -> str:
    name, number = tag, 0
    while f"<{name}>" in text or f"</{name}>" in text:
        number += 1
        name = f"{tag}_{number}"
    return name
