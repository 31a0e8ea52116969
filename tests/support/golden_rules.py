"""Deterministic weights and waveforms: the rules by which recorded reference numbers are rebuilt.

A recorded case (a "golden") stores inputs and outputs but no weights. Weights follow one of two rules of the
parameter's name and element index, waveforms a rule of tones plus a small linear congruential noise.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def goldens_dir() -> Path:
    """Folder of the recorded cases: ``$ALARM_GOLDENS``, else ``tests/reference/goldens``."""
    configured = os.environ.get("ALARM_GOLDENS")
    return Path(configured) if configured else Path(__file__).resolve().parents[1] / "reference" / "goldens"


def rule_a(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """Smooth weights ``0.05 * sin(0.7 i + crc32(name) mod 1000)``; kinds ``weight``, ``norm_weight``, ``bn_var``."""
    size = int(np.prod(shape, dtype=np.int64))
    smooth = 0.05 * np.sin(0.7 * np.arange(size, dtype=np.float64) + zlib.crc32(name.encode()) % 1000)
    values = {"weight": smooth, "norm_weight": 1 + smooth, "bn_var": 1 + np.abs(smooth)}[kind]
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def rule_b(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """Full-rank, unit-gain weights from an integer hash of (name, element index); kinds as in :func:`rule_a`."""
    size = int(np.prod(shape, dtype=np.int64))
    x = np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    u = x.astype(np.float64) / 2**31 - 1
    if kind == "norm_weight":
        values = 1 + 0.3 * u
    elif kind == "bn_var":
        values = 1 + 0.3 * np.abs(u)
    else:
        values = u * np.sqrt(3 * shape[0] / size) if len(shape) > 1 else 0.3 * u
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


RULES = {"A": rule_a, "B": rule_b}


def rule_weights(params: Mapping[str, Any], rule: str) -> dict[str, Tensor]:
    """Tensors for a manifest's ``params`` (name -> [shape, kind]); ``keep`` and ``tied:`` entries are left out."""
    return {
        name: RULES[rule](name, tuple(shape), kind)
        for name, (shape, kind) in params.items()
        if kind != "keep" and not kind.startswith("tied:")
    }


def fill_module(module: nn.Module, params: Mapping[str, Any], rule: str) -> list[str]:
    """Fill ``module``'s tensors of the same name and shape in place; returns the listed names it does not have.

    Raises ``AssertionError`` when a shape differs or when a tensor of the module is not listed.
    """
    state = module.state_dict()
    unlisted = sorted(set(state) - set(params))
    assert not unlisted, f"tensors that the recorded model does not have: {unlisted}"
    weights = rule_weights(params, rule)
    with torch.no_grad():
        for name, value in weights.items():
            if name in state:
                assert state[name].shape == value.shape, f"{name}: {tuple(state[name].shape)} != {tuple(value.shape)}"
                state[name].copy_(value)
    return sorted(set(params) - set(state))


def rule_waveform(rule: Mapping[str, Any]) -> Tensor:
    """Waveform ``(channels, samples)`` float32 of a rule (sr, seconds, channels, seed, freqs, amps, am, noise)."""
    count = round(rule["sr"] * rule["seconds"])
    t = np.arange(count, dtype=np.float64) / rule["sr"]
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * rule["am"] * t)
    channels = []
    for c in range(rule["channels"]):
        tones = sum(
            amp * np.sin(2 * np.pi * freq * (1 + 0.01 * c) * t + 0.5 * k)
            for k, (freq, amp) in enumerate(zip(rule["freqs"], rule["amps"], strict=True))
        )
        channels.append(tones * envelope + rule["noise"] * _noise(rule["seed"] + c, count))
    return torch.from_numpy(np.stack(channels).astype(np.float32))


def _noise(seed: int, count: int) -> np.ndarray:
    """Values in [-1, 1) of the generator s <- 1664525 s + 1013904223 (mod 2^32), in closed form."""
    powers = np.cumprod(np.full(count, 1664525, dtype=np.uint32), dtype=np.uint32)
    geometric = np.cumsum(np.concatenate([np.ones(1, np.uint32), powers[:-1]]), dtype=np.uint32)
    states = powers * np.uint32(seed) + np.uint32(1013904223) * geometric
    return states.astype(np.float64) / 2**31 - 1


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one recorded case: worst and mean absolute difference against their tolerances."""

    case: str
    worst: float
    tolerance: float
    mean: float = 0.0
    mean_tolerance: float = float("inf")
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether both differences are within their tolerances (NaN fails)."""
        return self.worst <= self.tolerance and self.mean <= self.mean_tolerance

    def line(self) -> str:
        """The case on one line, for reports."""
        verdict = "ok  " if self.passed else "FAIL"
        return f"{verdict} {self.case:60s} worst {self.worst:.1e} (<= {self.tolerance:.0e}), mean {self.mean:.1e}"


def compare(
    case: str, got: Tensor, expected: Tensor, tolerance: float, mean_tolerance: float = float("inf"), note: str = ""
) -> CaseResult:
    """Absolute differences of two tensors of the same shape as a :class:`CaseResult`.

    Raises ``AssertionError`` when the shapes differ.
    """
    assert got.shape == expected.shape, f"{case}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    difference = (got.double() - expected.double()).abs()
    worst, mean = (difference.max().item(), difference.mean().item()) if difference.numel() else (0.0, 0.0)
    return CaseResult(case, worst, tolerance, mean, mean_tolerance, note)
