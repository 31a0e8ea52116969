"""Recorded encoder cases: tiny encoders of every kind, weights by rule, padded and multi-chunk inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.audio.features import AudioFeatureExtractor
from src.audio.muq import HOP, muq_mel
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.encoders.load import build_encoder
from src.model.encoders.sslam import position_table
from tests.support.golden_features import FULL_SIZE, golden_waveforms
from tests.support.golden_rules import CaseResult, compare, fill_module, rule_waveform

TOLERANCE = 1e-4
CHUNK_FRAMES = {"whisper": 3000, "w2vbert": 1500, "sslam": 1024, "muq": 720000}
MUQ_RATE = 24000
POSITION_BANDS = 8


def check_encoders(folder: Path) -> Iterator[CaseResult]:
    """Every case of ``encoders.json`` under both weight rules, the calc_length tables and the position table."""
    manifest = json.loads((folder / "encoders.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "encoders.safetensors")
    for name, case in manifest.items():
        for rule in ("A", "B"):
            yield check_encoder_case(name, rule, case, stored)
    yield from check_positions(folder)
    yield from check_muq_mel(folder)


def golden_encoder(case: dict[str, Any], rule: str) -> Encoder:
    """The tiny encoder of a recorded case with its weights filled by ``rule``, in eval mode."""
    encoder = build_encoder("golden", golden_spec(case)).eval()
    for name in fill_module(encoder, case["params"], rule):
        assert name.startswith(encoder.unused_prefixes), f"{name}: no such tensor in {type(encoder).__name__}"
    return encoder


def golden_spec(case: dict[str, Any]) -> EncoderSpec:
    """A recorded encoder configuration (``encoder``, ``wrapper_kwargs``, ``encoder_config``) in our terms."""
    kind, config = case["encoder"], case["encoder_config"]
    wrapper = case.get("wrapper_kwargs", {})
    rate = wrapper.get("frame_rate", MUQ_RATE)
    chunk = round(wrapper["max_time"] * rate) if "max_time" in wrapper else CHUNK_FRAMES[kind]
    features: dict[str, Any] = {"kind": kind, "sample_rate": 16000, "chunk_frames": chunk}
    if kind == "whisper":
        features["num_mels"] = config["num_mel_bins"]
        sizes = ("d_model", "encoder_layers", "encoder_attention_heads")
        extra = {"ffn_dim": config["encoder_ffn_dim"]}
    elif kind == "w2vbert":
        features["num_mels"] = config["feature_projection_input_dim"] // 2
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        extra = {
            "ffn_dim": config["intermediate_size"],
            "conv_kernel": config["conv_depthwise_kernel_size"],
            "left_positions": config["left_max_position_embeddings"],
            "right_positions": config["right_max_position_embeddings"],
        }
    elif kind == "sslam":
        features["num_mels"] = config["mel_bins"]
        sizes = ("embed_dim", "depth", "num_heads")
        extra = {"mlp_ratio": config["mlp_ratio"], "max_time_patches": config["max_length"]}
    else:
        features["sample_rate"] = MUQ_RATE
        conformer = config["w2v2_config"]
        config = {**config, "num_attention_heads": conformer["num_attention_heads"]}
        sizes = ("encoder_dim", "encoder_depth", "num_attention_heads")
        extra = {
            "ffn_dim": conformer["intermediate_size"],
            "conv_channels": config["conv_dim"],
            "conv_kernel": conformer["conv_depthwise_kernel_size"],
        }
    width, layers, heads = (config[key] for key in sizes)
    architecture = {"width": width, "num_layers": layers, "num_heads": heads, **extra}
    spec = {"features": features, "architecture": architecture, "layers": (0,), "weights": {"source": "none"}}
    return encoder_spec("golden", spec)


def check_encoder_case(name: str, rule: str, case: dict[str, Any], stored: dict[str, Tensor]) -> CaseResult:
    """All states of one case against the recorded ones, over the chunks that hold any valid frame."""
    encoder = golden_encoder(case, rule)
    features, mask = _inputs(name, rule, case, stored)
    with torch.no_grad():
        states = encoder(features, mask, range(encoder.num_states))
    assert list(states.shape) == case["stack_shape"], name
    assert [encoder.calc_length(length) for length in case["lengths_in"]] == case["lengths_out"], name
    stride = case["time_stride_of_stored_output"]
    computed = _computed_frames(encoder, mask, states.shape[2])[:, ::stride]
    got, expected = states[:, :, ::stride], stored[f"{name}/{rule}/output"]
    assert not got[:, ~computed].any(), f"{name}: chunks of padding must be zero"
    return compare(f"encoders/{name}/{rule}", got[:, computed], expected[:, computed], TOLERANCE)


def _computed_frames(encoder: Encoder, mask: Tensor, frames_out: int) -> Tensor:
    """``(batch, frames_out)`` bool: output frames of chunks with at least one valid input frame."""
    chunk = encoder.chunk_frames
    ratio = mask.shape[1] / frames_out
    starts = (torch.arange(frames_out) * ratio).long() // chunk * chunk
    return mask.sum(dim=1)[:, None] > starts


def _inputs(name: str, rule: str, case: dict[str, Any], stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if "input_rule" in case:
        wave = rule_waveform(case["input_rule"]["waveform"])
        features = torch.nn.functional.pad(wave, (0, case["input_rule"]["padded_to"] - wave.shape[1]))
        mask = (torch.arange(features.shape[1]) < wave.shape[1]).long()[None]
        return features, mask
    return stored[f"{name}/input_features"], stored[f"{name}/attention_mask"]


def check_positions(folder: Path) -> Iterator[CaseResult]:
    """Recorded rows of the SSLAM position table, of every recorded width."""
    stored = load_file(folder / "sslam_positions.safetensors")
    for name in sorted({key.split("/")[0] for key in stored}):
        rows, values = stored[f"{name}/rows"], stored[f"{name}/values"]
        table = position_table(int(rows.max()) // POSITION_BANDS + 1, POSITION_BANDS, values.shape[1])[0]
        yield compare(f"sslam_positions/{name}", table[rows], values, 1e-6)


def check_muq_mel(folder: Path) -> Iterator[CaseResult]:
    """The normalised mel spectrogram of the first recorded frames of each waveform."""
    manifest = json.loads((folder / "features_muq.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "features_muq.safetensors")
    waveforms = golden_waveforms(folder)
    extractor = AudioFeatureExtractor({"muq": FULL_SIZE["muq"]})
    for name, case in manifest.items():
        recorded = case["normalized_mel"]
        _, mels, frames = recorded["shape"]
        samples = extractor([waveforms[case["waveform"]]])["muq"].features[:, : frames * HOP]
        mel = muq_mel(samples, mels, 2048, MUQ_RATE)[0].T
        subset = mel[recorded["subset_start"] :: recorded["subset_stride"]]
        yield compare(f"muq_mel/{name}", subset, stored[f"{name}/normalized_mel_subset"], 1e-3, 1e-4)
