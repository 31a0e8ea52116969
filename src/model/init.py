"""Initial values of the trainable parts."""

from __future__ import annotations

import torch
from torch import nn

STD = 0.02
"""The published spread of new weights: right for widths of a thousand."""


@torch.no_grad()
def init_weights(root: nn.Module, std: float = STD) -> None:
    """Set new adapters and fusions: linear and 1-D conv weights normal with ``std``, biases 0; norms 1 and 0; joint
    attention input projections Xavier uniform. Bare parameters (latents, layer weights, separators) are set by the
    modules that own them."""
    for module in root.modules():
        if isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
