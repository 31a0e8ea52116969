"""Encodes samples by the codecs of FFmpeg that augmentation offers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AudioCodec:
    """FFmpeg's names of an encoder and a container, the rate of its audio in Hz (``None``: any), and its bit rate."""

    encoder: str
    container: str
    rate: int | None = None
    has_bit_rate: bool = False


CODECS = {
    "mp3": AudioCodec("libmp3lame", "mp3", has_bit_rate=True),
    "opus": AudioCodec("libopus", "ogg", 48000, has_bit_rate=True),
    "mulaw": AudioCodec("pcm_mulaw", "wav", 8000),
    "alaw": AudioCodec("pcm_alaw", "wav", 8000),
    "g722": AudioCodec("g722", "wav", 16000),
    "amr": AudioCodec("libopencore_amrnb", "amr", 8000),
}


def missing_encoders(names: Iterable[str]) -> list[str]:
    """Those of the codecs that this machine's FFmpeg cannot encode."""
    from av.codec import codecs_available

    return [name for name in names if CODECS[name].encoder not in codecs_available]


def encode(samples: np.ndarray, rate: int, name: str, kbps: int | None = None) -> bytes:
    """A file of ``samples (n,)``, clipped at full scale. Raises PyAV's errors where the codec does not take them."""
    import av

    codec, buffer = CODECS[name], io.BytesIO()
    with av.open(buffer, "w", format=codec.container) as output:
        stream: Any = output.add_stream(codec.encoder, rate=rate, layout="mono")
        if kbps is not None and codec.has_bit_rate:
            stream.bit_rate = kbps * 1000
        steps = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(steps, format="s16", layout="mono")
        frame.sample_rate = rate
        # only for the sample format and frames of the size that the encoder takes
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()
