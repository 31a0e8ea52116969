"""The training model: loss at target positions, the frozen LLM, mismatched widths."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

from src.common.errors import UserError
from src.model.alarm import AlarmModel
from src.model.audio_embedder import AudioEmbedder
from src.model.llm import llm_width, load_llm, weights_digest
from src.model.splice import TokenizedTurn
from tests.support.tiny_models import StandInEncoder, model_config, stand_in_features, tiny_llm

TURNS = [
    TokenizedTurn([1, 2], [3], [5, 6, 7, 8]),
    TokenizedTurn([1, 2], [3, 4, 9], [10]),
    TokenizedTurn([20, 21, 1], [3], [11, 12]),
]


def audio_embedder() -> AudioEmbedder:
    torch.manual_seed(0)
    config = model_config("mini_whisper").config
    return AudioEmbedder(config, 192, {"whisper": StandInEncoder(96)})


def batch() -> dict[str, object]:
    features = stand_in_features([14, 9, 20], 96)
    return {"features": {"whisper": features.to("cpu")}, "turns": TURNS}


def model(**options: int) -> AlarmModel:
    return AlarmModel(audio_embedder(), tiny_llm(), **options).double()


def test_loss_is_the_shifted_cross_entropy_over_targets() -> None:
    alarm = model().eval()
    result = alarm(batch())
    spliced = alarm.splice(TURNS, batch()["features"])  # type: ignore[arg-type]
    logits = alarm.llm(inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), spliced.labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(result["loss"], expected)
    assert result["num_targets"] == 7
    torch.testing.assert_close(result["loss_sum"], expected * 7)


def test_loss_sums_do_not_depend_on_how_rows_are_batched() -> None:
    alarm = model().eval()
    whole = alarm(batch())["loss_sum"]
    features = stand_in_features([14, 9, 20], 96)
    parts = []
    for index, length in enumerate([14, 9, 20]):
        own = type(features)(
            features.features[index : index + 1, :length],
            features.mask[index : index + 1, :length],
            features.lengths[index : index + 1],
        )
        parts.append(alarm({"features": {"whisper": own}, "turns": [TURNS[index]]})["loss_sum"])
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-5, atol=0)


def test_the_llm_stays_as_it_is() -> None:
    alarm = model().train()
    before = weights_digest(alarm.llm)
    assert not alarm.llm.training and alarm.audio_embedder.training
    optimiser = torch.optim.SGD([p for p in alarm.parameters() if p.requires_grad], lr=0.1)
    alarm(batch())["loss"].backward()
    assert all(parameter.grad is None for parameter in alarm.llm.parameters())
    trained = [name for name, p in alarm.named_parameters() if p.grad is not None]
    assert "audio_embedder.audio_start_emb" in trained and any("adapters.whisper" in name for name in trained)
    optimiser.step()
    assert weights_digest(alarm.llm) == before
    assert not any(name.startswith("llm") for name in alarm.audio_embedder.trained_state())


def test_digest_sees_any_change() -> None:
    llm = tiny_llm()
    before = weights_digest(llm)
    with torch.no_grad():
        llm.model.norm.weight[0] += 1e-3
    assert weights_digest(llm) != before


def test_truncated_rows_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("alarm").propagate = True
    alarm = model(max_length=14).eval()
    with caplog.at_level(logging.WARNING):
        result = alarm({**batch(), "keys": ["a", "b", "c"]})
    assert result["without_targets"] == (2,)
    assert result["num_targets"] == 2 + 1
    assert "rows a, c" in caplog.text and "1 lost all of them" in caplog.text
    assert result["loss"].isfinite()


def test_a_batch_without_any_target_left_is_zero_not_nan() -> None:
    result = model(max_length=6).eval()(batch())
    assert result["loss"] == 0 and result["num_targets"] == 0


def test_a_batch_without_outputs_is_an_error() -> None:
    with pytest.raises(UserError, match="no turn has targets"):
        model()({**batch(), "turns": [TokenizedTurn([1], [2])] * 3})


def test_text_only() -> None:
    assert model()({"turns": TURNS})["loss"].isfinite()


def test_widths_must_agree() -> None:
    with pytest.raises(UserError, match="192 wide, the LLM takes 64"):
        AlarmModel(audio_embedder(), tiny_llm(width=64))


def test_llm_by_name(tmp_path) -> None:  # type: ignore[no-untyped-def]
    tiny_llm(width=32).save_pretrained(tmp_path)
    assert llm_width(str(tmp_path)) == 32
    with pytest.raises(UserError, match="no usable config"):
        load_llm(str(tmp_path / "none"))


@pytest.mark.parametrize(("family", "plain"), [("GPT2", True), ("Gemma2", False)])
def test_other_families_lose_by_their_own_logits(family: str, plain: bool) -> None:
    """A family's treatment of its logits (soft caps) is kept, and the gradients are those of the full logits."""
    import transformers

    small = {"vocab_size": 61, "hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 4}
    if family == "GPT2":
        config = transformers.GPT2Config(vocab_size=61, n_embd=192, n_layer=1, n_head=4)
    else:
        config = transformers.Gemma2Config(**small, intermediate_size=32, num_key_value_heads=2, head_dim=8)
        config.final_logit_softcapping = 0.05
    llm = transformers.AutoModelForCausalLM.from_config(config)
    alarm = AlarmModel(audio_embedder(), llm).double().eval()
    spliced = alarm.splice(TURNS, batch()["features"])  # type: ignore[arg-type]
    total, targets = alarm.target_loss(spliced)
    assert alarm._has_plain_head(spliced.inputs_embeds) is plain and targets == 7
    full = llm(inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask).logits
    expected = F.cross_entropy(full[:, :-1].flatten(0, 1), spliced.labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(total, expected)
    [separator] = torch.autograd.grad(total, [alarm.audio_embedder.audio_start_emb], retain_graph=True)
    torch.testing.assert_close(separator, torch.autograd.grad(expected, [alarm.audio_embedder.audio_start_emb])[0])
