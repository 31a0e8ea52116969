"""Audio embedders and engines that answer by a script, for tests that need no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from src.audio.waveform import Waveform
from src.inference.engine import Engine
from tests.generation.fakes import WIDTH, ScriptedBackend
from tests.prompts.fakes import CharTokenizer


class FakeEnsemble:
    """Hears ten frames a second, all with the loudest sample; clips louder than ``loudest`` break it."""

    explicit_tags = [False]

    def __init__(self, members: int = 1, loudest: float = 0.9) -> None:
        self.members, self.loudest = members, loudest
        self.explicit_tags = [False] * members
        self.batches: list[list[float]] = []

    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        """One tensor a member."""
        self.batches.append([clip.duration for clip in waveforms])
        if any(float(clip.samples.abs().max()) > self.loudest for clip in waveforms):
            raise RuntimeError("too loud")
        return [
            [torch.full((max(1, round(clip.duration * 10)), WIDTH), float(clip.samples.max()))] * self.members
            for clip in waveforms
        ]


class SlowBackend(ScriptedBackend):
    """Takes a while for each token; fails at the step ``fails_at``."""

    def __init__(
        self, script: Callable[[str], str], seconds: float = 0.002, context: int = 4096, fails_at: int = -1
    ) -> None:
        super().__init__(script, context)
        self.seconds, self.fails_at = seconds, fails_at

    def step(self) -> list:  # type: ignore[type-arg]
        """One token of all, or the end of everything."""
        time.sleep(self.seconds)
        if self.steps == self.fails_at:
            raise RuntimeError("out of memory")
        return super().step()


def engine(script: Callable[[str], str], max_in_flight: int = 64, **options: float) -> Engine:
    """An engine over a scripted backend."""
    backend = SlowBackend(script, **options)  # type: ignore[arg-type]
    return Engine(backend, CharTokenizer(), max_in_flight)
