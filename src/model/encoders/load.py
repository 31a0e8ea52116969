"""Encoders by configuration, with random or trained weights.

Weights come from a local folder or a Hugging Face Hub repository, safetensors only, checked name by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from src.common.errors import ConfigError, UserError, error_text
from src.common.log import get_logger
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.tensor_files import (
    LARGEST,
    WEIGHTS_FILE,
    TensorFiles,
    find_stored_tensors,
    find_tensors,
    peak,
)

log = get_logger(__name__)

RENAMES: tuple[Callable[[str], str], ...] = (
    lambda name: name,  # saved by us
    lambda name: f"encoder.{name}",  # published, without the "encoder." of our module
    lambda name: name.removeprefix("model."),  # the encoder half of a published encoder-decoder
)
"""How the names in a file may relate to ours."""
MOST_NAMES = 12
"""Tensors that a message lists by name."""


def build_encoder(name: str, config: EncoderSpec | Mapping[str, Any]) -> Encoder:
    """A randomly initialised encoder; ``name`` is used in error messages only.

    Raises:
        ConfigError: unknown, missing or mistyped keys, all in one message; sizes that do not fit each other.
    """
    spec = encoder_spec(name, config)
    architecture = spec.bound_architecture(f"encoder {name}.architecture")
    try:
        return spec.module().from_config(architecture, spec.features)
    except (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError) as error:
        reason = error_text(error, 200)
        raise ConfigError(f"encoder {name}.architecture: no encoder can be built from it ({reason})") from error


def load_encoder(
    name: str,
    config: EncoderSpec | Mapping[str, Any],
    source: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """A trained encoder in ``dtype`` on the CPU, in eval mode; ``name`` is used in messages.

    Its weights are those of ``source`` (see :func:`find_tensors`) at ``revision``, else of ``config.weights``, and
    without either as its class builds it; tensors named in :attr:`Encoder.float32` keep their precision.

    Raises:
        ConfigError: wrong keys in ``config``.
        UserError: the source cannot be found or read, or does not fit: sizes that differ, or missing, extra,
            misshapen and non-finite tensors by name.
    """
    spec = encoder_spec(name, config)
    if source is None and spec.weights is None:
        return build_encoder(name, spec).to(dtype).eval()
    if source is None and spec.weights is not None:
        source, revision = spec.weights.source, revision or spec.weights.revision
    where = f"encoder {name}: weights"
    loaded = spec.module().from_source(spec.bound_architecture(), spec.features, str(source), revision, where)
    files = find_tensors(where, str(source), revision) if loaded is None else None
    log.info("encoder %s: weights of %s%s", name, source, f" at {revision}" if revision else "")
    if files is not None:
        return fill_encoder(name, spec, files, dtype=dtype)
    assert loaded is not None
    wrong = sorted(name for name, value in loaded.state_dict().items() if not peak(value) <= LARGEST)
    if wrong:
        raise UserError(
            f"{where} of {source}: not finite, or beyond {LARGEST:g}: {', '.join(wrong[:5])}; fetch or save it again"
        )
    for name, value in itertools.chain(loaded.named_parameters(), loaded.named_buffers()):
        if value.is_floating_point() and not name.endswith(loaded.float32):
            value.data = value.data.to(dtype)
    return loaded.eval()


def check_encoder(name: str, spec: EncoderSpec) -> None:
    """Raise :class:`UserError` where :func:`load_encoder` would, for all that can be seen without reading values.

    Nothing is downloaded: of a Hub repository that is not in the cache, only the names of its files are asked for.
    """
    with torch.device("meta"):
        encoder = build_encoder(name, spec)
    # a class that loads its source by itself has its own names and formats of files
    if spec.weights is None or "from_source" in vars(spec.module()):
        return
    where = f"encoder {name}: weights"
    files = find_stored_tensors(where, spec.weights.source, spec.weights.revision)
    if files is not None:
        _, _, problems = _match(encoder, files, "", torch.float32, f"encoder {name}: {files.where}")
        _raise_problems(encoder, problems, f"encoder {name}: {files.where}")


def fill_encoder(
    name: str, spec: EncoderSpec, files: TensorFiles, prefix: str = "", dtype: torch.dtype = torch.float32
) -> Encoder:
    """An encoder, in eval mode, with the tensors of ``files`` below ``prefix``; otherwise as :func:`load_encoder`."""
    with torch.device("meta"):
        encoder = build_encoder(name, spec)
    expected, where = encoder.state_dict(), f"encoder {name}: {files.where}"
    state, fitting, problems = _match(encoder, files, prefix, dtype, where)
    for wanted, names in fitting.items():
        for source, tensor in files.read(names, wanted):
            rows = expected[names[source]].shape[:1]  # fewer than are stored for a table that is cut
            state[names[source]] = tensor if tensor.shape[:1] == rows else tensor[: rows[0]].clone()
            largest = peak(tensor)
            if not largest <= LARGEST:
                problems["beyond 1e+30" if math.isfinite(largest) else "not finite"].append(names[source])
    _raise_problems(encoder, problems, where)
    # assign: the modules are on the meta device, which has no memory to copy into
    encoder.load_state_dict(state, assign=True)
    fill_computed_buffers(encoder, lambda: build_encoder(name, spec))
    return encoder.eval()


def save_encoder(encoder: Encoder, directory: str | Path) -> Path:
    """Write ``directory/model.safetensors`` with the encoder's own names; returns its path."""
    path = Path(directory) / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})
    return path


def fill_computed_buffers(module: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Set buffers that are still on the meta device, as no file contains them, to those that ``build`` computes."""
    lacking = [name for name, value in module.named_buffers() if value.is_meta]
    built = build() if lacking else module
    for name in lacking:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, built.get_buffer(name))


def _match(
    encoder: Encoder, files: TensorFiles, prefix: str, dtype: torch.dtype, where: str
) -> tuple[dict[str, Tensor], dict[torch.dtype, dict[str, str]], dict[str, list[str]]]:
    """Compare names and shapes of ``files`` with an encoder; no value is read.

    Returns the tensors that need no file, by dtype the stored name -> our name of those to read, and the problems.
    """
    expected = encoder.state_dict()
    stored = [name.removeprefix(prefix) for name in files.names(prefix)]
    # One rule for a whole file: it is of one kind, and a name by itself could fit two rules.
    rename = max(RENAMES, key=lambda rule: sum(rule(name) in expected for name in stored))
    named = {rename(name): prefix + name for name in stored}
    optional = encoder.unused_prefixes
    with torch.device("cpu"):
        state = {name: torch.zeros(t.shape, dtype=dtype) for name, t in expected.items() if name.startswith(optional)}
        # some files lack them, and only train mode reads them
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
    read = {ours: theirs for ours, theirs in named.items() if ours in expected or not ours.startswith(optional)}
    shapes = files.shapes(read.values())
    _check_sizes(encoder, {ours: shapes[theirs] for ours, theirs in read.items()}, where)
    for name, tensor in expected.items():
        shape = shapes.get(named.get(name, ""), tensor.shape)
        if name in encoder.cut_tables and shape[1:] == tensor.shape[1:] and shape[0] > tensor.shape[0]:
            log.info("%s: chunks are short, the first %d of %d positions are used", where, len(tensor), shape[0])
            fitting[dtype][named[name]] = name
        elif shape == tensor.shape and name in named:
            fitting[torch.float32 if name.endswith(encoder.float32) else dtype][named[name]] = name
        elif shape != tensor.shape and not name.startswith(optional):
            problems["misshapen"].append(f"{name} is {shape}, expected {tuple(tensor.shape)}")
    return state, fitting, problems


def _raise_problems(encoder: Encoder, problems: Mapping[str, list[str]], where: str) -> None:
    shown = []
    for kind, names in problems.items():
        more = f" and {len(names) - 8} more" if len(names) > MOST_NAMES else ""
        listed = ", ".join(sorted(names)[: 8 if more else None])
        shown += [f"{kind}: {listed}{more}"] if names else []
    if shown:
        raise UserError(f"{where} does not fit the configured {type(encoder).__name__}: {'; '.join(shown)}")


def _check_sizes(encoder: Encoder, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise :class:`UserError` with the sizes that differ, where the tensors show them; names would fill pages."""
    own = encoder.stored_sizes({name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()})
    stored = encoder.stored_sizes(shapes)
    differing = [f"{key} is {stored[key]}, configured {own[key]}" for key in stored if stored[key] != own.get(key)]
    if differing:
        raise UserError(
            f"{where} has other sizes than configured: {'; '.join(differing)}; correct them, or give a source with a "
            "config.json, which decides the sizes in a training"
        )
