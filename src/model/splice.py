"""Splices text and audio into one sequence of embeddings, with labels.

One item is ``[prefix][audio start][audio][audio end][suffix][target]``. Nothing here depends on a model: ``embed``
turns ids into embeddings, and audio comes as embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from src.common.errors import UserError

IGNORE = -100
"""Label without a loss: what torch's ``cross_entropy`` and transformers leave out."""
Separators = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class TokenizedTurn:
    """Token ids of one conversation turn around its audio, without special tokens added.

    ``prefix_ids`` is everything before the audio: a system turn and the head of the user turn; ``suffix_ids`` what
    follows it up to the generation prompt; ``target_ids`` the response to learn (training only).
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    target_ids: list[int] | None = None


@dataclass(frozen=True)
class Spliced:
    """A batch for the LLM: one row per item, padded, or all items packed into one row.

    Attributes:
        inputs_embeds: (batch, length, llm_dim), zero on padding; packed: (1, length, llm_dim).
        attention_mask: (batch, length) int64, one on real positions.
        labels: (batch, length) int64 with -100 wherever nothing is to be predicted; None without targets.
        targets_cut: for each item, how many target tokens ``max_length`` cut off.
        without_targets: items that lost every target token, or had none.
        packed: lengths of the items of a packed row, in order; None for padded rows.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    labels: Tensor | None
    targets_cut: tuple[int, ...] = ()
    without_targets: tuple[int, ...] = ()
    packed: tuple[int, ...] | None = None

    @property
    def positions(self) -> int:
        """Positions that the LLM computes, padding included."""
        return self.inputs_embeds.shape[0] * self.inputs_embeds.shape[1]

    def items(self) -> list[Tensor]:
        """Embeddings (length_i, llm_dim) of every item, without padding."""
        if self.packed is not None:
            return list(self.inputs_embeds[0].split(self.packed))
        return [row[mask.bool()] for row, mask in zip(self.inputs_embeds, self.attention_mask, strict=True)]

    def predicted(self) -> list[int]:
        """Target tokens of every item that a position before them predicts."""
        assert self.labels is not None
        given = (self.labels[:, 1:] != IGNORE).cpu()
        if self.packed is None:
            return given.sum(dim=1).tolist()
        # an item's first position has no label, so that all of its targets are in the part that begins there
        parts = torch.nn.functional.pad(given[0], (1, 0)).split(self.packed)
        return [int(part.sum()) for part in parts]


def splice_items(
    embed: Callable[[Tensor], Tensor],
    turns: Sequence[TokenizedTurn],
    audio: Sequence[Tensor] | None = None,
    separators: Separators = None,
    max_length: int | None = None,
) -> tuple[list[Tensor], list[list[int]]]:
    """Embeddings (length_i, llm_dim) and labels (length_i) of every item, cut on the right, not padded.

    ``audio`` is None for text only. Raises :class:`UserError` when the numbers of turns and audio items differ.
    """
    if audio is not None and len(audio) != len(turns):
        raise UserError(f"splice: got {len(audio)} audio items for {len(turns)} turns, expected one each")
    pieces = [ids for turn in turns for ids in (turn.prefix_ids, [*turn.suffix_ids, *(turn.target_ids or [])])]
    # One call of ``embed`` for the whole batch: a kernel launch per piece would cost more than the lookup.
    ids = torch.tensor(
        [token for piece in pieces for token in piece], dtype=torch.int64, device=audio[0].device if audio else None
    )
    embedded = embed(ids).split([len(piece) for piece in pieces])
    items, labels = [], []
    for index, turn in enumerate(turns):
        before, after = embedded[2 * index], embedded[2 * index + 1]
        parts = [before, after]
        if audio is not None:
            rows = [audio[index]] if separators is None else [separators[0], audio[index], separators[1]]
            parts = [before, *(row.to(device=before.device, dtype=before.dtype) for row in rows), after]
        item = torch.cat(parts)
        targets = turn.target_ids or []
        items.append(item[:max_length])
        labels.append(([IGNORE] * (len(item) - len(targets)) + targets)[:max_length])
    return items, labels


def pack_batch(
    embed: Callable[[Tensor], Tensor],
    turns: Sequence[TokenizedTurn],
    audio: Sequence[Tensor] | None = None,
    separators: Separators = None,
    max_length: int | None = None,
) -> Spliced:
    """Spliced items one after the other in one row, without padding.

    As in padded rows, the first position of an item is predicted by none: it has no label.
    """
    items, item_labels = splice_items(embed, turns, audio, separators, max_length)
    kept = [sum(label != IGNORE for label in labels) for labels in item_labels]
    embeds = torch.cat(items)[None]
    # the first label of an item would be predicted by the last position of the item before it
    labels = torch.tensor([label for labels in item_labels for label in [IGNORE, *labels[1:]][: len(labels)]])
    return Spliced(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, embeds.shape[1], dtype=torch.int64, device=embeds.device),
        labels=labels[None].to(embeds.device, non_blocking=True) if any(turn.target_ids for turn in turns) else None,
        packed=tuple(len(item) for item in items),
        **_lost_targets(turns, kept),
    )


def splice_batch(
    embed: Callable[[Tensor], Tensor],
    turns: Sequence[TokenizedTurn],
    audio: Sequence[Tensor] | None = None,
    separators: Separators = None,
    padding_side: Literal["left", "right"] = "right",
    max_length: int | None = None,
) -> Spliced:
    """Spliced items padded to the longest. Padding is by position, so a pad id inside an answer keeps its label.

    Labels are given as soon as one turn has targets. Truncation never goes unnoticed: see ``Spliced.targets_cut``
    and ``Spliced.without_targets``.
    """
    items, item_labels = splice_items(embed, turns, audio, separators, max_length)
    length = max(len(item) for item in items)
    # on the right in training, on the left where generation goes on from the end of every item
    spans = [slice(length - len(item), length) if padding_side == "left" else slice(0, len(item)) for item in items]
    mask = torch.zeros(len(items), length, dtype=torch.int64)
    labels = torch.full((len(items), length), IGNORE, dtype=torch.int64)
    padded = []
    for index, (item, span) in enumerate(zip(items, spans, strict=True)):
        mask[index, span] = 1
        labels[index, span] = torch.tensor(item_labels[index], dtype=torch.int64)
        padded.append(torch.nn.functional.pad(item, (0, 0, span.start, length - span.stop)))
    embeds = torch.stack(padded)
    return Spliced(
        inputs_embeds=embeds,
        attention_mask=mask.to(embeds.device, non_blocking=True),
        labels=labels.to(embeds.device, non_blocking=True) if any(turn.target_ids for turn in turns) else None,
        **_lost_targets(turns, (labels != IGNORE).sum(dim=1).tolist()),
    )


def _lost_targets(turns: Sequence[TokenizedTurn], kept: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """``targets_cut`` and ``without_targets`` of items of which ``kept`` target tokens are left."""
    targets = [len(turn.target_ids or []) for turn in turns]
    return {
        "targets_cut": tuple(wanted - left for wanted, left in zip(targets, kept, strict=True)),
        "without_targets": tuple(index for index, left in enumerate(kept) if left == 0) if any(targets) else (),
    }
