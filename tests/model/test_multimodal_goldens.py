"""Front end, splicing, loss and gradients of a tiny whole model against recorded numbers, under both weight rules."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from src.audio.features import EncoderFeatures
from src.common.config import bind_dataclass
from src.model.alarm import AlarmModel
from src.model.build import build_front_end
from src.model.config import FrontEndConfig
from src.model.front_end import AudioFrontEnd
from src.model.splice import IGNORE, Spliced, Turn, splice_batch, splice_items
from tests.support.golden_rules import compare, require_goldens, rule_weights

TOLERANCE = 1e-4
VARIANTS = [("explicit_False", "A"), ("explicit_False", "B"), ("explicit_True", "A"), ("explicit_True", "B")]
BATCHED = ["train_right", "train_left", "gen_left_system", "gen_right_no_system", "text_only_right"]


@cache
def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = require_goldens()
    return json.loads((folder / "multimodal.json").read_text()), load_file(folder / "multimodal.safetensors")


def front_end_config(entry: dict[str, Any]) -> FrontEndConfig:
    given = entry["encoder"]["w2vbert"]
    adapter = {
        key: value for key, value in entry["adapter"][0].items() if key not in ("encoder_name", "llm_embedding_dim")
    }
    encoder = {
        "features": {
            "kind": "w2vbert",
            "sample_rate": 16000,
            "chunk_frames": 1500,
            "num_mels": given["feature_projection_input_dim"] // 2,
        },
        "architecture": {
            "width": given["hidden_size"],
            "num_layers": given["num_hidden_layers"],
            "num_heads": given["num_attention_heads"],
            "ffn_dim": given["intermediate_size"],
            "conv_kernel": given["conv_depthwise_kernel_size"],
            "left_positions": given["left_max_position_embeddings"],
            "right_positions": given["right_max_position_embeddings"],
        },
        "layers": adapter["audio_encoder_layers"],
        "weights": {"source": "none"},
    }
    config = {
        "encoders": {"w2vbert": encoder},
        "audio_adapter_config": {"w2vbert": adapter},
        "audio_fusion_config": entry["fusion"],
        "use_explicit_audio_tokens": entry["use_explicit_audio_tokens"],
        "mask_padding": False,
    }
    return bind_dataclass(FrontEndConfig, config, "golden")


def build(variant: str, rule: str) -> AlarmModel:
    entry = recorded()[0][f"model_{variant}"]
    front_end: AudioFrontEnd = build_front_end(front_end_config(entry), 32, encoder_weights=False)
    settings = {key: value for key, value in entry["llm"].items() if key != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": entry["llm"]["rope_theta"]}
    llm = Qwen3ForCausalLM(Qwen3Config(**settings, rope_parameters=rope))
    weights = rule_weights(entry["params"], rule)
    ours = {f"model.{name}" for name in front_end.state_dict()} | set(llm.state_dict())
    assert ours == set(entry["params"])
    front_end.load_state_dict({n[6:]: w for n, w in weights.items() if n[6:] in front_end.state_dict()})
    llm.load_state_dict({n: w for n, w in weights.items() if n in llm.state_dict()}, strict=False)
    llm.tie_weights()
    return AlarmModel(front_end, llm).eval()


def features() -> dict[str, EncoderFeatures]:
    stored = recorded()[1]
    return {"w2vbert": EncoderFeatures(stored["in/audio"], stored["in/audio_attention"], stored["in/audio_lengths"])}


def turns(case: dict[str, Any]) -> list[Turn]:
    stored = recorded()[1]

    def ids(name: str, index: int) -> list[int]:
        return stored[f"in/{name}/{index}"].tolist()

    return [
        Turn(
            start=ids("inputs_start", index),
            main=ids("inputs_main", index),
            outputs=ids("outputs", index) if case["outputs"] else None,
            system=ids("inputs_system", index) if case["system"] else None,
        )
        for index in range(3)
    ]


def splice(model: AlarmModel, case: dict[str, Any]) -> Spliced:
    audio = model.front_end(features()) if case["audio"] else None
    return splice_batch(
        model.llm.get_input_embeddings(),
        turns(case),
        audio,
        model.front_end.separators(),
        padding_side=case["padding_side"],
        max_length=case["model_max_length"],
    )


def published_labels(labels: Tensor, pad_id: int) -> Tensor:
    """The recorded labels ignore genuine pad ids in answers; ours train them."""
    return labels.masked_fill(labels == pad_id, IGNORE)


@pytest.mark.parametrize(("variant", "rule"), VARIANTS)
@torch.no_grad()
def test_audio_embeddings(variant: str, rule: str) -> None:
    stored = recorded()[1]
    for index, item in enumerate(build(variant, rule).front_end(features())):
        result = compare(str(index), item, stored[f"{variant}/{rule}/audio_embeds/{index}"], TOLERANCE)
        assert result.passed, result


@pytest.mark.parametrize("name", [*BATCHED, "train_truncated", "train_system_DEFECT"])
@pytest.mark.parametrize(("variant", "rule"), VARIANTS)
@torch.no_grad()
def test_splice(name: str, variant: str, rule: str) -> None:
    manifest, stored = recorded()
    case, prefix = manifest[f"{name}/{variant}"], f"{name}/{variant}/{rule}"
    spliced = splice(build(variant, rule), case)
    assert compare(name, spliced.inputs_embeds, stored[f"{prefix}/embeds"], TOLERANCE).passed
    assert torch.equal(spliced.attention_mask, stored[f"{prefix}/attention_mask"])
    if case["labels"] is None:
        assert spliced.labels is None
        return
    labels = published_labels(spliced.labels, manifest[f"model_{variant}"]["pad_token_id"])
    if name == "train_system_DEFECT":  # recorded labels are short by the system turn; ours are aligned
        assert labels.shape[1] == spliced.inputs_embeds.shape[1]
        system = len(turns(case)[0].system or [])
        assert (labels[:, :system] == IGNORE).all()
        labels = labels[:, system:]
    assert torch.equal(labels, stored[f"{prefix}/labels"])
    if name == "train_truncated":
        assert spliced.without_targets == (0,)
        assert spliced.targets_cut[0] == 6


@pytest.mark.parametrize(("variant", "rule"), VARIANTS)
@torch.no_grad()
def test_list_output(variant: str, rule: str) -> None:
    manifest, stored = recorded()
    model = build(variant, rule)
    case = manifest[f"list_system/{variant}"]
    embed = model.llm.get_input_embeddings()
    items, _ = splice_items(embed, turns(case), model.front_end(features()), model.front_end.separators(), 4096)
    for index, item in enumerate(items):
        assert compare("list", item, stored[f"list_system/{variant}/{rule}/embeds/{index}"], TOLERANCE).passed


@pytest.mark.parametrize(("variant", "rule"), VARIANTS)
def test_logits_loss_and_gradients(variant: str, rule: str) -> None:
    manifest, stored = recorded()
    model = build(variant, rule)
    spliced = splice(model, manifest[f"train_right/{variant}"])
    pad_id = manifest[f"model_{variant}"]["pad_token_id"]
    spliced = dataclasses.replace(spliced, labels=published_labels(spliced.labels, pad_id))
    full = model.llm(inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask).logits
    prefix = f"{variant}/{rule}"
    real = spliced.attention_mask.bool()
    expected_logits = stored[f"forward/{prefix}/logits"]
    assert compare("logits", full[real].detach(), expected_logits[real], TOLERANCE).passed
    logits, targets = model.target_logits(spliced)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    assert compare("loss", loss.detach().view(1), stored[f"forward/{prefix}/loss"], TOLERANCE).passed
    loss.backward()
    trained = {f"model.{name}": p for name, p in model.front_end.named_parameters() if p.requires_grad}
    assert sorted(trained) == sorted(manifest[f"grads/{variant}"]["trainable_parameters"])
    for name, parameter in trained.items():
        result = compare(name, parameter.grad, stored[f"grads/{prefix}/{name}"], TOLERANCE)
        assert result.passed, result
    assert all(parameter.grad is None for parameter in model.llm.parameters())
