"""Decodes the clips of a request to one channel, with bounds on size, time and memory. Needs no PyTorch."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from src.audio.budget import Allowance
from src.audio.decode import decode as decode_audio
from src.audio.errors import AudioError, NoSamples
from src.audio.stream import CLIENT_CODECS, CLIENT_FORMATS, DecodeLimits
from src.common.errors import error_text
from src.serving.config import Limits

RATES = (4_000, 192_000)
"""Accepted sample rates in Hz."""
MAX_CHANNELS = 32
WORK_SECONDS = 20.0
"""Time limit for decoding one clip."""
AUDIO_TYPES = ("application/octet-stream", "application/ogg")
"""Types of ``data:`` URLs besides ``audio/…``."""

REQUEST_TOO_LONG = "request_too_long"
"""Code of the error for clips that are too long together."""


class ApiError(Exception):
    """A refused request: HTTP ``status``, the reason as ``message``, a short ``code``, and the ``param`` at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        # all of them, as it crosses processes: an exception is unpickled by calling its class with its `args`
        super().__init__(status, message, code, param, headers)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """Body of the response, in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class DecodedClip:
    """Samples ``(1, n)`` float32 at ``rate`` samples per second."""

    samples: Any
    rate: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1]) / self.rate


CLIPS: dict[str, DecodedClip] = {}
"""Clips of the requests that are being answered, by the URL that stands for each in what vLLM gets."""


def decode(
    encoded: bytes, limits: Limits, declared: str | None = None, allowance: Allowance | None = None
) -> DecodedClip:
    """Decode a WAV, MP3, FLAC or Ogg file to one channel; ``allowance`` is shared by the clips of a request.

    Raises :class:`ApiError` (400) for another format than ``declared``, and for audio that is empty, unreadable, too
    long or not finite.
    """
    bounds = DecodeLimits(
        seconds=limits.clip_seconds,
        samples=limits.samples,
        file_bytes=limits.body_bytes,
        work_seconds=WORK_SECONDS,
        rates=RATES,
        channels=MAX_CHANNELS,
        formats=CLIENT_FORMATS,
        codecs=CLIENT_CODECS,
        request=allowance,
    )
    try:
        found = decode_audio(encoded, "audio", bounds, mono=True)
    except NoSamples:
        raise ApiError(400, "audio contains no samples (0 s)", "empty_audio") from None
    except AudioError as error:
        if allowance is not None and allowance.exhausted:
            raise ApiError(400, str(error), REQUEST_TOO_LONG) from None
        codes = {"too_long": "audio_too_long", "empty_audio": "empty_audio"}
        raise ApiError(400, str(error), codes.get(error.fault, "bad_audio")) from None
    except Exception as error:  # noqa: BLE001 - any error of a decoder on a hostile file fails only its own request
        reason = error_text(error, 160)
        message = f"cannot be read as audio ({reason}); check that the file is complete"
        raise ApiError(400, message, "bad_audio") from None
    if declared not in (None, found.container):
        reason = f"format is {declared!r}, but the bytes are those of a {found.container} file"
        raise ApiError(400, reason, "bad_audio")
    return DecodedClip(np.ascontiguousarray(found.samples), found.rate)


def read_base64(text: bytes) -> bytes:
    """Decode base64; line breaks and blanks in it are ignored. Raises :class:`ApiError` for anything incomplete."""
    if text[:5].lower() == b"data:":
        reason = "is a data: URL; send only what follows its comma, or the URL itself as audio_url"
        raise ApiError(400, reason, "bad_base64")
    try:
        # without `validate` every other character is left out too, and a broken text becomes other bytes
        found = base64.b64decode(text.translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"broken base64 ({error}); it may have been cut", "bad_base64") from None
    if not found:
        raise ApiError(400, "contains no bytes", "empty_audio")
    return found


def read_url(url: bytes, limits: Limits) -> bytes:
    """Content of a URL ``data:audio/...;base64,...``, or of an http(s) address on one of ``limits.remote_hosts``.

    Raises :class:`ApiError` for any other URL, and for content that cannot be read.
    """
    head, comma, payload = url[:300].partition(b",")
    scheme, _, rest = head.decode("utf-8", "replace").partition(":")
    if scheme.lower() in ("http", "https"):
        return fetch(url.decode("utf-8", "replace"), limits)
    if scheme.lower() != "data":
        shown = url[:60].decode("utf-8", "replace")
        raise ApiError(400, f"{shown!r} is not a data: URL; this server reads no files or addresses", "bad_url")
    kind, *settings = rest.lower().split(";")
    if not comma or "base64" not in settings:
        raise ApiError(400, "a data: URL must look like data:audio/wav;base64,...", "bad_url")
    if kind and not kind.startswith("audio/") and kind not in AUDIO_TYPES:
        raise ApiError(400, f"a data: URL of type {kind[:60]!r}, expected audio/...", "bad_url")
    return read_base64(url[len(head) + 1 :])


def fetch(url: str, limits: Limits) -> bytes:
    """Read an allowed address.

    Raises :class:`ApiError` for a host that is not allowed, and for content that does not arrive or is too large.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError as error:
        raise ApiError(400, f"{url[:60]!r} is not a valid address ({error})", "bad_url") from None
    if host not in limits.remote_hosts:
        allowed = ", ".join(limits.remote_hosts) or "none; send the clip as a data: URL or as input_audio"
        raise ApiError(400, f"addresses on {host[:100]!r} are not read; hosts allowed: {allowed}", "bad_url")
    import httpx

    # httpx's own timeout bounds each read, and a server that sends a byte now and then would never meet it
    content, until = bytearray(), time.monotonic() + limits.remote_seconds
    try:
        # no redirects: their target could be on any host; no proxy that this server's environment names
        with (
            httpx.Client(follow_redirects=False, trust_env=False, timeout=limits.remote_seconds) as client,
            client.stream("GET", url) as got,
        ):
            if got.status_code != 200:
                raise ApiError(400, f"the address answers {got.status_code}", "bad_url")
            for chunk in got.iter_bytes(1 << 16):
                content += chunk
                if len(content) > limits.body_bytes or time.monotonic() > until:
                    bounds = f"{limits.body_mib:g} MiB and {limits.remote_seconds:g} s"
                    raise ApiError(400, f"the file is beyond the limits of {bounds}", "bad_url")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ApiError(400, f"cannot be read ({type(error).__name__})", "bad_url") from None
    return bytes(content)
