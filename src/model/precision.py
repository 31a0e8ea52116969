"""Precision: names of dtypes in configurations, and frozen weights stored as autocast would cast them."""

from __future__ import annotations

import torch
from torch import nn

from src.common.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MATMUL = (nn.Linear, nn.Conv1d, nn.Conv2d)


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype of a name in a configuration. Raises :class:`ConfigError` for any other name."""
    if name not in _DTYPES:
        raise ConfigError(f"{name!r} is no precision of an audio embedder, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def computes_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 are about as fast as those of float32 on a kind of device (``cpu``, ``cuda``).

    torch has no kernels for a CPU without AVX-512 (or its equal on ARM): a training step took 20 times longer.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # no oneDNN in builds for macOS
    return device != "cpu" or (supported is not None and bool(supported()))


def cast_frozen_weights(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Cast in place, once, what autocast would cast in every step: linear layers and convolutions.

    Under autocast to ``dtype`` the results stay equal bit for bit, as norms, embeddings and the residual stream keep
    float32; the weights take half the memory. Frozen modules only. Two kinds of layers are left alone: those whose
    weight is computed (weight norm), and those whose weight is also the table of an embedding (a tied output layer),
    which autocast does not cast. Raises :class:`ValueError` for a weight that is trained. Returns ``module``.
    """
    # parameters that other modules use as well: a tied output layer shares the table of the embedding
    elsewhere = {
        id(parameter)
        for part in module.modules()
        if not isinstance(part, _MATMUL)
        for parameter in part.parameters(recurse=False)
    }
    for name, layer in module.named_modules():
        # a weight norm computes its weight in every step, from parts that autocast leaves in float32
        if not isinstance(layer, _MATMUL) or nn.utils.parametrize.is_parametrized(layer):
            continue
        if any(id(value) in elsewhere for value in layer.parameters(recurse=False)):
            continue
        if any(value.requires_grad for value in layer.parameters(recurse=False)):
            raise ValueError(f"{name} is trained; only frozen weights can be held in {dtype}")
        layer.to(dtype)
    return module
