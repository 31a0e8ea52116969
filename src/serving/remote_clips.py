"""Clips at http(s) addresses, for servers that allow them: named hosts, no redirects, bounded in size and time."""

from __future__ import annotations

import asyncio
from base64 import b64encode

from src.serving.clips import remote_host
from src.serving.config import Limits
from src.serving.errors import ApiError
from src.serving.schema import AudioUrlPart, ClipPart, Url


async def fetched(part: ClipPart, limits: Limits, where: str) -> ClipPart:
    """The part with its content as a ``data:`` URL, if it is an address on a host that may be read from.

    Raises :class:`ApiError` for any other address, and for content that cannot be had.
    """
    host = remote_host(part.audio_url.url) if isinstance(part, AudioUrlPart) else None
    if host is None or not isinstance(part, AudioUrlPart):
        return part
    if host not in limits.remote_hosts:
        allowed = ", ".join(limits.remote_hosts) or "none; send the clip as a data: URL or as input_audio"
        raise ApiError(
            400, f"{where}: addresses on {host[:100]!r} are not read; hosts allowed: {allowed}", "bad_url", where
        )
    try:
        async with asyncio.timeout(limits.remote_seconds):
            content = await _read(part.audio_url.url, limits.body_bytes)
    except TimeoutError:
        raise ApiError(400, f"{where}: not read within {limits.remote_seconds:g} s", "bad_url", where) from None
    except ApiError as error:
        raise ApiError(error.status, f"{where}: {error.message}", error.code, where) from None
    return AudioUrlPart(type="audio_url", audio_url=Url(url=f"data:audio/x;base64,{b64encode(content).decode()}"))


async def _read(url: str, most: int) -> bytes:
    import httpx

    content = bytearray()
    try:
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False) as client,
            client.stream("GET", url) as got,
        ):
            if got.status_code != 200:
                raise ApiError(400, f"the address answers {got.status_code}", "bad_url")
            async for chunk in got.aiter_bytes():
                content += chunk
                if len(content) > most:
                    raise ApiError(400, f"more than {most} bytes", "bad_url")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ApiError(400, f"cannot be read ({type(error).__name__})", "bad_url") from None
    return bytes(content)
