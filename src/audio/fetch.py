"""Content of an http(s) address that the user gives, bounded in size and time; decoded as data like any other."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from src.audio.errors import AudioError, first_line

MOST_BYTES, MOST_SECONDS, WAIT_SECONDS = 1 << 30, 300.0, 20.0


def fetch(url: str) -> bytes:
    """The bytes at ``url``. Raises :class:`AudioError` if they cannot be had, or are too many."""
    until = time.monotonic() + MOST_SECONDS
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            while piece := answer.read(1 << 20):
                content += piece
                if len(content) > MOST_BYTES or time.monotonic() > until:
                    raise AudioError(
                        f"{url}: more than {MOST_BYTES >> 20} MiB or {MOST_SECONDS:g} s; not read", "too_long"
                    )
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise AudioError(
            f"{url}: cannot be read ({first_line(error)}); check the address", "missing_audio"
        ) from error
    return bytes(content)
