"""Cross-entropy over a frozen output layer, without the logits of all targets ever existing at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_VALUES = 2**27
"""Logits held at a time: half a gigabyte in float32, some 880 targets of a vocabulary of 151,936."""


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy; the gradient for the hidden states is computed along with the loss.

    As the output layer is frozen, the logits are needed for nothing else, so nothing is computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight, bias)
            scores = torch.log_softmax(logits, dim=-1, dtype=exact)
            labels = targets[part, None]
            total -= scores.gather(1, labels).sum()
            if gradient is not None:
                slope = scores.exp_()
                slope.scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=slope.dtype))
                gradient[part] = (slope.to(logits.dtype) @ weight.to(logits.dtype)).to(hidden.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slopes[0]).to(gradient.dtype), None, None, None, None


def frozen_head_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk_values: int = CHUNK_VALUES
) -> Tensor:
    """Summed cross-entropy of ``hidden @ weight.T + bias`` against ``targets``: a scalar, float32 at least.

    Args:
        hidden: (targets, dim), the hidden states that predict a target token.
        weight: (vocabulary, dim), frozen: no gradient is computed for it.
        bias: (vocabulary,) or None, frozen.
        targets: (targets,) int64.
        chunk_values: most logits to hold at a time.
    """
    rows = max(1, chunk_values // max(1, weight.shape[0]))
    return _FrozenHeadCrossEntropy.apply(hidden, weight, bias, targets, rows)
