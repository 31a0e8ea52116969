"""Dropout on a CPU: rates, gradients, attention against torch's, seeds, recomputation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src.model import dropout as module
from src.model.dropout import Dropout, attend, attention, dropout
from src.model.fusion import DecoderLayer

NEVER = 1e-9
"""A rate under half of one in 65,536: our own code runs and nothing is dropped."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_scale_and_gradient(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 1003, dtype=dtype, requires_grad=True)
    y = dropout(x, p)
    kept = y != 0
    assert y.dtype == dtype
    # four standard deviations of the share
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * (p * (1 - p) / kept.numel()) ** 0.5 + 1e-5
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, kept)
    torch.testing.assert_close(x.grad[kept], torch.full_like(y[kept], 1 / (1 - p)))


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for distance in (1, 2, 3, 4):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert abs(both - 0.09) < 0.003


def test_outside_training_and_without_a_rate_the_values_are_the_same_object() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(dropout(x, 1.0), torch.zeros(5))
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)


def test_seeds_repeat_the_draws() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(dropout(torch.ones(1001), 0.5))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], dropout(torch.ones(1001), 0.5))


def _heads(dtype: torch.dtype, keys: int = 9) -> list[Tensor]:
    torch.manual_seed(2)
    shapes = [(2, 3, 7, 8), (2, 3, keys, 8), (2, 3, keys, 8)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_and_its_gradients_equal_torch(dtype: torch.dtype, tolerance: float, with_bias: bool) -> None:
    bias = torch.zeros(2, 1, 1, 9, dtype=dtype)
    bias[1, ..., 6:] = torch.finfo(dtype).min
    given = bias if with_bias else None
    ours, exact = _heads(dtype), [each.detach().float().requires_grad_() for each in _heads(dtype)]
    found = attention(*ours, given, NEVER)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=None if given is None else given.float())
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.grad.float(), theirs.grad, atol=4 * tolerance, rtol=4 * tolerance)


def test_dropped_weights_are_those_of_the_draw() -> None:
    query, key, value = _heads(torch.float32)
    torch.manual_seed(3)
    found = attention(query, key, value, None, 0.4)
    mine = torch.autograd.grad(found.square().sum(), (query, key, value))
    torch.manual_seed(3)
    kept = module._draw_kept(torch.Size((2, 3, 7, 9)), 0.4, torch.float32)
    assert 0.4 < kept.mean() < 0.8
    weights = torch.softmax(query @ key.transpose(-2, -1) * 8**-0.5, -1)
    expected = (weights * kept / 0.6) @ value
    torch.testing.assert_close(found, expected)
    theirs = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keys", ["own", "others"])
def test_joint_attention_equals_the_module(keys: str) -> None:
    torch.manual_seed(4)
    attended = nn.MultiheadAttention(16, 4, dropout=NEVER, batch_first=True)
    nn.init.normal_(attended.in_proj_bias)
    query = torch.randn(2, 6, 16)
    memory = query if keys == "own" else torch.randn(2, 9, 16)
    padding = torch.zeros(2, memory.shape[1], dtype=torch.bool)
    padding[1, 4:] = True
    found = attend(attended, query, memory, padding)
    expected = attended.eval()(query, memory, memory, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(found, expected)
    assert torch.equal(attend(attended, query, memory, padding), expected)


def test_an_item_of_padding_alone_is_finite() -> None:
    attended = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
    x = torch.randn(2, 6, 16, requires_grad=True)
    padding = torch.tensor([[False] * 6, [True] * 6])
    attend(attended, x, x, padding).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("training", [False, True])
def test_the_decoder_layer_is_torchs(training: bool) -> None:
    torch.manual_seed(5)
    theirs = nn.TransformerDecoderLayer(
        16, 4, 32, 0.0 if training else 0.1, F.gelu, batch_first=True, norm_first=True
    )
    ours = DecoderLayer(16, 4, 32, 0.0 if training else 0.1)
    ours.load_state_dict(theirs.state_dict())
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    masks = (
        torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
        torch.tensor([[False] * 7, [False] * 4 + [True] * 3]),
    )
    expected = theirs.train(training)(x, memory, tgt_key_padding_mask=masks[0], memory_key_padding_mask=masks[1])
    assert torch.equal(ours.train(training)(x, memory, *masks), expected)


def test_recomputed_activations_drop_the_same_values() -> None:
    torch.manual_seed(6)
    layer = DecoderLayer(16, 4, 32, 0.3)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    masks = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    gradients = []
    for again in (False, True):
        torch.manual_seed(8)
        layer.zero_grad()
        y = checkpoint(layer, x, memory, *masks, use_reentrant=False) if again else layer(x, memory, *masks)
        torch.rand(1000)  # recomputation restores the generator's state of the forward pass
        y.square().sum().backward()
        gradients.append([value.grad.clone() for value in layer.parameters()])
    for once, twice in zip(*gradients, strict=True):
        assert torch.equal(once, twice)
