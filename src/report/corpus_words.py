"""Words marked in a sentence."""

from __future__ import annotations

import re

from markupsafe import Markup, escape


def mark_words(text: str, words: str) -> Markup:
    """Text for HTML with the places that hold these words, in any case and with anything between them, marked."""
    pattern = r"\W+".join(map(re.escape, words.split()))
    if not pattern:
        return escape(text)
    parts = re.split(rf"(?<!\w)({pattern})", text, flags=re.IGNORECASE)
    marked = (Markup("<mark>{}</mark>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts))
    return Markup("").join(marked)
