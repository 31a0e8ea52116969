"""Word and character error rates of a transcript, and the normalisations of both texts before."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from src.common.errors import ConfigError


def letters(text: str) -> str:
    """Lower case, then only a to z and blanks stay: the published rule, for English."""
    return " ".join(re.sub("[^a-z ]", "", text.lower()).split())


def unicode_words(text: str) -> str:
    """For other languages: compatibility form (NFKC), case folded; letters, their marks and digits stay."""
    # an apostrophe inside a word goes, or "what's" would count as two words; everything else becomes a blank
    folded = re.sub(r"(?<=\w)['\u2019](?=\w)", "", unicodedata.normalize("NFKC", text).casefold())
    # marks (M) too: Devanagari and Thai write vowels with them
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return " ".join("".join(kept).split())


def as_it_is(text: str) -> str:
    """Nothing but white space is changed."""
    return " ".join(text.split())


NORMALISATIONS: Mapping[str, Callable[[str], str]] = {
    "letters": letters,
    "unicode": unicode_words,
    "none": as_it_is,
}


def find_normalisation(name: str) -> Callable[[str], str]:
    """A rule by its name. Raises :class:`ConfigError` for an unknown one."""
    if name not in NORMALISATIONS:
        raise ConfigError(f"unknown normalisation {name!r}; known: {', '.join(NORMALISATIONS)} (--normalisation)")
    return NORMALISATIONS[name]


def error_rates(reference: str, transcript: str) -> tuple[float, float]:
    """Word and character error rate of ``transcript`` against ``reference``, both normalised before.

    Errors are counted per word or character of the reference, so that a rate may pass 1. Raises :class:`ValueError`
    for an empty reference, to which no rate can be given.
    """
    import jiwer  # loads rapidfuzz; not needed for --help

    if not reference.strip():
        raise ValueError("the reference is empty, so there is nothing to count errors by")
    return float(jiwer.wer(reference, transcript)), float(jiwer.cer(reference, transcript))
