"""Clips of requests for vLLM: its media connector, which hands over what :mod:`src.serving.gate` has decoded.

Registered as ``alarm``; the environment variable ``VLLM_MEDIA_CONNECTOR`` selects it. Clients' URLs never reach it:
they are resolved, or refused, before. Importing this module imports vLLM.
"""

from __future__ import annotations

from typing import Any

from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from src.serving.clip_decoder import CLIPS

NAME = "alarm"


@MEDIA_CONNECTOR_REGISTRY.register(NAME)
class ClipConnector(MediaConnector):
    """Resolves only the URLs of :data:`src.serving.clip_decoder.CLIPS`; opens no file and no address."""

    def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """Samples and their rate. Raises :class:`ValueError`, which vLLM answers with 400, for any other URL."""
        clip = CLIPS.get(url)
        if clip is None:
            raise ValueError("clips are taken by /v1/chat/completions only, as input_audio or audio_url")
        # in place of media_io, vLLM's own decoder: the clip was decoded and checked in another process
        return clip.samples[0], clip.rate

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """As :meth:`load_from_url`."""
        return self.load_from_url(url, media_io)
