"""Text leaks: words which show that the author of a response read about a clip instead of listening to it.

The rules are ``betraying_phrases`` of a prompt set. A rule is a phrase: words with blanks between them, found in any
case, each as a whole word but the last, which may go on (``mention`` finds ``mentioned``; ``the text$`` does not find
``the texture``). White space, quotes and emphasis marks may stand between words. More than plain words:

- ``a|b`` is one word of several, and ``~`` up to two words that may stand there or not;
- ``@voice = speaker|singer`` names words; ``@voice`` stands for them in the rules below it;
- ``!`` before a phrase makes it innocent: what it matches is no leak, whatever other rules say.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from src.prompts.texts import Prompts

# models quote and emphasise: the *transcript*, "description"
_BETWEEN = r"""[\s*_"'`“”‘’]+"""
# as few words as possible: otherwise a leak would also cover the start of the next one
_GAP = rf"(?:{_BETWEEN}[\w'’-]+){{0,2}}?"


class LeakSpan(NamedTuple):
    """A leak at ``text[start:end]``: the rule, and the words in lower case."""

    start: int
    end: int
    phrase: str
    words: str


def leaks_text_source(text: str, prompts: Prompts) -> bool:
    """Whether ``text`` (thoughts, an answer, or both) has a leak by any rule of the prompt set."""
    return next(_spans(text, prompts), None) is not None


def leak_spans(text: str, prompts: Prompts) -> list[LeakSpan]:
    """All leaks in order; they do not overlap."""
    return list(_spans(text, prompts))


def _spans(text: str, prompts: Prompts) -> Iterator[LeakSpan]:
    pattern, rules = _pattern(tuple(prompts.betraying_phrases))
    if pattern is None:
        return
    for match in pattern.finditer(_lower(text)):
        if match.lastindex is not None:  # innocent phrases have no group
            words = re.sub(_BETWEEN, " ", match[0])
            yield LeakSpan(match.start(), match.end(), rules[match.lastindex - 1], words)


def _lower(text: str) -> str:
    """Text in lower case, as long as before."""
    lower = text.lower()
    # "İ" becomes two characters, which would move the places of all that follows: such letters stay as they are
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


@functools.lru_cache(maxsize=64)
def _pattern(phrases: tuple[str, ...]) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    """One pattern for all rules in lower case; the n-th group belongs to the n-th of the rules that it comes with.

    Of rules that begin with the same letter innocent ones are tried first.
    """
    # Rules are grouped by their first letters, so that the search skips everything else: several times as fast as
    # one alternative after the other.
    names: dict[str, str] = {}
    innocent: dict[str, list[str]] = {}
    leaking: dict[str, list[tuple[str, str]]] = {}
    for phrase in phrases:
        name, defined, words = phrase.partition("=")
        if phrase.startswith("@") and defined:
            names[name.strip()] = _expand(words.strip(), names)
            continue
        for first, rest in _sources(phrase.removeprefix("!"), names):
            if phrase.startswith("!"):
                innocent.setdefault(first, []).append(rest)
            else:
                leaking.setdefault(first, []).append((rest, phrase))
    # not \b: a phrase may begin with something that is no letter, such as a tag's bracket
    order = list(dict.fromkeys([*innocent, *leaking]))
    parts = [
        rf"{re.escape(first)}(?<!\w{re.escape(first)})(?:"
        + "|".join([*innocent.get(first, ()), *(f"({rest})" for rest, _ in leaking.get(first, ()))])
        + ")"
        for first in order
    ]
    rules = tuple(phrase for first in order for _, phrase in leaking.get(first, ()))
    return (re.compile("|".join(parts)) if rules else None), rules


def _sources(phrase: str, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every letter that a phrase may begin with, and the source of a pattern, without groups, for what follows.

    Raises ValueError for a phrase that begins with a gap.
    """
    words = phrase.lower().removesuffix("$").split()
    if not words:
        return
    if words[0] == "~":
        raise ValueError(f"betraying_phrases: {phrase!r} begins with '~', which stands between words")
    parts = []
    for word in words[1:]:
        if word == "~":
            parts.append(_GAP)
            continue
        choices = "|".join(map(re.escape, _expand(word, names).split("|")))
        parts.append(_BETWEEN + (f"(?:{choices})" if "|" in choices else choices))
    tail = "".join(parts) + (r"(?!\w)" if phrase.endswith("$") else r"\w*")
    by_letter: dict[str, list[str]] = {}
    for choice in _expand(words[0], names).split("|"):
        by_letter.setdefault(choice[0], []).append(re.escape(choice[1:]))
    for letter, rests in by_letter.items():
        yield letter, (rests[0] if len(rests) == 1 else f"(?:{'|'.join(rests)})") + tail


def _expand(word: str, names: dict[str, str]) -> str:
    """Words with the named ones written out. Raises ValueError for a name that no rule before it gives."""
    choices = word.lower().split("|")
    unknown = [each for each in choices if each.startswith("@") and each not in names]
    if unknown:
        raise ValueError(f"betraying_phrases: {unknown[0]} is not defined above; write '{unknown[0]} = word|word'")
    return "|".join(names.get(each, each) for each in choices)
