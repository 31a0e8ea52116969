"""Text and audio as one sequence of embeddings, with labels.

One item is ``[system][start][audio start][audio][audio end][main][outputs]``. Nothing here knows a model: ``embed``
turns ids into embeddings, and audio comes as ready rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from src.common.errors import UserError

IGNORE = -100
Separators = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Turn:
    """Token ids of one conversation turn, without special tokens added.

    ``start`` is the head of the user turn, before the audio; ``main`` all that follows up to the generation prompt;
    ``outputs`` the target (training only); ``system`` a rendered system turn in front.
    """

    start: list[int]
    main: list[int]
    outputs: list[int] | None = None
    system: list[int] | None = None


@dataclass(frozen=True)
class Spliced:
    """A batch for the LLM.

    Attributes:
        inputs_embeds: (batch, length, llm_dim), zero on padding.
        attention_mask: (batch, length) int64, one on real positions.
        labels: (batch, length) int64 with -100 wherever nothing is to be predicted; None without outputs.
        targets_cut: for each item, how many target tokens ``max_length`` cut off.
        without_targets: items that lost every target token, or had none.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    labels: Tensor | None
    targets_cut: tuple[int, ...] = ()
    without_targets: tuple[int, ...] = ()


def splice_items(
    embed: Callable[[Tensor], Tensor],
    turns: Sequence[Turn],
    audio: Sequence[Tensor] | None = None,
    separators: Separators = None,
    max_length: int | None = None,
) -> tuple[list[Tensor], list[list[int]]]:
    """Embeddings (length_i, llm_dim) and labels (length_i) of every item, cut on the right, not padded.

    ``audio`` is None for text only. Raises :class:`UserError` when the numbers of turns and audio items differ.
    """
    if audio is not None and len(audio) != len(turns):
        raise UserError(f"splice: got {len(audio)} audio items for {len(turns)} turns, expected one each")
    texts = [_texts(turn) for turn in turns]
    device = audio[0].device if audio else None
    embedded = _embed_all(embed, [ids for pair in texts for ids in pair], device)
    items, labels = [], []
    for index, turn in enumerate(turns):
        before, after = embedded[2 * index], embedded[2 * index + 1]
        parts = [before, after]
        if audio is not None:
            rows = [audio[index]] if separators is None else [separators[0], audio[index], separators[1]]
            parts = [before, *(row.to(device=before.device, dtype=before.dtype) for row in rows), after]
        item = torch.cat(parts)
        outputs = turn.outputs or []
        items.append(item[:max_length])
        labels.append(([IGNORE] * (len(item) - len(outputs)) + outputs)[:max_length])
    return items, labels


def splice_batch(
    embed: Callable[[Tensor], Tensor],
    turns: Sequence[Turn],
    audio: Sequence[Tensor] | None = None,
    separators: Separators = None,
    padding_side: Literal["left", "right"] = "right",
    max_length: int | None = None,
) -> Spliced:
    """Spliced items padded to the longest. Padding is by position, so a pad id inside an answer keeps its label.

    Labels are given as soon as one turn has outputs. Truncation never goes unnoticed: see ``Spliced.targets_cut``
    and ``Spliced.without_targets``.
    """
    items, item_labels = splice_items(embed, turns, audio, separators, max_length)
    length = max(len(item) for item in items)
    spans = [slice(length - len(item), length) if padding_side == "left" else slice(0, len(item)) for item in items]
    mask = torch.zeros(len(items), length, dtype=torch.int64)
    labels = torch.full((len(items), length), IGNORE, dtype=torch.int64)
    padded = []
    for index, (item, span) in enumerate(zip(items, spans, strict=True)):
        mask[index, span] = 1
        labels[index, span] = torch.tensor(item_labels[index], dtype=torch.int64)
        padded.append(torch.nn.functional.pad(item, (0, 0, span.start, length - span.stop)))
    embeds = torch.stack(padded)
    targets = [len(turn.outputs or []) for turn in turns]
    kept = (labels != IGNORE).sum(dim=1).tolist()
    return Spliced(
        inputs_embeds=embeds,
        attention_mask=mask.to(embeds.device, non_blocking=True),
        labels=labels.to(embeds.device, non_blocking=True) if any(targets) else None,
        targets_cut=tuple(wanted - left for wanted, left in zip(targets, kept, strict=True)),
        without_targets=tuple(index for index, left in enumerate(kept) if left == 0) if any(targets) else (),
    )


def _texts(turn: Turn) -> tuple[list[int], list[int]]:
    """Ids before and after the audio."""
    return [*(turn.system or []), *turn.start], [*turn.main, *(turn.outputs or [])]


def _embed_all(
    embed: Callable[[Tensor], Tensor], pieces: list[list[int]], device: torch.device | None
) -> list[Tensor]:
    """One call of ``embed`` for all pieces; a tensor (length, dim) for each."""
    ids = torch.tensor([token for piece in pieces for token in piece], dtype=torch.int64, device=device)
    return list(embed(ids).split([len(piece) for piece in pieces]))
