"""Distillation from the text twin: zero where both read the same, and equal to a plain computation of two models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.alarm import AlarmModel
from src.model.audio_embedder import AudioEmbedder
from src.model.distillation import Distillation, DistillationConfig
from src.model.lora import LoraConfig, add_lora, lora_tensors, without_lora
from src.model.loss import DivergenceOptions, TargetStates, frozen_head_divergence, teacher_summary
from src.model.objective import CrossEntropy
from src.model.splice import TokenizedTurn
from tests.support.tiny_models import StandInEncoder, model_config, tiny_llm

WIDTH, VOCABULARY = 192, 61
TEXTS = [[30, 31, 32, 33, 34], [40, 41], [50, 51, 52, 53, 54, 55, 56]]
"""Descriptions of three rows."""
TURNS = [
    TokenizedTurn([1, 2], [3], [5, 6, 7, 8]),
    TokenizedTurn([1, 2], [3, 4, 9], [10]),
    TokenizedTurn([20, 21, 1], [3], [11, 12]),
]
TWINS = [[*turn.prefix_ids, *text, *turn.suffix_ids] for turn, text in zip(TURNS, TEXTS, strict=True)]
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 2.5, "ce_weight": 0.3},
    {"direction": "reverse"},
    {"direction": "reverse", "temperature": 0.7, "top_k": 4},
    {"top_k": 5, "temperature": 2.0},
    {"top_k": 60},
]


def student(objective: Distillation | None = None, llm: Any = None, **options: Any) -> AlarmModel:
    """Without learned separators, so that a clip and a description may take the same positions."""
    config = model_config("mini_whisper", "model.config.use_explicit_audio_tokens=true").config
    embedder = AudioEmbedder(config, WIDTH, {"whisper": StandInEncoder(96)})
    return AlarmModel(embedder, tiny_llm() if llm is None else llm, objective=objective, **options).eval()


def lose(model: AlarmModel, audio: list[Tensor], twins: list[list[int]] = TWINS) -> dict[str, Any]:
    """Result of the objective on clips that are given as embeddings."""
    spliced = model.splice_audio(TURNS, audio)
    found = model.objective(model, spliced, {"turns": TURNS, "descriptions": twins})
    return {"total": found.total, **found.parts}


def described(model: AlarmModel) -> list[Tensor]:
    """The descriptions' own embeddings, in the place of audio."""
    embed = model.llm.get_input_embeddings()
    return [embed(torch.tensor(text)).detach().requires_grad_() for text in TEXTS]


def heard(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Other embeddings, of other lengths."""
    torch.manual_seed(1)
    return [(0.1 * torch.randn(frames, WIDTH)).to(dtype).requires_grad_() for frames in (6, 3, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_zero_where_the_audio_is_the_description(way: dict[str, Any], dtype: torch.dtype) -> None:
    model = student(Distillation(DistillationConfig(**{**way, "ce_weight": 0.0}))).to(dtype)
    audio = described(model)
    found = lose(model, audio)
    gradients = torch.autograd.grad(found["total"], audio)
    assert found["total"].dtype == torch.float32 and found["total"] == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    assert found["kl"] == (0, 7) and found["ce"][0] > 1
    other = heard(dtype)
    assert lose(model, other)["total"] > 0 and torch.autograd.grad(lose(model, other)["total"], other)[0].any()


def plain(
    learner: Any, teacher: Any, audio: list[Tensor], way: dict[str, Any], twins: list[list[int]] = TWINS
) -> Tensor:
    """Two models, row by row, all logits: KL over the target positions by ``F.kl_div``, mixed with cross-entropy."""
    embed, total = learner.get_input_embeddings(), torch.zeros(())
    temperature, share = way.get("temperature", 1.0), way.get("ce_weight", 0.0)
    for turn, read, clip in zip(TURNS, twins, audio, strict=True):
        target = torch.tensor(turn.target_ids)
        ends = [embed(torch.tensor(ids)) for ids in (turn.prefix_ids, turn.suffix_ids, turn.target_ids)]
        own = learner(inputs_embeds=torch.cat([ends[0], clip, *ends[1:]])[None]).logits[0, -len(target) - 1 : -1]
        entropy = F.cross_entropy(own, target, reduction="sum")
        if not read:
            total = total + entropy
            continue
        with torch.no_grad():
            wanted = teacher(torch.tensor([[*read, *(turn.target_ids or [])]])).logits[0, -len(target) - 1 : -1]
        probable = [(logits / temperature).softmax(-1) for logits in (own, wanted)]
        if way.get("top_k"):
            ids = wanted.topk(way["top_k"]).indices
            top = [each.gather(1, ids) for each in probable]
            probable = [torch.cat([each, 1 - each.sum(-1, keepdim=True)], -1) for each in top]
        if way.get("direction") == "reverse":
            probable.reverse()
        divergence = F.kl_div(probable[0].log(), probable[1], reduction="sum") * temperature**2
        total = total + share * entropy + (1 - share) * divergence
    return total


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("way", WAYS)
def test_equal_to_two_models(way: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    model = student(Distillation(DistillationConfig(**way))).to(dtype)
    teacher = copy.deepcopy(model.llm)
    audio = heard(dtype)
    found, expected = lose(model, audio)["total"] / 7, plain(model.llm, teacher, audio, way) / 7
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)
    for one, other in zip(torch.autograd.grad(found, audio), torch.autograd.grad(expected, audio), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_a_row_without_a_description_has_plain_cross_entropy() -> None:
    way = {"ce_weight": 0.25}
    model = student(Distillation(DistillationConfig(without_description="ce", **way)))
    audio, twins = heard(), [TWINS[0], [], TWINS[2]]
    found = lose(model, audio, twins)
    torch.testing.assert_close(found["total"], plain(model.llm, copy.deepcopy(model.llm), audio, way, twins))
    assert found["kl"][1] == 6 and found["ce"][1] == 7
    alone = lose(model, audio, [[], [], []])
    entropy = CrossEntropy()(model, model.splice_audio(TURNS, audio), {})
    torch.testing.assert_close(alone["total"], entropy.total)
    assert alone["kl"] == (0, 0) and alone["ce"][0] == alone["total"]
    torch.testing.assert_close(found["ce"][0], entropy.total.detach())


def test_tokens_beyond_the_length_limit_of_the_teacher() -> None:
    """Twelve positions: the first clip's row loses a target, the third description's row the last of its two."""
    model = student(Distillation(), max_length=12)
    found = lose(model, heard())
    assert found["ce"][1] == 3 + 1 + 2 and found["kl"][1] == 3 + 1 + 1
    assert found["total"] < found["ce"][0] and found["total"].isfinite()


def test_the_teacher_has_no_lora() -> None:
    llm = tiny_llm()
    teacher = copy.deepcopy(llm)
    add_lora(llm, LoraConfig(r=4, dropout=0.5, target_modules=("q_proj", "down_proj")))
    model = student(Distillation(), llm).train()
    model.audio_embedder.eval()
    audio = described(model)
    assert lose(model, audio)["total"] == 0  # the layers start as zero
    with torch.no_grad():
        for name, value in lora_tensors(llm).items():
            value.normal_(std=0.2 if "lora_B" in name else 1.0)
    assert lose(model, audio)["total"] > 0.01
    model.eval()
    found, expected = lose(model, audio)["total"], plain(llm, teacher, audio, {})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward()
    trained = [value for name, value in llm.named_parameters() if "lora_" in name]
    assert len(trained) == 4 and all(value.grad is not None and value.grad.any() for value in trained)
    ids = torch.tensor([[1, 2, 3]])
    with without_lora(llm):
        assert torch.equal(llm(ids).logits, teacher(ids).logits)
    assert not torch.equal(llm(ids).logits, teacher(ids).logits)


def test_a_family_that_caps_its_logits() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.0,
    )  # fmt: skip
    llm = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    for way in WAYS:
        model = student(Distillation(DistillationConfig(**way, cache_mb=1)), llm)
        audio = heard(torch.float64)
        expected = plain(llm, copy.deepcopy(llm), audio, way)
        for _ in range(2):  # computed, then from the cache
            found = lose(model, audio)["total"]
            torch.testing.assert_close(found, expected, check_dtype=False)
        [one], [other] = (torch.autograd.grad(loss, audio[:1]) for loss in (found, expected))
        torch.testing.assert_close(one, other)
        assert model._plain_head is False and isinstance(model.objective, Distillation)
        assert model.objective.cache.reused == 3


@pytest.mark.parametrize("top_k", [None, 3])
def test_teacher_passes_are_reused(top_k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(Distillation(DistillationConfig(cache_mb=1, top_k=top_k)))
    assert isinstance(model.objective, Distillation)
    read: list[int] = []
    decoder = model.llm.get_decoder()
    decoder.register_forward_hook(lambda _module, _inputs, output: read.append(output.last_hidden_state.shape[0]))
    audio = heard()
    first = lose(model, audio)["total"]
    assert read[-2:] == [3, 3]
    before = len(read)
    again = lose(model, audio)["total"]
    assert read[before:] == [3] and model.objective.cache.reused == 3
    torch.testing.assert_close(again, first)
    stored = 7 * (WIDTH * 4 if top_k is None else (top_k + 1) * 4 + top_k * 8)
    assert model.objective.cache.room == 2**20 - stored
    model.objective.cache.room = 0
    lose(model, audio, [TWINS[0], [*TWINS[1], 3], TWINS[2]])  # one new row, for which there is no room
    assert read[-2:] == [1, 3] and model.objective.cache.room == 0


def test_a_row_that_repeats_in_a_batch_is_read_once() -> None:
    model = student(Distillation())
    read: list[int] = []
    decoder = model.llm.get_decoder()
    decoder.register_forward_hook(lambda _module, _inputs, output: read.append(output.last_hidden_state.shape[0]))
    turns = [TURNS[0], TURNS[0], TURNS[2]]
    spliced = model.splice_audio(turns, heard())
    model.objective(model, spliced, {"turns": turns, "descriptions": [TWINS[0], TWINS[0], TWINS[2]]})
    assert read[-2:] == [2, 3]


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("way", WAYS)
def test_chunks_change_nothing_and_the_gradient_is_right(way: dict[str, Any], rows: int) -> None:
    torch.manual_seed(0)
    options = DivergenceOptions(**way)
    weight, bias = torch.randn(VOCABULARY, 5).double(), torch.randn(VOCABULARY).double()
    states, teacher = torch.randn(7, 5).double().requires_grad_(), torch.randn(7, 5).double()
    targets = torch.randint(0, VOCABULARY, (7,))
    summary = teacher_summary(TargetStates(teacher, targets, weight, bias), options, rows * 4 * VOCABULARY)

    def loss(hidden: Tensor) -> Tensor:
        given = TargetStates(hidden, targets, weight, bias)
        return frozen_head_divergence(given, summary, options, rows * 4 * VOCABULARY)[0]

    assert torch.autograd.gradcheck(loss, (states,))
    torch.testing.assert_close(
        loss(states), frozen_head_divergence(TargetStates(states, targets, weight, bias), summary, options)[0]
    )


def test_under_autocast_the_divergence_is_float32() -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(99, 64).bfloat16(), torch.randint(0, 99, (4,))
    states, teacher = torch.randn(4, 64, requires_grad=True), torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        summary = teacher_summary(TargetStates(teacher, targets, weight), DivergenceOptions())
        found = frozen_head_divergence(TargetStates(states, targets, weight), summary, DivergenceOptions())[0]
        logits = [F.linear(hidden, weight).float().log_softmax(-1) for hidden in (states, teacher)]
    expected = F.kl_div(logits[0], logits[1], log_target=True, reduction="sum")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    [one], [other] = (torch.autograd.grad(loss, [states]) for loss in (found, expected))
    torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"ce_weight": 1.0}, "1 is objective=ce"),
        ({"cache_mb": -1}, "cache_mb is -1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**options)
