"""Losses over a frozen output layer, without the logits of all targets ever existing at once.

Cross-entropy, and the divergence from a teacher's distribution. The output layer is frozen, so the gradient for the
hidden states is computed along with the loss, chunk of positions by chunk, and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_VALUES = 2**27
"""Logits held at a time: half a gigabyte in float32, some 880 targets of a vocabulary of 151,936."""
TILE_VALUES = 2**20
"""Logits whose probabilities are computed at a time on a CPU: four megabytes in float32."""
_BUFFERS = 4
"""Float32 buffers of a chunk's logits that a divergence holds for one of cross-entropy: its chunks are smaller. On a
CPU they exist for one tile only, and there are the logits of student and teacher."""
Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class TargetStates:
    """Hidden states that predict the target tokens of a batch, and the output layer behind them.

    Attributes:
        states: (targets, dim), the last hidden states; without ``weight`` (targets, vocabulary), the logits.
        targets: (targets,) int64.
        weight: (vocabulary, dim) of the frozen output layer, or None where the LLM does more to its logits.
        bias: (vocabulary,) or None, frozen.
    """

    states: Tensor
    targets: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __len__(self) -> int:
        return self.targets.numel()

    def __getitem__(self, rows: Tensor | slice) -> TargetStates:
        return TargetStates(self.states[rows], self.targets[rows], self.weight, self.bias)

    def cross_entropy(self) -> Tensor:
        """Summed cross-entropy: a scalar, float32 at least."""
        return frozen_head_cross_entropy(self.states, self.weight, self.bias, self.targets)

    @property
    def vocabulary(self) -> int:
        """Number of logits of a position."""
        return self.states.shape[1] if self.weight is None else self.weight.shape[0]


@dataclass(frozen=True)
class ObjectiveLoss:
    """Loss of a batch, summed over its target tokens.

    ``parts`` are further sums for evaluation, each with its number of positions; their means are logged as
    ``eval_SET_NAME_loss``. Every batch has the same parts.
    """

    total: Tensor
    parts: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class DivergenceOptions:
    """How a student's distribution is compared with its teacher's.

    Attributes:
        temperature: logits of both are divided by it, and the divergence multiplied by its square, so that the size
            of the gradient does not depend on it (Hinton et al., https://arxiv.org/abs/1503.02531, section 2).
        top_k: compare the teacher's ``top_k`` likeliest tokens one by one and all others as one outcome; None: all.
        direction: ``forward`` is KL(teacher || student), ``reverse`` KL(student || teacher).
        ce_weight: share of cross-entropy in the loss, the divergence has the rest.
    """

    temperature: float = 1.0
    top_k: int | None = None
    direction: Direction = "forward"
    ce_weight: float = 0.0


Teacher = tuple[Tensor, ...]
"""A teacher at some positions: hidden states (or logits) alone, or log-probabilities of its top tokens (positions,
top_k + 1; the last is all others together) and their ids (positions, top_k)."""


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy; the gradient for the hidden states is computed along with the loss."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, targets: Tensor, rows: int
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # evaluation skips it
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits, labels = _logits(hidden[part], weight, bias), targets[part, None]
            chosen = torch.empty(labels.shape, dtype=exact, device=hidden.device)
            # the slopes take the place of the logits, unless those are the caller's
            slopes = gradient[part] if gradient is not None and weight is None else logits
            on_cpu, in_place = logits.device.type == "cpu", slopes is logits and gradient is not None
            for tile in _tiles(logits):
                # a CPU finds the maximum of bfloat16 four times slower than that of a float32 copy
                values = logits[tile].to(exact) if on_cpu else logits[tile]
                copied = values.dtype != logits.dtype
                # one exponential a logit instead of the two of log_softmax and exp; the likeliest token's probability
                # is 1 / sum(exp(logit - peak))
                chosen[tile] = values.gather(1, labels[tile]).to(exact) - values.amax(dim=-1, keepdim=True).to(exact)
                # a CPU's kernel, which goes row by row, may write over what it reads (tests/model/test_loss.py)
                over = on_cpu and (copied or in_place)
                slope = torch.softmax(values, -1, out=values) if over else torch.softmax(values, -1, dtype=exact)
                chosen[tile] += slope.amax(dim=-1, keepdim=True).log_()
                if gradient is not None:
                    slope.scatter_add_(1, labels[tile], torch.full_like(labels[tile], -1.0, dtype=exact))
                    if copied or not over:
                        slopes[tile] = slope
            total -= chosen.sum()  # in float32 from chunk to chunk: a bfloat16 sum stops growing at a few hundred
            if gradient is not None and weight is not None:
                gradient[part] = _through_head(slopes, logits.dtype, weight)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slopes[0]).to(gradient.dtype), None, None, None, None


class _FrozenHeadDivergence(torch.autograd.Function):
    """Loss, cross-entropy and divergence, each summed; only the first has a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        teacher: Teacher,
        options: DivergenceOptions,
        rows: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        entropy = torch.zeros((), dtype=exact, device=hidden.device)
        divergence = torch.zeros_like(entropy)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits, labels = _logits(hidden[part], weight, bias), targets[part, None]
            given = tuple(value[part].to(hidden.device) for value in teacher)
            if len(given) == 1:  # hidden states, whose logits are made for one chunk at a time
                given = (_logits(given[0], weight, bias),)
            # the slopes take the place of the logits, unless those are the caller's
            slopes = gradient[part] if gradient is not None and weight is None else logits
            for tile in _tiles(logits):
                scores = torch.log_softmax(logits[tile], dim=-1, dtype=exact)
                entropy -= scores.gather(1, labels[tile]).sum()
                hardened = None
                if gradient is not None and options.ce_weight:
                    hardened = scores.exp()
                    hardened.scatter_add_(1, labels[tile], torch.full_like(labels[tile], -1.0, dtype=exact))
                found, slope = _divergence(_warmed(scores, options), tuple(each[tile] for each in given), options)
                divergence += found * options.temperature**2
                if gradient is not None:
                    slope *= (1 - options.ce_weight) * options.temperature
                    if hardened is not None:
                        slope += hardened.mul_(options.ce_weight)
                    slopes[tile] = slope
            if gradient is not None and weight is not None:
                gradient[part] = _through_head(slopes, logits.dtype, weight)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        total = options.ce_weight * entropy + (1 - options.ce_weight) * divergence
        ctx.mark_non_differentiable(entropy, divergence)  # for the log; a gradient through them would be wrong
        return total, entropy, divergence

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slopes[0]).to(gradient.dtype), *(None,) * 6


def frozen_head_cross_entropy(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, targets: Tensor, chunk_values: int = CHUNK_VALUES
) -> Tensor:
    """Summed cross-entropy of ``hidden @ weight.T + bias`` against ``targets``: a scalar, float32 at least.

    The arguments are those of :class:`TargetStates`; only ``hidden`` gets a gradient. ``chunk_values`` is how many
    logits exist at a time.
    """
    rows = _chunk_rows(hidden, weight, chunk_values)
    return _FrozenHeadCrossEntropy.apply(hidden, weight, bias, targets, rows)


def frozen_head_divergence(
    student: TargetStates, teacher: Teacher, options: DivergenceOptions, chunk_values: int = CHUNK_VALUES
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, cross-entropy, divergence) of a student from its teacher, summed over positions.

    Scalars in float32 at least, of which only the loss has a gradient. ``teacher`` is of the same positions and comes
    from :func:`teacher_summary`; it may be stored on another device.
    """
    rows = _chunk_rows(student.states, student.weight, chunk_values // _buffers(student.states))
    return _FrozenHeadDivergence.apply(
        student.states, student.weight, student.bias, student.targets, teacher, options, rows
    )


@torch.no_grad()
def teacher_summary(teacher: TargetStates, options: DivergenceOptions, chunk_values: int = CHUNK_VALUES) -> Teacher:
    """The teacher as :func:`frozen_head_divergence` takes it, position by position; much smaller than its logits."""
    if options.top_k is None or options.top_k >= teacher.vocabulary - 1:
        return (teacher.states,)
    exact = torch.promote_types(teacher.states.dtype, torch.float32)
    rows = _chunk_rows(teacher.states, teacher.weight, chunk_values // _buffers(teacher.states))
    scores = torch.empty(len(teacher), options.top_k + 1, dtype=exact, device=teacher.states.device)
    ids = torch.empty(len(teacher), options.top_k, dtype=torch.int64, device=teacher.states.device)
    for start in range(0, len(teacher), rows):
        part = slice(start, start + rows)
        logits = _logits(teacher.states[part], teacher.weight, teacher.bias)
        part_scores, part_ids = scores[part], ids[part]
        for tile in _tiles(logits):
            whole = _warmed(torch.log_softmax(logits[tile], dim=-1, dtype=exact), options)
            part_ids[tile] = whole.topk(options.top_k, dim=-1).indices
            part_scores[tile] = _outcomes(whole, part_ids[tile])[0]
    return scores, ids


def _divergence(scores: Tensor, teacher: Teacher, options: DivergenceOptions) -> tuple[Tensor, Tensor]:
    """Divergence of a tile, and its gradient for the student's (warmed) logits, of the shape of ``scores``.

    ``teacher``: its logits, or the log-probabilities and ids of its top tokens.
    """
    if len(teacher) == 1:
        expected = _warmed(torch.log_softmax(teacher[0], dim=-1, dtype=scores.dtype), options)
        return _kl(scores, expected, options.direction)
    expected, ids = teacher
    own, others = _outcomes(scores, ids)
    total, slope = _kl(own, expected, options.direction)
    # The gradient of "all others" is shared out by their probabilities within it; -inf at the top tokens gives 0.
    spread = others.sub_(own[:, -1:]).exp_().mul_(slope[:, -1:])
    return total, spread.scatter_(1, ids, slope[:, :-1])


def _kl(student: Tensor, teacher: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Summed KL divergence of log-probabilities (positions, outcomes), and its gradient for the student's logits.

    Equal log-probabilities give exactly zero for both.
    """
    if direction == "reverse":
        probable, gap = student.exp(), student - teacher
        each = (probable * gap).sum(dim=-1, keepdim=True)
        return each.sum(), gap.sub_(each).mul_(probable)
    probable = teacher.exp()
    total = (teacher - student).mul_(probable).sum()
    return total, student.exp().sub_(probable)


def _outcomes(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ``ids`` and of all others together (positions, top_k + 1); ``scores`` without ``ids``."""
    others = scores.scatter(1, ids, float("-inf"))
    return torch.cat([scores.gather(1, ids), others.logsumexp(dim=-1, keepdim=True)], dim=-1), others


def _warmed(scores: Tensor, options: DivergenceOptions) -> Tensor:
    """Log-probabilities at the temperature, from those at temperature 1."""
    if options.temperature == 1:
        return scores
    return torch.log_softmax(scores / options.temperature, dim=-1)


def _logits(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return hidden if weight is None else F.linear(hidden, weight, bias)


def _buffers(states: Tensor) -> int:
    return 2 if states.device.type == "cpu" else _BUFFERS


def _tiles(logits: Tensor) -> list[slice]:
    """Rows whose float32 values a processor keeps in its cache; on other devices all at once."""
    count = logits.shape[0]
    rows = max(1, TILE_VALUES // logits.shape[1]) if logits.device.type == "cpu" else max(1, count)
    return [slice(start, start + rows) for start in range(0, count, rows)]


def _through_head(slope: Tensor, dtype: torch.dtype, weight: Tensor | None) -> Tensor:
    """Gradient for the hidden states from that of the logits."""
    return slope if weight is None else slope.to(dtype) @ weight.to(dtype)


def _chunk_rows(hidden: Tensor, weight: Tensor | None, chunk_values: int) -> int:
    vocabulary = hidden.shape[1] if weight is None else weight.shape[0]
    return max(
        1, chunk_values // max(1, vocabulary)
    )  # a single position may exceed the limit, and has to be computed
