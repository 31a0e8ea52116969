"""Does a response betray that its author read a text instead of hearing a clip? Rules on words, from a prompt set."""

from __future__ import annotations

import functools
import re
from typing import Protocol


class BetrayingTexts(Protocol):
    """What is read of a prompt set."""

    @property
    def betraying_phrases(self) -> tuple[str, ...]:
        """Beginnings of betraying words, e.g. ``mention``."""


def betrays(text: str, prompts: BetrayingTexts) -> bool:
    """Whether ``text`` (thoughts, an answer, or both) holds any of the prompt set's betraying phrases."""
    pattern = _pattern(tuple(prompts.betraying_phrases))
    return pattern is not None and pattern.search(text) is not None


def betraying_phrases(text: str, prompts: BetrayingTexts) -> list[str]:
    """The phrases of the prompt set that ``text`` holds, each once, in the order of their first appearance.

    A phrase matches in any case, at the beginning of a word: ``mention`` finds ``mentioned``; with ``$`` at its end
    it matches whole words only (``the text$`` does not find ``the texture``). Between the words of a phrase, white
    space, quotes and emphasis marks may stand.
    """
    found: list[tuple[int, str]] = []
    for phrase in dict.fromkeys(prompts.betraying_phrases):
        pattern = _pattern((phrase,))
        match = pattern.search(text) if pattern is not None else None
        if match is not None:
            found.append((match.start(), phrase))
    return [phrase for _, phrase in sorted(found, key=lambda item: item[0])]


@functools.lru_cache(maxsize=256)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    alternatives = []
    for phrase in phrases:
        words = phrase.removesuffix("$").split()
        if words:
            joined = r"""[\s*_"'`]+""".join(map(re.escape, words))
            alternatives.append(joined + (r"(?!\w)" if phrase.endswith("$") else ""))
    # not \b: a phrase may begin with something that is no letter, such as a tag's bracket
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})", re.IGNORECASE) if alternatives else None
