"""Splicing: order, labels, padding, truncation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.model.splice import IGNORE, TokenizedTurn, splice_batch

PAD = 0
EMBED = nn.Embedding(50, 4).requires_grad_(False)
START, END = torch.full((1, 4), 100.0), torch.full((1, 4), 200.0)
TURNS = [
    TokenizedTurn(prefix_ids=[1, 2], suffix_ids=[3, 4], target_ids=[5, PAD, 6]),
    TokenizedTurn(prefix_ids=[9, 10, 11, 1], suffix_ids=[7], target_ids=[8]),
]
AUDIO = [torch.full((3, 4), 50.0), torch.full((5, 4), 60.0)]


def test_order_of_parts() -> None:
    spliced = splice_batch(EMBED, TURNS, AUDIO, (START, END))
    expected = torch.cat([EMBED(torch.tensor([9, 10, 11, 1])), START, AUDIO[1], END, EMBED(torch.tensor([7, 8]))])
    assert torch.equal(spliced.inputs_embeds[1, : len(expected)], expected)
    assert spliced.attention_mask.sum(dim=1).tolist() == [12, 13]
    assert spliced.attention_mask.dtype == torch.int64


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_have_the_embeddings_lengths_and_places(side: str) -> None:
    spliced = splice_batch(EMBED, TURNS, AUDIO, (START, END), padding_side=side)
    assert spliced.labels is not None
    assert spliced.labels.shape == spliced.inputs_embeds.shape[:2]
    for index, turn in enumerate(TURNS):
        wanted = spliced.labels[index] != IGNORE
        assert spliced.labels[index][wanted].tolist() == turn.target_ids  # a pad id in an answer is a target too
        assert torch.equal(spliced.inputs_embeds[index][wanted], EMBED(torch.tensor(turn.target_ids)))
    padding = spliced.attention_mask == 0
    assert (spliced.inputs_embeds[padding] == 0).all() and (spliced.labels[padding] == IGNORE).all()
    assert padding[0, 0 if side == "left" else -1]


def test_text_only_and_explicit_tags() -> None:
    text = splice_batch(EMBED, TURNS, None, (START, END))
    assert text.attention_mask.sum(dim=1).tolist() == [7, 6]
    tags = splice_batch(EMBED, TURNS, AUDIO, None)
    assert tags.attention_mask.sum(dim=1).tolist() == [10, 11]


def test_without_outputs_there_are_no_labels() -> None:
    spliced = splice_batch(EMBED, [TokenizedTurn([1], [2])], [AUDIO[0]], (START, END), padding_side="left")
    assert spliced.labels is None and spliced.without_targets == ()


def test_truncation_is_on_the_right_and_is_told() -> None:
    spliced = splice_batch(EMBED, TURNS, AUDIO, (START, END), max_length=11)
    assert spliced.inputs_embeds.shape[1] == 11
    assert spliced.targets_cut == (1, 1)
    assert spliced.without_targets == (1,)


def test_audio_takes_the_type_of_the_text() -> None:
    embed = nn.Embedding(50, 4, dtype=torch.bfloat16)
    assert splice_batch(embed, TURNS, AUDIO, (START, END)).inputs_embeds.dtype == torch.bfloat16


def test_one_audio_for_each_turn() -> None:
    with pytest.raises(UserError, match="1 audio items for 2 turns"):
        splice_batch(EMBED, TURNS, AUDIO[:1])
