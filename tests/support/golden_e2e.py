"""Recorded end-to-end cases: waveforms to audio embeddings through four tiny encoders, adapters and a fusion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.model.audio_embedder import ENCODER_PREFIX, AudioEmbedder, build_audio_embedder
from src.model.config import AudioEmbedderConfig
from src.model.encoders.config import EncoderSpec
from tests.support.golden_encoders import golden_spec
from tests.support.golden_multimodal import named_configs
from tests.support.golden_rules import CaseResult, compare, rule_waveform, rule_weights

TOLERANCE, MEAN_TOLERANCE = 5e-3, 5e-4
SHORT_SECONDS, SHORT_FACTOR = 0.5, 10
"""Clips shorter than this may differ ten times as much: their features have few frames to be normalised over."""


def check_e2e(folder: Path) -> Iterator[CaseResult]:
    """Both pairs of waveforms through ``e2e_ca`` and ``e2e_p``, both weight rules, with our own features."""
    for name in ("e2e_ca", "e2e_p"):
        manifest = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        stored = load_file(folder / f"{name}.safetensors")
        model = manifest.pop("_model")
        specs = {encoder: _spec(encoder, model) for encoder in model["encoders"]}
        extractor = AudioFeatureExtractor({encoder: spec.features for encoder, spec in specs.items()})
        for pair, case in manifest.items():
            clips = [Waveform(rule_waveform(rule), rule["sr"]) for rule in case["waveforms"]]
            features = extractor(clips)
            for rule in ("A", "B"):
                yield from _pair(f"{name}/{pair}/{rule}", f"{pair}/{rule}", model, rule, case, features, stored)


def _spec(encoder: str, entry: dict[str, Any]) -> EncoderSpec:
    return golden_spec({"encoder": encoder, "encoder_config": entry["encoders"][encoder]})


def _audio_embedder(entry: dict[str, Any], rule: str) -> AudioEmbedder:
    encoders = {name: dataclasses.asdict(_spec(name, entry)) for name in entry["encoders"]}
    recorded = entry["config"]
    fusion = {key: value for key, value in recorded["audio_fusion_config"].items() if key != "llm_embedding_dim"}
    config = {
        "encoders": encoders,
        "audio_adapter_config": named_configs(recorded["audio_adapter_configs"]),
        "audio_fusion_config": fusion,
        "mask_padding": False,
    }
    (width,) = {adapter["llm_embedding_dim"] for adapter in recorded["audio_adapter_configs"]}
    audio_embedder = build_audio_embedder(
        bind_dataclass(AudioEmbedderConfig, config, "golden"), width, encoder_weights=False
    )
    weights = {name.removeprefix("model."): value for name, value in rule_weights(entry["params"], rule).items()}
    state = audio_embedder.state_dict()
    audio_embedder.load_state_dict({name: value for name, value in weights.items() if name in state}, strict=False)
    own = {name for name in state if not name.startswith(ENCODER_PREFIX) and not name.endswith("num_batches_tracked")}
    assert own == {name for name in weights if not name.startswith(ENCODER_PREFIX)}
    return audio_embedder.eval()


@torch.no_grad()
def _pair(
    label: str,
    prefix: str,
    model: dict[str, Any],
    rule: str,
    case: dict[str, Any],
    features: dict[str, EncoderFeatures],
    stored: dict[str, Tensor],
) -> Iterator[CaseResult]:
    for index, item in enumerate(_audio_embedder(model, rule)(features)):
        factor = SHORT_FACTOR if case["waveforms"][index]["seconds"] < SHORT_SECONDS else 1
        expected = stored[f"{prefix}/audio_embeddings/{index}"]
        yield compare(f"{label}/{index}", item, expected, factor * TOLERANCE, factor * MEAN_TOLERANCE)
