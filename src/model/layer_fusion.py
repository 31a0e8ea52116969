"""One stream from several encoder layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightedAverage(nn.Module):
    """Softmax-weighted sum over layers, one scalar logit a layer (zero at the start, so a plain mean)."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(n_layers))

    def forward(self, states: Tensor) -> Tensor:
        """(layers, ..., frames, dim) to (..., frames, dim)."""
        weights = self.layer_weights.softmax(dim=0)
        return torch.tensordot(weights, states.to(weights.dtype), dims=1)
