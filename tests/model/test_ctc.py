"""CTC alignment: the loss is that of every path summed by hand, and training it makes the audio say its text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.model.alarm import AlarmModel
from src.model.audio_embedder import AudioEmbedder
from src.model.ctc import CtcAlignment, CtcConfig
from src.model.splice import TokenizedTurn
from tests.support.tiny_models import StandInEncoder, model_config, tiny_llm

WIDTH, BLANK = 192, 2
TURNS = [TokenizedTurn([1, 3], [4], [5, 6]), TokenizedTurn([1, 3, 9], [4, 8], [7])]


def model_with(tags: str = "false") -> AlarmModel:
    config = model_config("mini_whisper", f"model.config.use_explicit_audio_tokens={tags}").config
    embedder = AudioEmbedder(config, WIDTH, {"whisper": StandInEncoder(96)})
    return AlarmModel(embedder, tiny_llm(), objective=CtcAlignment(CtcConfig(blank=BLANK))).eval()


def lose(model: AlarmModel, audio: list[Tensor], turns: list[TokenizedTurn] = TURNS) -> Tensor:
    batch: dict[str, Any] = {"turns": turns, "features": {}}
    return model.objective(model, model.splice_audio(turns, audio), batch).total


def by_hand(frames: Tensor, table: Tensor, candidates: list[int], target: list[int]) -> Tensor:
    """Minus the logarithm of the probability of all labellings that collapse to the target."""
    shares = (frames @ table[candidates].T).softmax(dim=-1)
    total = torch.zeros(())
    for path in itertools.product(range(len(candidates)), repeat=len(frames)):
        collapsed = [candidates[label] for label, _ in itertools.groupby(path) if label]
        if collapsed == target:
            total = total + torch.stack([shares[place, label] for place, label in enumerate(path)]).prod()
    return -total.log()


@pytest.mark.parametrize("tags", ["false", "true"])
def test_equal_to_the_sum_over_all_paths(tags: str) -> None:
    model = model_with(tags)
    torch.manual_seed(0)
    audio = [torch.randn(4, WIDTH) * 0.3, torch.randn(3, WIDTH) * 0.3]
    table = model.llm.get_input_embeddings().weight.detach()
    expected = sum(
        by_hand(frames, table, [BLANK, 5, 6, 7], turn.target_ids or [])
        for frames, turn in zip(audio, TURNS, strict=True)
    )
    torch.testing.assert_close(lose(model, audio), expected)


def test_the_llms_layers_are_not_run_and_training_aligns() -> None:
    model = model_with()
    model.llm.get_decoder().layers[0].register_forward_hook(lambda *_: pytest.fail("the LLM was run"))
    torch.manual_seed(0)
    audio = [torch.zeros(5, WIDTH, requires_grad=True), torch.zeros(4, WIDTH, requires_grad=True)]
    optimizer = torch.optim.Adam(audio, lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = lose(model, audio)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    known = torch.tensor([BLANK, 5, 6, 7])
    table = model.llm.get_input_embeddings().weight[known]
    said = [known[(frames @ table.T).argmax(-1)].unique_consecutive().tolist() for frames in audio]
    assert [[token for token in ids if token != BLANK] for ids in said] == [[5, 6], [7]]


@pytest.mark.parametrize("tags", ["false", "true"])
def test_all_audio_is_aligned_where_the_target_is_cut(tags: str) -> None:
    """Audio embeddings were counted from the end of the row, as if ``max_length`` had cut nothing off."""
    model, turns = model_with(tags), [TokenizedTurn([1, 3], [4], [5, 6, 7])]
    audio = [torch.randn(4, WIDTH) * 0.3]
    whole = lose(model, audio, turns)
    model.max_length = 2 + 4 + 1 + 1 + (2 if tags == "false" else 0)  # one of the three targets is left
    assert model.splice_audio(turns, audio).targets_cut == (2,)
    torch.testing.assert_close(lose(model, audio, turns), whole)


def test_what_cannot_be_aligned() -> None:
    model = model_with()
    short = [TokenizedTurn([1], [4], [5, 6, 7])]
    assert lose(model, [torch.randn(2, WIDTH)], short) == 0  # fewer frames than tokens: counts nothing
    with pytest.raises(UserError, match="text-only rows, expected audio"):
        model.objective(model, model.splice_audio(TURNS, None), {"turns": TURNS, "features": None})
    wrong = CtcAlignment(CtcConfig(blank=10**6))
    with pytest.raises(UserError, match=r"objective\.blank: got 1000000"):
        wrong(model, model.splice_audio(short, [torch.randn(2, WIDTH)]), {"turns": short, "features": {}})
