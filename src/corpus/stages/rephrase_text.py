"""A response on its way to the rewriter and back.

The rewriter is a reasoning LLM itself: a ``<think>`` block in its prompt would look like its own thoughts, and an
``<answer>`` block like its own result. Both get other names for the way there and their names back afterwards. What
the original had around its tags (blank lines, a missing tag, a reasoning that was cut) is remembered, not rewritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
INNER_ANSWER_TAG = "reply"
"""Name that an ``<answer>`` block inside the response bears while the rewriter sees it."""

RestoreStatus = Literal["ok", "no_answer", "unclosed_answer", "empty", "lost_reasoning", "lost_answer"]
"""Why a rewriting can be used or not.

``no_answer``: no ``<answer>``; ``unclosed_answer``: the result was cut; ``empty``: nothing inside the tags;
``lost_reasoning`` / ``lost_answer``: a part of the response is gone, or the tag between the parts.
"""


@dataclass(frozen=True)
class Prepared:
    """A response as the rewriter sees it (``text``), and what :func:`restore` needs to put back.

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


def prepare(response: str, reasoning_tag: str) -> Prepared:
    """Rename the tags of ``response`` and complete its reasoning block.

    An opening ``<think>`` that the chat template gave is written out, and a reasoning that was cut is closed: the
    result is ``<TAG>``, thoughts, ``</TAG>``, empty line, answer. If the text itself holds ``<TAG>``, the tag gets a
    number. Raises :class:`ValueError` for a blank response.
    """
    if not response.strip():
        raise ValueError("a blank response cannot be rewritten")
    opening = re.match(rf"\s*(?:{THINK_OPEN}\s*)?", response)
    assert opening is not None  # the pattern matches the empty string too
    thoughts, closed, answer = response[opening.end() :].partition(THINK_CLOSE)
    gap = thoughts[len(thoughts.rstrip()) :]
    thoughts = thoughts.rstrip()
    if closed:
        lead = answer[: len(answer) - len(answer.lstrip())]
        answer = answer.lstrip()
        trail = answer[len(answer.rstrip()) :]
        answer = answer.rstrip()
        closing = f"{gap}{THINK_CLOSE}{lead}"
    else:
        closing, trail = None, gap
    tag = _unused_name(reasoning_tag, response)
    inner = _unused_name(INNER_ANSWER_TAG, response)
    text = f"{THINK_OPEN}\n{thoughts}\n{THINK_CLOSE}" + (f"\n\n{answer}" if answer else "")
    text = _rename(_rename(text, "think", tag), "answer", inner)
    return Prepared(text, tag, inner, opening[0], closing, trail, bool(thoughts), bool(answer))


def restore(rewritten: str, prepared: Prepared) -> Restored:
    """The response inside the rewriter's output, with the tags and white space of the original.

    ``rewritten`` is all that the rewriter wrote, its thoughts included; the result stands between the last
    ``<answer>`` and the next ``</answer>``. Text that a rewriter adds behind a reasoning that had been cut is
    dropped: what was cut stays cut.
    """
    inside, status = extract_result(rewritten)
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


def extract_result(rewritten: str) -> tuple[str, RestoreStatus]:
    """Stripped text between the last ``<answer>`` and the next ``</answer>``, and ``ok`` or what is wrong.

    The rewriter's own thoughts, up to the first ``</think>``, do not count: they may quote the tags.
    """
    _, thought, after = rewritten.partition(THINK_CLOSE)
    # a first </think> inside the result is a renamed block that got its usual name back
    inside = ANSWER_OPEN not in after and ANSWER_CLOSE in after
    body = after if thought and not inside else rewritten
    _, opened, result = body.rpartition(ANSWER_OPEN)
    if not opened:
        return "", "no_answer"
    result, closed, _ = result.partition(ANSWER_CLOSE)
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
