"""Dropout whose random numbers cost a CPU little, alone and within attention.

torch draws a CPU's dropout value by value with a double-precision number each, on one thread: 6 ns a value, a tenth
of a training step on two cores. Here a 64-bit draw serves four values with 16 bits each, so that a rate is kept to
1/131,072. Other devices, and compiled modules, use torch's own. Draws come from torch's generator, as torch's do, so
seeds, resuming and gradient checkpointing work as before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DRAW_ON_CPU = True
"""False: torch's own draws on a CPU too; for comparison (``scripts/perf/train_step.py``)."""
_LEVELS = 2**16
"""Values of the 16 bits that decide whether a value is dropped."""
_ONE = 0x3F80
"""Bits of 1.0 in bfloat16."""


class Dropout(nn.Dropout):
    """``nn.Dropout``, with :func:`dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(input, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """As ``torch.nn.functional.dropout``, which it is except in training on a CPU; any shape to the same."""
    if not training or not p:
        return x
    if not _draws_here(x, p):
        return F.dropout(x, p)
    return _Dropped.apply(x, _draw_kept(x.shape, p, x.dtype), 1 / (1 - p))


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, p: float) -> Tensor:
    """``scaled_dot_product_attention`` with dropout ``p`` of the attention weights; ``p`` is 0 outside training.

    ``query`` (batch, heads, queries, dim), ``key`` (batch, heads, keys, dim) and ``value`` (batch, heads, keys, value
    dim) to (batch, heads, queries, value dim). ``bias``, a mask without a gradient, broadcasts to the scores (batch,
    heads, queries, keys), to which it is added.
    """
    if not p or not _draws_here(query, p):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p)
    return _DroppedAttention.apply(query, key, value, bias, p)


def attend(module: nn.MultiheadAttention, query: Tensor, keys: Tensor, padding: Tensor | None) -> Tensor:
    """Output of joint attention over ``keys`` (batch, keys, dim) for ``query`` (batch, queries, dim), of its shape.

    ``module`` itself does it, except for dropout on a CPU. ``padding`` (batch, keys) is true on keys to leave out.
    """
    p = module.dropout if module.training else 0.0
    if not p or not _draws_here(query, p):
        # asked for the weights as well, torch would leave its fused kernels
        return module(query, keys, keys, key_padding_mask=padding, need_weights=False)[0]
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    heads = [
        F.linear(each, weight, bias).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for each, weight, bias in zip((query, keys, keys), weights, biases, strict=True)
    ]
    bias = None
    if padding is not None:
        # Finite, as an item whose keys are all padding would become NaN:
        # https://github.com/pytorch/pytorch/issues/41508
        lowest = torch.finfo(heads[0].dtype).min
        bias = torch.zeros(padding.shape, dtype=heads[0].dtype).masked_fill_(padding, lowest)[:, None, None, :]
    return module.out_proj(attention(heads[0], heads[1], heads[2], bias, p).transpose(1, 2).flatten(2))


def _draws_here(x: Tensor, p: float) -> bool:
    """Whether our own draws are used: on a CPU, outside compiled code, for a rate that 16 bits can tell from 1."""
    here = DRAW_ON_CPU and x.device.type == "cpu" and not torch.compiler.is_compiling()
    return here and round(p * _LEVELS) < _LEVELS


def _draw_kept(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Of this shape and type: 0 for values that are dropped, 1 for the others."""
    count = shape.numel()
    # None: up to the largest int64, a bound that the method cannot be given, as it draws below its upper one
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    # in place and as bits of bfloat16, as a CPU reads masks of bool six times slower; the draws are signed, so that
    # the threshold is moved by half their range
    kept = draws.ge_(round(p * _LEVELS) - _LEVELS // 2).mul_(_ONE).view(torch.bfloat16)
    return kept.view(shape).to(dtype)


class _Dropped(torch.autograd.Function):
    """Times ``kept`` and ``scale``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return (slopes[0] * kept).mul_(ctx.scale), None, None


class _DroppedAttention(torch.autograd.Function):
    """Attention with dropout of its weights. Scores and softmax are float32, as in torch's kernels; the weights are
    rounded to the inputs' type before they meet the values, as in flash attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, p: float) -> Tensor:
        exact = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            scores = (query.to(exact) * _scale(query)) @ key.to(exact).transpose(-2, -1)
            if bias is not None:
                scores += bias
            weights = torch.softmax(scores, -1, out=scores).to(value.dtype)
            kept = _draw_kept(weights.shape, p, value.dtype)
            ctx.save_for_backward(query, key, value, weights, kept)
            ctx.rescale = 1 / (1 - p)
            return (weights * kept) @ (value * ctx.rescale)  # values are usually fewer than weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        slope = slopes[0] * ctx.rescale
        with torch.autocast("cpu", enabled=False):
            for_value = (weights * kept).transpose(-2, -1) @ slope
            for_weights = (slope @ value.transpose(-2, -1)).mul_(kept)
            # by torch's own kernel, from the weights: the scores have been overwritten
            for_scores = torch.ops.aten._softmax_backward_data(for_weights, weights, -1, weights.dtype)
            for_query = for_scores @ (key * _scale(query))
            for_key = for_scores.transpose(-2, -1) @ (query * _scale(query))
        return for_query, for_key, for_value, None, None


def _scale(query: Tensor) -> float:
    return float(query.shape[-1] ** -0.5)
