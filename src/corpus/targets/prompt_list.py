"""Parses the prompt writer's list and the prompt checker's verdicts in any usual layout."""

from __future__ import annotations

import json
import re
from typing import Any

from src.common.files import split_lines
from src.corpus.targets.rephrase_text import extract_result
from src.prompts.reasoning import THINK, ReasoningFormat

NO_LIST = "no_list"
# "1." "(2)" "**3:**" and full-width marks, but not "3.5 seconds": no digit follows
_NUMBER = re.compile(r"^(?P<indent>\s*)(?:[*_]{1,2})?\(?\d{1,3}[.):\]．、](?:[*_]{1,2})?(?!\d)\s*(?P<text>.*)$")
_BULLET = re.compile(r"^(?P<indent>\s*)[-*+•–—‣◦](?:\s+)(?P<text>.*)$")
_FENCE = re.compile(r"^```[^\n]*\n(.*?)\n?```$", re.DOTALL)
_VERDICT = re.compile(r"^\W*(\d{1,3})\b(.*)$")
_GOOD, _BAD = "good", "bad"
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "`": "`", "‘": "’", "「": "」"}


def read_prompt_list(written: str, form: ReasoningFormat = THINK) -> tuple[list[str], str]:
    """Prompts in the writer's output, each once, and ``ok`` or why there are none.

    The list stands between the last ``<answer>`` and the next ``</answer>``, after the writer's reasoning, if any. It
    may be numbered, bulleted, a JSON array (of strings, or of objects with one text each), a JSON object, or one
    prompt per line. Lines without a mark of their own continue the prompt above; text above the first mark is
    dropped.

    Statuses: ``ok``, ``no_list`` (nothing to read in the tags) and those of :func:`extract_result`.
    """
    inside, status = extract_result(written, form)
    if status != "ok":
        return [], status
    fenced = _FENCE.match(inside)
    inside = fenced[1].strip() if fenced else inside
    items = _from_json(inside)
    if items is None:
        items = _from_lines(inside)
    prompts = list(dict.fromkeys(text for item in items if re.search(r"\w", text := _bare(item))))
    return (prompts, "ok") if prompts else ([], NO_LIST)


def read_verdicts(written: str, count: int, form: ReasoningFormat = THINK) -> tuple[list[bool], str]:
    """Whether each of ``count`` prompts is good, from the checker's output, and ``ok`` or why it cannot be read.

    Every line between the answer tags begins with a number and ends with ``good`` or ``bad`` (any case). A prompt
    without a verdict is not good; ``no_list`` if there is no verdict at all.
    """
    inside, status = extract_result(written, form)
    if status != "ok":
        return [False] * count, status
    good, read = [False] * count, False
    for line in split_lines(inside):
        match = _VERDICT.match(line)
        words = re.findall(r"\w+", match[2]) if match else []
        # the last word: checkers often give a reason between number and verdict
        if match and words and words[-1].lower() in (_GOOD, _BAD) and 1 <= int(match[1]) <= count:
            good[int(match[1]) - 1] = words[-1].lower() == _GOOD
            read = True
    return good, "ok" if read else NO_LIST


def _from_json(text: str) -> list[str] | None:
    """Texts of a JSON array or object; None for anything else."""
    if not text.startswith(("[", "{")):
        return None
    try:
        data: Any = json.loads(text)
    except ValueError:
        return None
    while isinstance(data, dict) and len(data) == 1 and isinstance(next(iter(data.values())), list | dict):
        data = next(iter(data.values()))  # {"prompts": [...]}
    values = list(data.values()) if isinstance(data, dict) else data
    return [item for value in values if isinstance(item := _only_text(value), str)]


def _only_text(value: Any) -> Any:
    """The text of ``{"prompt": TEXT, ...}``, or of an object with a single text; the value itself otherwise."""
    if not isinstance(value, dict):
        return value
    texts = [text for text in value.values() if isinstance(text, str)]
    return value.get("prompt", texts[0] if len(texts) == 1 else None)


def _from_lines(text: str) -> list[str]:
    lines = split_lines(text)
    marked = next((pattern for line in lines for pattern in (_NUMBER, _BULLET) if pattern.match(line)), None)
    if marked is None:
        return lines
    items: list[list[str]] = []
    least = None
    for line in lines:
        match = marked.match(line)
        if match and least is None:
            least = len(match["indent"])
        if match and len(match["indent"]) <= (least or 0):  # deeper marks belong to the prompt above
            items.append([match["text"]])
        elif items:
            items[-1].append(line.strip())
    return ["\n".join(item) for item in items]


def _bare(item: str) -> str:
    """The item without white space, emphasis and quotes around it."""
    text = item.strip()
    for mark in ("**", "__"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 4 and mark not in text[2:-2]:
            text = text[2:-2].strip()
    close = _QUOTES.get(text[:1])
    if close and len(text) > 1 and text.endswith(close) and close not in text[1:-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
