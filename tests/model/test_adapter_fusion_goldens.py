"""Adapters and fusions against recorded numbers, under both weight rules, in the published padding behaviour."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from src.common.config import bind_dataclass
from src.model.adapters import AudioAdapter
from src.model.config import AdapterConfig, FusionConfig
from src.model.fusion import AudioFusion
from src.model.layer_fusion import WeightedAverage
from tests.support.golden_rules import compare, fill_module, require_goldens

TOLERANCE = 1e-4
ADAPTER_CASES = (
    "dc_layer_d1_odd dc_layer_d1_even dc_layer_d2_odd dc_layer_d2_even_oddhalf dc_batch_d1_odd dc_batch_d1_even "
    "dc_batch_d2_odd dc_batch_d2_even_oddhalf dc_same_dim_no_input_proj dc_conformer_layer_d1_odd "
    "dc_conformer_batch_d2_2layers_convfirst dc_conformer_no_downsampler_odd dc_no_downsampler_no_conformer_odd "
    "dc_no_preaverage dc_no_preaverage_batch_conformer dc_single_layer dc_no_trim dc_no_llm_proj dc_batch_TRAIN_mode "
    "mlp_preaverage mlp_no_preaverage mlp_single_layer identity_llm_proj identity_no_llm_proj "
    "identity_no_preaverage_llm_proj identity_no_preaverage_no_llm_proj"
).split()
FUSION_CASES = (
    "sum crossattention_111 crossattention_212_skip crossattention_order perceiver_default_like "
    "perceiver_2cross_unshared_3blocks_shared perceiver_2cross_shared_3blocks_unshared_widen "
    "multiperceiver_alarm_p_like multiperceiver_mixed"
).split()


@cache
def load(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder: Path = require_goldens()
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def test_every_recorded_case_is_listed() -> None:
    adapters, _ = load("adapters")
    fusions, _ = load("fusion")
    assert {name for name in adapters if not name.startswith("layer_fusion")} == set(ADAPTER_CASES)
    assert set(fusions) == set(FUSION_CASES)


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("case", ADAPTER_CASES)
def test_adapter(case: str, rule: str) -> None:
    manifest, tensors = load("adapters")
    entry = manifest[case]
    settings = {key: value for key, value in entry["config"].items() if key != "llm_embedding_dim"}
    config = bind_dataclass(AdapterConfig, settings, case)
    stack = tensors["shared_input_encoded_layers"]
    adapter = AudioAdapter(config, stack.shape[-1], entry["config"]["llm_embedding_dim"], mask_padding=False)
    assert fill_module(adapter, entry["params"], rule) == []
    adapter.train(entry["mode"] == "train")
    lengths = torch.tensor(entry["lengths_in"])
    output = adapter(stack[list(config.audio_encoder_layers)], lengths)
    assert adapter.calc_length(lengths).tolist() == entry["lengths_out"]
    result = compare(case, output.detach(), tensors[f"{case}/{rule}/output"], TOLERANCE)
    assert result.passed, result
    for name, expected in tensors.items():
        # The recorded statistics after a pass are those of rule B under both names.
        if rule == "B" and name.startswith(f"{case}/B/after/"):
            after = adapter.state_dict()[name.split("/after/")[1]]
            assert compare(name, after, expected, TOLERANCE).passed, name


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("case", ["layer_fusion_4d", "layer_fusion_3d"])
def test_layer_fusion(case: str, rule: str) -> None:
    manifest, tensors = load("adapters")
    fusion = WeightedAverage(manifest[case]["config"]["n_layers"])
    fill_module(fusion, manifest[case]["params"], rule)
    output = fusion(tensors[f"{case}/input"]).detach()
    assert compare(case, output, tensors[f"{case}/{rule}/output"], TOLERANCE).passed


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("case", FUSION_CASES)
@torch.no_grad()
def test_fusion(case: str, rule: str) -> None:
    manifest, tensors = load("fusion")
    entry = manifest[case]
    settings = {key: value for key, value in entry["config"].items() if key != "llm_embedding_dim"}
    config = bind_dataclass(FusionConfig, settings, case)
    streams = {name: tensors[f"{entry['inputs']}/input/{name}"] for name in entry["lengths_in"]}
    dims = {name: stream.shape[-1] for name, stream in streams.items()}
    fusion = AudioFusion(config, dims, 48, mask_padding=False).eval()
    assert fill_module(fusion, entry.get("params") or {}, rule) == []
    lengths = {name: torch.tensor(value) for name, value in entry["lengths_in"].items()}
    output, out_lengths = fusion(streams, lengths)
    assert out_lengths.tolist() == entry["lengths_out"]
    result = compare(case, output, tensors[f"{case}/{rule}/output"], TOLERANCE)
    assert result.passed, result
