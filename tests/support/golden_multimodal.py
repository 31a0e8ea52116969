"""Recorded whole-model cases: a tiny LLM with one encoder; embeddings, splicing, logits, loss and gradients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from src.audio.features import EncoderFeatures
from src.common.config import bind_dataclass
from src.model.alarm import AlarmModel
from src.model.audio_embedder import build_audio_embedder
from src.model.config import AudioEmbedderConfig
from src.model.splice import IGNORE, TokenizedTurn, splice_batch, splice_items
from tests.support.golden_encoders import golden_spec
from tests.support.golden_rules import CaseResult, compare, rule_weights

TOLERANCE = 1e-4
Stored = dict[str, Tensor]


def check_multimodal(folder: Path) -> Iterator[CaseResult]:
    """Every case of ``multimodal.json``: learned separators and explicit tags, both weight rules."""
    manifest = json.loads((folder / "multimodal.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "multimodal.safetensors")
    for variant in ("explicit_False", "explicit_True"):
        for rule in ("A", "B"):
            entry = manifest[f"model_{variant}"]
            model = _model(entry, rule)
            yield from _embeddings(model, f"{variant}/{rule}", stored)
            for key, case in manifest.items():
                name, _, of = key.partition("/")
                if of == variant and name != "grads":
                    yield from _splice(model, name, case, f"{variant}/{rule}", stored, entry["pad_token_id"])
            yield from _gradients(model, f"{variant}/{rule}", manifest, stored, entry["pad_token_id"])


def named_configs(configs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A recorded list of adapter configurations, by encoder name, without what ours takes from the LLM."""
    dropped = ("encoder_name", "llm_embedding_dim")
    return {
        config["encoder_name"]: {key: value for key, value in config.items() if key not in dropped}
        for config in configs
    }


def _model(entry: dict[str, Any], rule: str) -> AlarmModel:
    encoders = {
        name: dataclasses.asdict(golden_spec({"encoder": name, "encoder_config": config}))
        for name, config in entry["encoder"].items()
    }
    config = {
        "encoders": encoders,
        "audio_adapter_config": named_configs(entry["adapter"]),
        "audio_fusion_config": entry["fusion"],
        "use_explicit_audio_tokens": entry["use_explicit_audio_tokens"],
        "mask_padding": False,
    }
    width = entry["llm"]["hidden_size"]
    audio_embedder = build_audio_embedder(
        bind_dataclass(AudioEmbedderConfig, config, "golden"), width, encoder_weights=False
    )
    settings = {key: value for key, value in entry["llm"].items() if key != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": entry["llm"]["rope_theta"]}
    llm = Qwen3ForCausalLM(Qwen3Config(**settings, rope_parameters=rope))
    weights = rule_weights(entry["params"], rule)
    own = {f"model.{name}": name for name in audio_embedder.state_dict()}
    assert set(own) | set(llm.state_dict()) == set(entry["params"])
    audio_embedder.load_state_dict({own[name]: value for name, value in weights.items() if name in own})
    llm.load_state_dict({name: value for name, value in weights.items() if name not in own}, strict=False)
    llm.tie_weights()
    return AlarmModel(audio_embedder, llm).eval()


def _features(stored: Stored, model: AlarmModel) -> dict[str, EncoderFeatures]:
    features = EncoderFeatures(stored["in/audio"], stored["in/audio_attention"], stored["in/audio_lengths"])
    return dict.fromkeys(model.audio_embedder.audio_encoder.encoders, features)


def _turns(case: dict[str, Any], stored: Stored) -> list[TokenizedTurn]:
    def ids(name: str, index: int) -> list[int]:
        return stored[f"in/{name}/{index}"].tolist()

    return [
        TokenizedTurn(
            prefix_ids=[*(ids("inputs_system", index) if case["system"] else []), *ids("inputs_start", index)],
            suffix_ids=ids("inputs_main", index),
            target_ids=ids("outputs", index) if case["outputs"] else None,
        )
        for index in range(len(stored["in/audio_lengths"]))
    ]


def _published(labels: Tensor, pad_id: int) -> Tensor:
    """The recorded labels leave out genuine pad ids in answers; ours train them."""
    return labels.masked_fill(labels == pad_id, IGNORE)


@torch.no_grad()
def _embeddings(model: AlarmModel, prefix: str, stored: Stored) -> Iterator[CaseResult]:
    for index, item in enumerate(model.audio_embedder(_features(stored, model))):
        expected = stored[f"{prefix}/audio_embeds/{index}"]
        yield compare(f"multimodal/{prefix}/audio_embeds/{index}", item, expected, TOLERANCE)


@torch.no_grad()
def _splice(
    model: AlarmModel, name: str, case: dict[str, Any], prefix: str, stored: Stored, pad_id: int
) -> Iterator[CaseResult]:
    label = f"multimodal/{name}/{prefix}"
    audio = model.audio_embedder(_features(stored, model)) if case["audio"] else None
    embed, separators, turns = (
        model.llm.get_input_embeddings(),
        model.audio_embedder.separators(),
        _turns(case, stored),
    )
    limit = case["model_max_length"]
    if not case["return_batch"]:
        items, _ = splice_items(embed, turns, audio, separators, limit)
        for index, item in enumerate(items):
            yield compare(f"{label}/{index}", item, stored[f"{name}/{prefix}/embeds/{index}"], TOLERANCE)
        return
    spliced = splice_batch(embed, turns, audio, separators, case["padding_side"], limit)
    yield compare(label, spliced.inputs_embeds, stored[f"{name}/{prefix}/embeds"], TOLERANCE)
    yield compare(f"{label}/mask", spliced.attention_mask, stored[f"{name}/{prefix}/attention_mask"], 0)
    if spliced.labels is None:
        assert case["labels"] is None, label
        return
    labels = _published(spliced.labels, pad_id)
    assert labels.shape == spliced.inputs_embeds.shape[:2], label
    if case["system"]:  # the recorded labels are short by the system turn; ours are aligned
        system = len(stored["in/inputs_system/0"])
        assert (labels[:, :system] == IGNORE).all(), label
        labels = labels[:, system:]
    yield compare(f"{label}/labels", labels, stored[f"{name}/{prefix}/labels"], 0)


def _gradients(
    model: AlarmModel, prefix: str, manifest: dict[str, Any], stored: Stored, pad_id: int
) -> Iterator[CaseResult]:
    variant = prefix.split("/")[0]
    case = manifest[f"train_right/{variant}"]
    spliced = model.splice(_turns(case, stored), _features(stored, model))
    assert spliced.labels is not None
    spliced = dataclasses.replace(spliced, labels=_published(spliced.labels, pad_id))
    with torch.no_grad():
        full = model.llm(inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask).logits
    real = spliced.attention_mask.bool()  # what a padded position predicts means nothing
    expected = stored[f"forward/{prefix}/logits"]
    yield compare(f"multimodal/logits/{prefix}", full[real], expected[real], TOLERANCE)
    total, targets = model.target_loss(spliced)
    loss = total / targets
    yield compare(f"multimodal/loss/{prefix}", loss.detach().view(1), stored[f"forward/{prefix}/loss"], TOLERANCE)
    loss.backward()
    trained = {
        f"model.{name}": value for name, value in model.audio_embedder.named_parameters() if value.requires_grad
    }
    assert sorted(trained) == sorted(manifest[f"grads/{variant}"]["trainable_parameters"])
    assert all(parameter.grad is None for parameter in model.llm.parameters())
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        yield compare(
            f"multimodal/grads/{prefix}/{name}", parameter.grad, stored[f"grads/{prefix}/{name}"], TOLERANCE
        )
