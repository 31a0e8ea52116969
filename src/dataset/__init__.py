"""Saved data sets: joins by key, splits, mixtures, training examples, row logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.dataset.hf_dataset import HFDataset

__all__ = ["HFDataset"]


def __getattr__(name: str) -> Any:
    """Import the published name ``HFDataset`` on first use: most of this package does not need it."""
    if name != "HFDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.dataset.hf_dataset import HFDataset

    return HFDataset
