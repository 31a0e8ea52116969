"""Recorded adapter and fusion cases: every option, under both weight rules, in the published padding behaviour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.common.config import bind_dataclass
from src.model.adapter import AudioAdapter, WeightedAverage
from src.model.config import AdapterConfig, FusionConfig, LayerFusionConfig
from src.model.fusion import AudioFusion
from tests.support.golden_rules import CaseResult, compare, fill_module

TOLERANCE = 1e-4
Stored = dict[str, Tensor]


def check_adapters(folder: Path) -> Iterator[CaseResult]:
    """Every case of ``adapters.json``."""
    manifest, stored = _load(folder, "adapters")
    for name, case in manifest.items():
        check = _layer_fusion if name.startswith("layer_fusion") else _adapter
        for rule in ("A", "B"):
            yield from check(name, rule, case, stored)


def check_fusion(folder: Path) -> Iterator[CaseResult]:
    """Every case of ``fusion.json``."""
    manifest, stored = _load(folder, "fusion")
    for name, case in manifest.items():
        for rule in ("A", "B"):
            yield _fusion(name, rule, case, stored)


def _load(folder: Path, name: str) -> tuple[dict[str, Any], Stored]:
    manifest = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return manifest, load_file(folder / f"{name}.safetensors")


def _settings(case: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration without what ours takes from the LLM."""
    return {key: value for key, value in case["config"].items() if key != "llm_embedding_dim"}


@torch.no_grad()
def _adapter(name: str, rule: str, case: dict[str, Any], stored: Stored) -> Iterator[CaseResult]:
    config = bind_dataclass(AdapterConfig, _settings(case), name)
    stack = stored["shared_input_encoded_layers"]
    adapter = AudioAdapter(config, stack.shape[-1], case["config"]["llm_embedding_dim"], mask_padding=False)
    assert fill_module(adapter, case["params"], rule) == [], name
    adapter.train(case["mode"] == "train")
    lengths = torch.tensor(case["lengths_in"])
    output = adapter(stack[list(adapter.layers)], lengths)
    assert adapter.calc_length(lengths).tolist() == case["lengths_out"], name
    yield compare(f"adapters/{name}/{rule}", output, stored[f"{name}/{rule}/output"], TOLERANCE)
    for key, expected in stored.items():
        # The recorded statistics after a train-mode pass are those of rule B under both names.
        if rule == "B" and key.startswith(f"{name}/B/after/"):
            yield compare(f"adapters/{key}", adapter.state_dict()[key.split("/after/")[1]], expected, TOLERANCE)


@torch.no_grad()
def _layer_fusion(name: str, rule: str, case: dict[str, Any], stored: Stored) -> Iterator[CaseResult]:
    fusion = WeightedAverage(LayerFusionConfig(), case["config"]["n_layers"])
    assert fill_module(fusion, case["params"], rule) == [], name
    output = fusion(stored[f"{name}/input"])
    yield compare(f"adapters/{name}/{rule}", output, stored[f"{name}/{rule}/output"], TOLERANCE)


@torch.no_grad()
def _fusion(name: str, rule: str, case: dict[str, Any], stored: Stored) -> CaseResult:
    config = bind_dataclass(FusionConfig, _settings(case), name)
    streams = {encoder: stored[f"{case['inputs']}/input/{encoder}"] for encoder in case["lengths_in"]}
    dims = {encoder: stream.shape[-1] for encoder, stream in streams.items()}
    fusion = AudioFusion(config, dims, case["output_shape"][-1], mask_padding=False).eval()
    assert fill_module(fusion, case.get("params") or {}, rule) == [], name
    output, lengths = fusion(streams, {key: torch.tensor(value) for key, value in case["lengths_in"].items()})
    assert lengths.tolist() == case["lengths_out"], name
    return compare(f"fusion/{name}/{rule}", output, stored[f"{name}/{rule}/output"], TOLERANCE)
