"""Encoder weights: a local folder or a Hugging Face Hub repository, safetensors only, checked name by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.encoders.base import Encoder
from src.model.encoders.build import build_encoder
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.tensor_files import LARGEST, WEIGHTS_FILE, TensorFiles, find_tensors, peak

log = get_logger(__name__)

# How the names in a file may relate to ours: saved by us, published without the "encoder." of our module, or the
# encoder half of a published encoder-decoder.
RENAMES: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: f"encoder.{name}",
    lambda name: name.removeprefix("model."),
)


def load_encoder(
    name: str,
    config: EncoderSpec | Mapping[str, Any],
    source: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """A trained encoder in ``dtype`` on the CPU, in eval mode.

    Args:
        name: used in messages.
        config: the encoder's settings; its ``weights`` are used where ``source`` is not given.
        source: a folder holding ``model.safetensors`` (relative to the working directory or the repository root),
            such a file, or a Hub id.
        revision: branch, tag or commit of a Hub id.
        dtype: of the weights; tensors named in :attr:`Encoder.float32` stay as they are.

    Raises:
        ConfigError: wrong keys in ``config``.
        UserError: the source cannot be found or read, or does not fit: every missing, extra, misshapen or non-finite
            tensor is named.
    """
    spec = encoder_spec(name, config)
    if source is None:
        source, revision = spec.weights.source, revision or spec.weights.revision
    files = find_tensors(f"encoder {name}: weights", str(source), revision)
    log.info("encoder %s: weights of %s%s", name, source, f" at {revision}" if revision else "")
    return fill_encoder(name, spec, files, dtype=dtype)


def fill_encoder(
    name: str, spec: EncoderSpec, files: TensorFiles, prefix: str = "", dtype: torch.dtype = torch.float32
) -> Encoder:
    """An encoder, in eval mode, with the tensors of ``files`` below ``prefix``; otherwise as :func:`load_encoder`."""
    with torch.device("meta"):
        encoder = build_encoder(name, spec)
    encoder.load_state_dict(
        _fitting_state(encoder, files, prefix, dtype, f"encoder {name}: {files.where}"), assign=True
    )
    return encoder.eval()


def save_encoder(encoder: Encoder, directory: str | Path) -> Path:
    """Write ``directory/model.safetensors`` with the encoder's own names; returns its path."""
    path = Path(directory) / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})
    return path


def _fitting_state(
    encoder: Encoder, files: TensorFiles, prefix: str, dtype: torch.dtype, where: str
) -> dict[str, Tensor]:
    """The encoder's complete state dict; raises ``UserError`` naming every tensor in ``files`` that does not fit."""
    expected = encoder.state_dict()
    stored = [name.removeprefix(prefix) for name in files.names(prefix)]
    rename = max(RENAMES, key=lambda rule: sum(rule(name) in expected for name in stored))
    named = {rename(name): prefix + name for name in stored}
    optional = encoder.unused_prefixes
    with torch.device("cpu"):
        state = {name: torch.zeros(t.shape, dtype=dtype) for name, t in expected.items() if name.startswith(optional)}
        counters = {name: torch.tensor(0) for name in expected if name.endswith(".num_batches_tracked")}
        state |= {**counters, **encoder.computed_tensors()}
    problems: dict[str, list[str]] = {
        "missing": sorted(set(expected) - set(state) - set(named)),
        "extra": sorted(name for name in named if name not in expected and not name.startswith(optional)),
        "misshapen": [],
        "not finite": [],
        "beyond 1e+30": [],
    }
    fitting: dict[torch.dtype, dict[str, str]] = {dtype: {}, torch.float32: {}}
    shapes = files.shapes([named[name] for name in named if name in expected])
    for name, tensor in expected.items():
        shape = shapes.get(named.get(name, ""), tensor.shape)
        if shape == tensor.shape and name in named:
            fitting[torch.float32 if name.endswith(encoder.float32) else dtype][named[name]] = name
        elif shape != tensor.shape and not name.startswith(optional):
            problems["misshapen"].append(f"{name} is {shape}, expected {tuple(tensor.shape)}")
    for wanted, names in fitting.items():
        for source, tensor in files.read(names, wanted):
            state[names[source]] = tensor
            largest = peak(tensor)
            if not largest <= LARGEST:
                problems["beyond 1e+30" if math.isfinite(largest) else "not finite"].append(names[source])
    if any(problems.values()):
        text = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
        raise UserError(f"{where} does not fit the configured {type(encoder).__name__}: {text}")
    return state
