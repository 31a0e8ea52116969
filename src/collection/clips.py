"""AIR-Bench's clips as the published conversion rewrites them: mono, 16 kHz, the first 60 s."""

from __future__ import annotations

from pathlib import Path

from src.benchmarks.airbench import MOST_SECONDS, RATE

_MARGIN_SECONDS = 0.1
"""Kept past the end before resampling, so that the last samples are those of the whole clip."""


def rewrite_clip(source: Path, target: Path) -> None:
    """Write the clip as 16-bit WAV; a target that exists is left alone.

    Raises :class:`~src.common.errors.UserError` if the source cannot be decoded.
    """
    if target.is_file():
        return
    import soundfile
    from torchaudio.functional import resample

    from src.audio.waveform import load_waveform

    waveform = load_waveform(source)
    kept = int((MOST_SECONDS + _MARGIN_SECONDS) * waveform.sample_rate)
    samples = resample(waveform.mono[:kept], waveform.sample_rate, RATE)[: MOST_SECONDS * RATE]
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}")
    soundfile.write(fresh, samples.numpy(), RATE, format="WAV", subtype="PCM_16")
    fresh.replace(target)
