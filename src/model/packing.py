"""Attention over packed batches: items follow each other in one row, and none attends to another.

transformers packs from restarted ``position_ids`` where the LLM uses flash-attention (variable-length kernels) or
flex attention (block masks). For its default, PyTorch's scaled dot product, it would build a mask of the whole row,
so that attention costs the square of all items together. :func:`use_packed_attention` replaces that default by a
function that attends item by item: on a GPU in half precision with PyTorch's variable-length kernel where the
attention is plainly causal, else with one call of scaled dot product per item. Families that have eager attention
only get a block-diagonal mask. All masks come from transformers itself for each type of layer (full, sliding
window, chunked), in the positions of each item. Batches that are not packed take the usual way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from src.common.errors import UserError

PACKED = "alarm_packed"
"""Name of the attention in transformers' registry."""
_HALF = (torch.bfloat16, torch.float16)
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Relative difference that rounding explains, by dtype of the LLM's arithmetic; 3e-2 in half precision."""
_LARGEST_HEAD = 256
"""Values of a head that flash-attention takes at most."""
_items: ContextVar[tuple[int, ...] | None] = ContextVar("lengths of the items of the packed batch", default=None)


@dataclass(frozen=True)
class PackedMask:
    """Takes the place of the attention mask in the layers of an LLM that reads a packed batch.

    Attributes:
        lengths: positions of each item.
        bounds: (items + 1,) int32 on the batch's device: where each item begins, and the end of the last.
        masks: for each item its mask (1, 1, length, length), or None where its attention is plainly causal.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    masks: tuple[Tensor | None, ...]


def packed_mask(**options: Any) -> Tensor | PackedMask | None:
    """The mask of a type of layer as transformers asks for it: of each item inside :func:`packed`, else sdpa's."""
    lengths = _items.get()
    if lengths is None:
        return sdpa_mask(**options)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(options["device"], torch.int32, non_blocking=True)
    return PackedMask(lengths, bounds, tuple(_item_masks(sdpa_mask, lengths, options)))


def packed_eager_mask(**options: Any) -> Tensor | None:
    """The additive mask (1, 1, length, length) of eager attention, block-diagonal inside :func:`packed`."""
    lengths = _items.get()
    if lengths is None:
        return eager_mask(**options)
    size, dtype = sum(lengths), options["dtype"]
    whole = torch.full((1, 1, size, size), torch.finfo(dtype).min, dtype=dtype, device=options["device"])
    start = 0
    for length, mask in zip(lengths, _item_masks(eager_mask, lengths, options), strict=True):
        whole[..., start : start + length, start : start + length] = mask
        start += length
    return whole


def _item_masks(make: Any, lengths: Sequence[int], options: Mapping[str, Any]) -> list[Any]:
    """The mask of every item as if it were alone; items of one length share it."""
    own = {**options, "batch_size": 1, "q_offset": 0, "kv_offset": 0, "attention_mask": None}
    by_length = {length: make(**{**own, "q_length": length, "kv_length": length}) for length in set(lengths)}
    return [by_length[length] for length in lengths]


# Lengths differ from batch to batch: compiled, it would be compiled again for nearly each.
@torch.compiler.disable
def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Attention of ``query`` (1, heads, length, head_dim) within each item; (1, length, heads, head_dim) and None."""
    if not isinstance(attention_mask, PackedMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("position_bias") is not None:
        raise UserError(f"packing: {type(module).__name__} adds a bias to its attention; set packing=false")
    # autocast does not reach into varlen_attn, which has to be given half precision
    dtype = (
        torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    )
    if _takes_kernel(query, value, attention_mask, dtype, options):
        # (length, heads, head_dim), as the kernel reads one long row with the bounds of its items
        queries, keys, values = (each.to(dtype)[0].transpose(0, 1).contiguous() for each in (query, key, value))
        bounds, longest = attention_mask.bounds, max(attention_mask.lengths)
        attended = varlen_attn(
            queries,
            keys,
            values,
            bounds,
            bounds,
            longest,
            longest,
            scale=options.get("scaling"),
            window_size=(-1, 0),  # everything before a position, nothing behind it
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended[None], None
    pieces = zip(*(tensor.split(attention_mask.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    found = [
        sdpa_attention_forward(module, *piece, mask, **options)[0]
        for piece, mask in zip(pieces, attention_mask.masks, strict=True)
    ]
    return torch.cat(found, dim=1), None


def _takes_kernel(
    query: Tensor, value: Tensor, mask: PackedMask, dtype: torch.dtype, options: Mapping[str, Any]
) -> bool:
    plain = all(one is None for one in mask.masks) and not options.get("dropout")
    return plain and query.is_cuda and dtype in _HALF and query.shape[-1] == value.shape[-1] <= _LARGEST_HEAD


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
AttentionMaskInterface.register("eager", packed_eager_mask)  # each family has an eager attention of its own


def use_packed_attention(llm: Any) -> None:
    """Let an LLM take packed batches. Raises :class:`UserError` for a family whose layers get no positions."""
    if "position_ids" not in inspect.signature(llm.get_decoder().forward).parameters:
        raise UserError(
            f"packing: {type(llm).__name__} takes no position_ids, which packing restarts; set packing=false"
        )
    if llm.config._attn_implementation == "sdpa":
        llm.set_attn_implementation(PACKED)


@contextmanager
def packed(lengths: Sequence[int] | None) -> Iterator[None]:
    """While active, masks are made for a row of items of these lengths; with None for padded rows."""
    token = _items.set(None if lengths is None else tuple(lengths))
    try:
        yield
    finally:
        _items.reset(token)


def packed_inputs(llm: Any, embeds: Tensor, lengths: Sequence[int]) -> dict[str, Tensor]:
    """Inputs of the LLM for a packed row of embeddings (1, length, dim), to be run inside :func:`packed`."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(embeds.device, non_blocking=True)
    inputs = {"inputs_embeds": embeds, "position_ids": positions}
    if llm.config._attn_implementation in (PACKED, "eager"):
        # With a mask of ones transformers leaves the row as it is; without, it would look for items in the positions.
        inputs["attention_mask"] = torch.ones_like(positions)
    return inputs


@torch.no_grad()
def check_packing(llm: Any, embeds: Tensor) -> None:
    """Compare two packed items with each of them alone.

    ``embeds`` (length, dim) are any embeddings of the LLM, at least five. Raises :class:`UserError` where the LLM
    carries something from one item to the next, or counts positions through, as state-space models do.
    """
    cut = max(2, 2 * len(embeds) // 5)
    items = [embeds[:cut], embeds[cut:]]
    decoder = llm.get_decoder()
    with packed([len(item) for item in items]):
        inputs = packed_inputs(llm, embeds[None], [len(item) for item in items])
        together = decoder(**inputs, use_cache=False).last_hidden_state[0]
    alone = [decoder(inputs_embeds=item[None], use_cache=False).last_hidden_state[0] for item in items]
    expected = torch.cat(alone).double()
    difference = float((together.double() - expected).norm() / expected.norm().clamp(min=1e-12))
    arithmetic = torch.get_autocast_dtype(embeds.device.type)
    if not torch.is_autocast_enabled(embeds.device.type):
        arithmetic = together.dtype
    if not difference <= _TOLERANCE.get(arithmetic, 3e-2):
        raise UserError(
            f"packing: {type(llm).__name__} does not keep packed items apart (states differ by {difference:.1g} of "
            "their size from those of each item alone); set packing=false"
        )
