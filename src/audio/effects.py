"""Effects of augmentation on one clip in mono, by physical measures; :mod:`src.audio.augment` draws them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torchaudio.functional as F
from torch import Tensor

from src.audio.codecs import CODECS, encode
from src.audio.errors import AudioError, first_line
from src.audio.resample import resample
from src.audio.waveform import Waveform, load_waveform

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def speed(clip: Waveform, factor: float) -> Waveform:
    """``1 / factor`` as long, at the same rate; pitch and tempo change together."""
    # as if the samples had been taken at another rate; torchaudio's own function makes huge kernels for odd factors
    return Waveform(_at_rate(clip.samples, round(clip.sample_rate * factor), clip.sample_rate), clip.sample_rate)


def gain(clip: Waveform, db: float) -> Waveform:
    """Louder by ``db``; samples may exceed full scale, as nothing is clipped."""
    return Waveform(F.gain(clip.samples, db), clip.sample_rate)


def noise(
    clip: Waveform, snr: float, slope: float = 0.0, seed: int = 0, file: Path | None = None, start: float = 0.0
) -> Waveform:
    """Noise added at ``snr`` dB over the whole clip; none to silence.

    Args:
        slope: of noise that is made from ``seed``: its power falls as ``1 / frequency ** slope``.
        file: a recording instead, from the share ``start`` of its length on, repeated if it is short.
    """
    count = clip.samples.shape[-1]
    added = _colored(count, slope, seed) if file is None else _stretch(file, clip.sample_rate, count, start)
    if not bool(added.any()) or not bool(clip.samples.any()):
        return clip
    return Waveform(F.add_noise(clip.samples, added[None], torch.tensor([snr])), clip.sample_rate)


def reverb(
    clip: Waveform, seconds: float = 0.0, direct: float = 0.0, seed: int = 0, file: Path | None = None
) -> Waveform:
    """The clip in a room, as long and as loud as before.

    The room's response is noise that decays by 60 dB in ``seconds``, its energy ``direct`` dB below that of the
    direct sound, or the one in ``file`` from its peak on.
    """
    rate = clip.sample_rate
    if file is not None:
        measured = _at_rate(*_decoded(file), rate)[0]
        response = measured[int(measured.abs().argmax()) :]
    else:
        time = torch.arange(max(2, round(seconds * rate))) / rate
        # 60 dB are a factor of 1000 in amplitude
        response = torch.randn(len(time), generator=_generator(seed)) * 10 ** (-3 * time / seconds)
        response[0] = 0
        response *= 10 ** (-direct / 20) / response.norm().clamp(min=1e-12)
        response[0] = 1
    wet = F.fftconvolve(clip.samples, response[None])[:, : clip.samples.shape[-1]]
    return Waveform(wet * (clip.samples.norm() / wet.norm().clamp(min=1e-12)), rate)


def codec(clip: Waveform, name: str, kbps: int | None = None) -> Waveform:
    """Encoded and decoded again, at the codec's rate and as long as before; samples beyond full scale are clipped.

    Raises :class:`AudioError` for a clip that the codec does not take.
    """
    rate = CODECS[name].rate or (clip.sample_rate if clip.sample_rate in _MP3_RATES else 24000)
    samples = _at_rate(clip.samples, clip.sample_rate, rate)
    try:
        data = encode(samples[0].numpy(), rate, name, kbps)
    except (ValueError, OSError) as error:  # PyAV's errors are of both
        raise AudioError(f"{name} cannot encode the clip ({first_line(error)})") from error
    decoded = load_waveform(data)
    found = _at_rate(decoded.mono[None], decoded.sample_rate, rate)[:, : samples.shape[-1]]
    return Waveform(torch.nn.functional.pad(found, (0, samples.shape[-1] - found.shape[-1])), rate)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _colored(count: int, slope: float, seed: int) -> Tensor:
    white = torch.randn(count, generator=_generator(seed))
    if not slope or count < 2:
        return white
    spectrum = torch.fft.rfft(white)
    frequency = torch.arange(len(spectrum)).clamp(min=1)  # at 0 Hz the power would be infinite
    return torch.fft.irfft(spectrum * frequency ** (-slope / 2), n=count)


def _decoded(file: Path) -> tuple[Tensor, int]:
    found = load_waveform(file)
    return found.mono[None], found.sample_rate


def _stretch(file: Path, rate: int, count: int, start: float) -> Tensor:
    recording = _at_rate(*_decoded(file), rate)[0]
    first = int(start * max(0, recording.numel() - count))
    return recording.repeat(math.ceil((first + count) / recording.numel()))[first : first + count]


def _at_rate(samples: Tensor, old: int, new: int) -> Tensor:
    """``samples (1, n)`` at another rate."""
    if old == new:
        return samples
    return resample(samples, torch.tensor([samples.shape[-1]]), old, new)[0]
