"""Cross-entropy over a frozen output layer: equal to the plain one, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from src.model.loss import frozen_head_cross_entropy


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunks_change_nothing(rows: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5)
    bias = torch.randn(11) if with_bias else None
    targets = torch.randint(0, 11, (7,))
    total = frozen_head_cross_entropy(hidden, weight, bias, targets, chunk_values=rows * 11)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    torch.testing.assert_close(total, expected)
    got, wanted = (torch.autograd.grad(3 * loss, [hidden])[0] for loss in (total, expected))
    torch.testing.assert_close(got, wanted)


def test_without_gradients_and_without_targets() -> None:
    hidden, weight = torch.randn(4, 5), torch.randn(11, 5)
    targets = torch.tensor([0, 3, 10, 3])
    torch.testing.assert_close(
        frozen_head_cross_entropy(hidden, weight, None, targets),
        F.cross_entropy(hidden @ weight.T, targets, reduction="sum"),
    )
    assert frozen_head_cross_entropy(hidden[:0], weight, None, targets[:0]) == 0


def test_under_autocast_the_loss_is_float32() -> None:
    hidden, weight = torch.randn(4, 64, requires_grad=True), torch.randn(99, 64).bfloat16()
    targets = torch.randint(0, 99, (4,))
    with torch.autocast("cpu", torch.bfloat16):
        total = frozen_head_cross_entropy(hidden, weight, None, targets)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)
    got, wanted = (torch.autograd.grad(loss, [hidden])[0] for loss in (total, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("spread", [1.0, 400.0])
def test_improbable_targets_of_a_large_vocabulary(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, whose probabilities are written over their logits; with the wide spread most are zero."""
    monkeypatch.setattr("src.model.loss.TILE_VALUES", 2**16)
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 8, requires_grad=True), spread * torch.randn(30_011, 8)
    bias = torch.zeros(30_011)
    bias[7] = -torch.inf  # a token that can never come
    targets = torch.randint(8, 30_011, (20,))
    total = frozen_head_cross_entropy(hidden, weight, bias, targets)
    exact = F.cross_entropy(F.linear(hidden.double(), weight.double(), bias.double()), targets, reduction="sum")
    assert total.isfinite()
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=0)
    got, wanted = torch.autograd.grad(total, [hidden])[0], torch.autograd.grad(exact, [hidden])[0]
    torch.testing.assert_close(got, wanted.float(), rtol=1e-3, atol=1e-3 * spread)
