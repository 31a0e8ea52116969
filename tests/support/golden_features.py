"""Recorded feature cases: real-size extractor settings on rule-made waveforms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from tests.support.golden_rules import CaseResult, compare, rule_waveform

FULL_SIZE = {
    "muq": FeatureConfig("muq", 24000, 720000),
    "sslam": FeatureConfig("sslam", 16000, 1024, 128),
    "w2vbert": FeatureConfig("w2vbert", 16000, 1500, 80),
    "whisper": FeatureConfig("whisper", 16000, 3000, 128),
}
TOLERANCE = {"muq": 1e-5, "sslam": 2e-3, "w2vbert": 5e-3, "whisper": 1e-3}
MEAN_TOLERANCE = 1e-4


def golden_waveforms(folder: Path) -> dict[str, Waveform]:
    """The waveforms of ``features_waveforms.json`` by name."""
    manifest = json.loads((folder / "features_waveforms.json").read_text(encoding="utf-8"))
    return {name: Waveform(rule_waveform(case["rule"]), case["rule"]["sr"]) for name, case in manifest.items()}


def check_features(folder: Path) -> Iterator[CaseResult]:
    """Every ``features_*`` case, all waveforms extracted as one batch."""
    waveforms = golden_waveforms(folder)
    batch = AudioFeatureExtractor(FULL_SIZE)(list(waveforms.values()))
    for kind in FULL_SIZE:
        manifest = json.loads((folder / f"features_{kind}.json").read_text(encoding="utf-8"))
        stored = load_file(folder / f"features_{kind}.safetensors")
        for name, case in manifest.items():
            item = _item(batch[kind], list(waveforms).index(case["waveform"]), case["shape"][0])
            yield _check_case(f"features_{kind}/{name}", item, case, stored, TOLERANCE[kind])


def _item(batch: EncoderFeatures, index: int, frames: int) -> EncoderFeatures:
    """Row ``index`` cut to the frames it has alone; the rest must be zero."""
    assert not batch.features[index, frames:].any()
    return EncoderFeatures(batch.features[index, :frames], batch.mask[index, :frames], batch.lengths[index])


def _check_case(
    label: str, item: EncoderFeatures, case: dict[str, Any], stored: dict[str, Tensor], tolerance: float
) -> CaseResult:
    name = label.split("/")[1]
    assert list(item.features.shape) == case["shape"], label
    assert int(item.lengths) == case["length"] == int(item.mask.sum()), label
    subset = item.features[case["subset_start"] :: case["subset_stride"]]
    around = stored[f"{name}/around_end"]
    start = case["around_end_start"]
    got = torch.cat([subset.flatten(), item.features[start : start + len(around)].flatten()])
    expected = torch.cat([stored[f"{name}/subset"].flatten(), around.flatten()])
    result = compare(label, got, expected, tolerance, MEAN_TOLERANCE)
    total = item.features.double().sum().item()
    assert abs(total - case["summary"]["sum"]) <= MEAN_TOLERANCE * item.features.numel(), label
    return result
