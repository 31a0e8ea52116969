"""Rows on disk to training examples: joins by key, splits, mixtures, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.dataset.hf_dataset import HFDataset

__all__ = ["HFDataset"]


def __getattr__(name: str) -> Any:
    """``HFDataset``, the published name, loaded when it is asked for: most of this package needs none of it."""
    if name != "HFDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.dataset.hf_dataset import HFDataset

    return HFDataset
