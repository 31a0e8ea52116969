"""Packed batches: the loss and gradients of padded ones in every family, without padding and without leaks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from src.common.errors import UserError
from src.model import packing
from src.model.alarm import AlarmModel
from src.model.audio_embedder import AudioEmbedder
from src.model.ctc import CtcAlignment, CtcConfig
from src.model.distillation import Distillation, DistillationConfig
from src.model.loss import ObjectiveLoss
from src.model.splice import TokenizedTurn
from tests.support.llm_families import FAMILIES, WIDTH
from tests.support.tiny_models import StandInEncoder, model_config, stand_in_features

WINDOW = 6
TURNS = [
    TokenizedTurn([1, 2], [3], [5, 6, 7, 8]),
    TokenizedTurn([], [], [10, 11]),
    TokenizedTurn([20, 21, 1], [3, 4, 4, 4, 3], [11, 12]),
]
CLIPS = [14, 3, 20]
DESCRIPTIONS = [[1, 2, 30, 31, 32], [33, 4], [20, 35, 3]]
SMALL = {"vocab_size": 61, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def family_llm(family: str, **options: Any) -> Any:
    """Two random layers; where a family has windows or chunks, they are shorter than the items."""
    options = {"num_key_value_heads": 1, "head_dim": 32, "hidden_size": WIDTH, **SMALL, **options}
    config = AutoConfig.for_model(family, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options)
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in llm.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(std=1.0 if "embed" in name else 0.2)
    return llm


def alarm(llm: Any, packed: bool, objective: Any = None, max_length: int | None = 4096) -> AlarmModel:
    torch.manual_seed(0)
    embedder = AudioEmbedder(model_config("mini_whisper").config, WIDTH, {"whisper": StandInEncoder(96)})
    return AlarmModel(embedder.double(), llm, max_length, objective, packed).float().eval()


def step(model: AlarmModel, audio: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Result of the three items, and the gradients by name."""
    features = {"whisper": stand_in_features(CLIPS, 96).to("cpu")} if audio else None
    found = model({"features": features, "turns": TURNS, "descriptions": DESCRIPTIONS})
    found["loss_sum"].backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found, gradients


def assert_same(llm: Any, make: Any = lambda: None, **options: Any) -> dict[str, Any]:
    (padded, expected), (packed, gradients) = (
        step(alarm(llm, packed, make(), **options)) for packed in (False, True)
    )
    torch.testing.assert_close(packed["loss_sum"], padded["loss_sum"], rtol=1e-5, atol=1e-5)
    assert packed["num_targets"] == padded["num_targets"]
    assert packed["without_targets"] == padded["without_targets"]
    assert set(gradients) == set(expected)
    size = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-5, atol=1e-5 * size, msg=name)
    return packed


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_the_padded_ones(family: str) -> None:
    options = dict(FAMILIES[family])
    if family in ("mistral", "gemma2", "gemma3_text", "olmo3", "gpt_oss"):
        options["sliding_window"] = WINDOW
    if family in ("gemma3_text", "olmo3", "gpt_oss"):
        options["layer_types"] = ["sliding_attention", "full_attention"]
    assert_same(family_llm(family, **options))


def test_learned_positions_begin_again_with_each_item() -> None:
    assert_same(family_llm("opt", word_embed_proj_dim=WIDTH, ffn_dim=64))


def test_positions_fall_by_the_padding() -> None:
    llm = family_llm("qwen3")
    seen: list[int] = []
    llm.model.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    padded = alarm(llm, False).splice(TURNS, {"whisper": stand_in_features(CLIPS, 96).to("cpu")})  # type: ignore[dict-item]
    real = int(padded.attention_mask.sum())
    assert real < 0.8 * padded.attention_mask.numel()
    for packed, positions in ((False, padded.attention_mask.numel()), (True, real)):
        model = alarm(llm, packed)
        step(model)  # tries the output layer, and packing
        seen.clear()
        assert step(model)[0]["positions"] == positions and seen == [positions]


@pytest.mark.parametrize("short", [4, 14, 4096])
def test_cut_items(short: int) -> None:
    """Items lose the same targets."""
    found = assert_same(family_llm("llama"), max_length=short)
    assert found["without_targets"] == {4: (0, 2), 14: (2,), 4096: ()}[short]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Distillation(DistillationConfig(ce_weight=0.25)),
        lambda: Distillation(DistillationConfig(top_k=5)),
        lambda: CtcAlignment(CtcConfig(blank=9)),
    ],
)
def test_objectives(make: Any) -> None:
    packed = assert_same(family_llm("qwen3"), make)
    padded, _ = step(alarm(family_llm("qwen3"), False, make()))
    for name, value in padded["parts"].items():
        torch.testing.assert_close(packed["parts"][name], value, rtol=1e-5, atol=1e-5)


def test_recomputed_layers_take_packed_batches() -> None:
    llm = family_llm("gemma3_text", sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
    plain, expected = step(alarm(llm, True))
    model = alarm(llm, True)
    model.gradient_checkpointing_enable()
    found, gradients = step(model)
    assert torch.equal(found["loss_sum"], plain["loss_sum"])
    for name, value in expected.items():
        assert torch.equal(gradients[name], value), name


def test_one_item_does_not_see_another() -> None:
    """The states of an item are the same, bit for bit, whatever stands before it."""
    llm = family_llm("qwen3").eval()
    packing.use_packed_attention(llm)
    rows, found = torch.randn(3, 10, WIDTH), []
    for first in rows[:2]:
        row = torch.cat([first, rows[2]])[None]
        with packing.packed([10, 10]):
            found.append(llm.model(**packing.packed_inputs(llm, row, [10, 10])).last_hidden_state[0, 10:])
    assert torch.equal(*found)
    ids = llm.generate(inputs_embeds=rows, max_new_tokens=3, do_sample=False)  # other batches are as they were
    llm.set_attn_implementation("sdpa")
    assert torch.equal(ids, llm.generate(inputs_embeds=rows, max_new_tokens=3, do_sample=False))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("bloom", {}, "takes no position_ids"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "does not keep packed items apart"),
    ],
)
def test_a_family_that_cannot_is_refused(family: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        step(alarm(family_llm(family, **options), True))
    assert "packing=false" in str(caught.value) and "\n" not in str(caught.value)


def test_the_variable_length_kernel_gets_all_items_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of PyTorch's kernel, which needs a GPU, with a plain implementation of what its page describes."""
    kernel = inspect.signature(packing.varlen_attn)
    calls = []

    def plain(*given: Any, **options: Any) -> torch.Tensor:
        bound = kernel.bind(*given, **options).arguments
        query, key, value, ends = (bound[name] for name in ("query", "key", "value", "cu_seq_q"))
        assert ends.dtype == torch.int32 and torch.equal(ends, bound["cu_seq_k"]) and bound["window_size"] == (-1, 0)
        assert bound["max_q"] == bound["max_k"] == int(ends.diff().max()) and ends[-1] == query.shape[0]
        calls.append(len(ends) - 1)
        parts = [tensor.transpose(0, 1).split(ends.diff().tolist(), dim=1) for tensor in (query, key, value)]
        options = {"is_causal": True, "scale": bound["scale"], "enable_gqa": bound["enable_gqa"]}
        done = [F.scaled_dot_product_attention(*piece, **options) for piece in zip(*parts, strict=True)]
        return torch.cat(done, dim=1).transpose(0, 1)

    llm = family_llm("qwen3")
    padded, expected = step(alarm(llm, False))
    monkeypatch.setattr(packing, "varlen_attn", plain)
    monkeypatch.setattr(packing, "_takes_kernel", lambda *_: True)
    packed, gradients = step(alarm(llm, True))
    torch.testing.assert_close(packed["loss_sum"], padded["loss_sum"], rtol=1e-5, atol=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert set(calls) == {2, 3}  # the trial, and the batch


def test_an_objective_of_ones_own_has_to_take_packed_batches(tmp_path: Path) -> None:
    from src.model.objective import Objective

    class Mine(Objective):
        def __call__(self, model: AlarmModel, spliced: Any, batch: Any) -> ObjectiveLoss:
            return ObjectiveLoss(model.target_states(spliced).cross_entropy())

    assert not Mine.takes_packed  # src/training/build.py refuses it
    assert_same(family_llm("qwen3"), Mine)
