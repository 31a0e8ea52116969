"""Augmentation of clips: speed, reverberation, noise, gain and codecs, drawn by a seed of the clip's own.

A draw (:meth:`Augmenter.draw`) depends on configuration, seed and key only, neither on workers nor on the order of
rows, and is recorded as it is applied: JSON with the values of every effect. torchaudio and FFmpeg compute them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from src.audio.codecs import CODECS, missing_encoders
from src.common.errors import ConfigError
from src.common.seeds import row_seed

if TYPE_CHECKING:
    from src.audio.waveform import Waveform

Draw = list[dict[str, Any]]
"""Effects of one clip in the order in which they are applied: ``effect`` and its values."""
_COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Slope of a noise's power: 1 / frequency ** slope."""
_AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a")


def _check_range(name: str, values: Sequence[float], low: float, high: float) -> None:
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"{name} is {list(values)}, expected [least, most] between {low:g} and {high:g}")


def _check_choices(name: str, values: Sequence[str], known: Mapping[str, Any]) -> None:
    wrong = [value for value in values if value not in known]
    if wrong or not values:
        raise ValueError(f"{name}: got {', '.join(wrong) or 'nothing'}, expected some of {', '.join(known)}")


@cache
def _recordings(folder: str) -> tuple[Path, ...]:
    return tuple(sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in _AUDIO))


def _between(rng: random.Random, values: Sequence[float], digits: int = 2) -> float:
    return round(rng.uniform(*values), digits)


def _file(rng: random.Random, folder: str) -> str:
    return str(rng.choice(_recordings(folder)).relative_to(Path(folder).expanduser()))


@dataclass(frozen=True)
class SpeedEffect:
    """Faster or slower, pitch included: ``factor`` 1.1 makes the clip 1 / 1.1 as long."""

    factor: list[float] = field(default_factory=lambda: [0.9, 1.1])
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("factor", self.factor, 0.25, 4.0)

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Values of :func:`src.audio.effects.speed`."""
        return {"factor": _between(rng, self.factor)}


@dataclass(frozen=True)
class ReverbEffect:
    """A room: ``seconds`` until the echo has decayed by 60 dB, ``direct`` sound to echo in dB.

    With ``files``, a folder, measured impulse responses are taken instead.
    """

    seconds: list[float] = field(default_factory=lambda: [0.2, 0.8])
    direct: list[float] = field(default_factory=lambda: [0.0, 10.0])
    files: str | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("seconds", self.seconds, 0.01, 10.0)
        _check_range("direct", self.direct, -30.0, 60.0)

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Values of :func:`src.audio.effects.reverb`."""
        if self.files is not None:
            return {"file": _file(rng, self.files)}
        values = {"seconds": _between(rng, self.seconds), "direct": _between(rng, self.direct)}
        return {**values, "seed": rng.getrandbits(31)}


@dataclass(frozen=True)
class NoiseEffect:
    """Noise at a signal-to-noise ratio of ``snr`` dB over the whole clip, of one of the ``colors``.

    With ``files``, a folder of recordings, one of them is added instead, and repeated if it is short.
    """

    snr: list[float] = field(default_factory=lambda: [5.0, 20.0])
    colors: list[str] = field(default_factory=lambda: ["white", "pink"])
    files: str | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("snr", self.snr, -60.0, 120.0)
        _check_choices("colors", self.colors, _COLORS)

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Values of :func:`src.audio.effects.noise`."""
        snr = _between(rng, self.snr)
        if self.files is not None:
            return {"snr": snr, "file": _file(rng, self.files), "start": round(rng.random(), 4)}
        return {"snr": snr, "slope": _COLORS[rng.choice(self.colors)], "seed": rng.getrandbits(31)}


@dataclass(frozen=True)
class GainEffect:
    """Louder or softer by so many ``db``."""

    db: list[float] = field(default_factory=lambda: [-6.0, 6.0])
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("db", self.db, -120.0, 60.0)

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Values of :func:`src.audio.effects.gain`."""
        return {"db": _between(rng, self.db)}


@dataclass(frozen=True)
class CodecEffect:
    """Encoded and decoded by one of the ``names`` (:data:`CODECS`) at ``kbps``, which not all of them have."""

    names: list[str] = field(default_factory=lambda: ["mp3", "opus", "mulaw"])
    kbps: list[float] = field(default_factory=lambda: [16.0, 64.0])
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_choices("names", self.names, CODECS)
        _check_range("kbps", self.kbps, 6.0, 320.0)

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Values of :func:`src.audio.effects.codec`."""
        name = rng.choice(self.names)
        # as many kbps for every octave: 16 to 32 is as likely as 32 to 64
        kbps = math.exp(rng.uniform(*map(math.log, self.kbps)))
        return {"name": name, **({"kbps": round(kbps)} if CODECS[name].has_bit_rate else {})}


@dataclass(frozen=True)
class AugmentConfig:
    """Which effects, in this order, and the share of clips that get any; ``src/configs/augment`` has examples."""

    speed: SpeedEffect | None = None
    reverb: ReverbEffect | None = None
    noise: NoiseEffect | None = None
    gain: GainEffect | None = None
    codec: CodecEffect | None = None
    probability: float = 1.0

    order: ClassVar[tuple[str, ...]] = ("speed", "reverb", "noise", "gain", "codec")

    def __post_init__(self) -> None:
        for name in ("", *self.order):
            share = getattr(self if not name else getattr(self, name), "probability", 1.0)
            if not 0 <= share <= 1:
                raise ValueError(f"{name and name + '.'}probability is {share}, expected 0 to 1")
        for name in ("reverb", "noise"):
            files = getattr(getattr(self, name), "files", None)
            if files is not None and not _recordings(files):
                raise ValueError(f"{name}.files: no recordings ({', '.join(_AUDIO)}) in {files}")

    @property
    def active(self) -> bool:
        """Whether any clip is changed."""
        return self.probability > 0 and any(getattr(self, name) is not None for name in self.order)

    def digest(self) -> str:
        """Short name of these settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


class Augmenter:
    """Draws and applies the effects of a configuration: the same seed and key give equal samples everywhere."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        """Raises :class:`ConfigError` for a codec that this machine's FFmpeg cannot encode."""
        self.config, self.seed = config, seed
        if config.codec is not None and (missing := missing_encoders(config.codec.names)):
            raise ConfigError(f"augment.codec.names: PyAV's FFmpeg has no encoder of {', '.join(missing)}")

    def draw(self, key: str, epoch: int = 0) -> Draw:
        """The effects of one clip, seeded by the row's ``key`` and the ``epoch``."""
        config = self.config
        rng = random.Random(row_seed(self.seed, f"augment/{epoch}/{key}"))
        if rng.random() >= config.probability:
            return []
        drawn = []
        for name in config.order:
            effect = getattr(config, name)
            # as many draws with and without the effect, so that leaving one out does not change the others
            own = random.Random(rng.getrandbits(64))
            if effect is not None and own.random() < effect.probability:
                drawn.append({"effect": name, **effect.draw(own)})
        return drawn

    def change(self, key: str, waveform: Waveform) -> Waveform:
        """The clip of this row with the effects that are drawn for it."""
        return self.apply(waveform, self.draw(key))

    def apply(self, waveform: Waveform, draw: Draw) -> Waveform:
        """The clip in mono, changed as drawn; unchanged without effects. Raises :class:`AudioError` for bad files."""
        from src.audio import effects
        from src.audio.waveform import Waveform

        if not draw:
            return waveform
        changed = Waveform(waveform.mono[None], waveform.sample_rate)
        for values in draw:
            own = {name: value for name, value in values.items() if name != "effect"}
            if "file" in own:
                own["file"] = Path(getattr(self.config, values["effect"]).files).expanduser() / own["file"]
            changed = getattr(effects, values["effect"])(changed, **own)
        return changed
