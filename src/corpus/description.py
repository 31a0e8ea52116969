"""The one format of every corpus's ``audio_description``: ``BODY (duration: Ns, key: value, ...)``.

Rounding, clock, order and escaping are those of the published corpora.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

SpeakerSegment = tuple[float, float, str]
"""Start and end in seconds, and the speaker's label."""


def clock(seconds: float) -> str:
    """``MM:SS`` of the rounded seconds (ties to even); minutes grow past 59, there is no hour field."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"


def describe_audio(
    duration: float,
    text: str | Sequence[str],
    text_type: Literal["speech", "caption"],
    metadata: Mapping[str, Any] | None = None,
    segments: Sequence[SpeakerSegment] = (),
    longest: bool = False,
) -> str:
    """Description of one clip.

    Args:
        duration: length of the clip in seconds; used when ``text`` is one string.
        text: speech or caption; with a list of texts, ``segments`` gives the time and speaker of each.
        text_type: ``caption`` puts every text between bars.
        metadata: printed after the duration in this order, keys in lower case, values by ``str``.
        segments: for a list of texts; the shorter of the two lists wins, and the end of the last used
            segment is printed as the duration.
        longest: print ``duration`` even with segments, where an earlier one may end after the last.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if text_type == "caption":
        texts = [f"|{item}|" for item in texts]
    if isinstance(text, str):
        body = f"[00:00-{clock(duration)}] {texts[0]}"
        seconds = round(duration)
    else:
        pairs = list(zip(texts, segments, strict=False))
        body = " ".join(f"[{clock(s)}-{clock(e)}, {label}] {item}" for item, (s, e, label) in pairs)
        seconds = round(duration) if longest else round(pairs[-1][1][1]) if pairs else 0
    comments = [f"duration: {seconds}s", *(f"{key.lower()}: {value}" for key, value in (metadata or {}).items())]
    return f"{body} ({', '.join(comments)})"
