"""Encoder weights: a local folder or a Hugging Face Hub repository, safetensors only, checked name by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.encoders.base import Encoder
from src.model.encoders.build import build_encoder
from src.model.encoders.config import EncoderSpec, encoder_spec

log = get_logger(__name__)
REPO_ROOT = Path(__file__).resolve().parents[3]
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

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
) -> Encoder:
    """A trained encoder in float32 on the CPU, in eval mode.

    Args:
        name: used in messages.
        config: the encoder's settings; its ``weights`` are used where ``source`` is not given.
        source: a folder holding ``model.safetensors`` (relative to the working directory or the repository root),
            such a file, or a Hub id.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ConfigError: wrong keys in ``config``.
        UserError: the source cannot be found or read, or does not fit: every missing, extra, misshapen or non-finite
            tensor is named.
    """
    spec = encoder_spec(name, config)
    if source is None:
        source, revision = spec.weights.source, revision or spec.weights.revision
    files = _weight_files(name, str(source), revision)
    with torch.device("meta"):
        encoder = build_encoder(name, spec)
    encoder.load_state_dict(_fitting_state(encoder, files, f"encoder {name}: {source}"), assign=True)
    log.info("encoder %s: weights of %s%s", name, source, f" at {revision}" if revision else "")
    return encoder.eval()


def save_encoder(encoder: Encoder, directory: str | Path) -> Path:
    """Write ``directory/model.safetensors`` with the encoder's own names; returns its path."""
    path = Path(directory) / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})
    return path


def _weight_files(name: str, source: str, revision: str | None) -> list[Path]:
    for base in (Path.cwd(), REPO_ROOT):
        path = base / source
        if path.is_file():
            return [path]
        if path.is_dir():
            return _files_in(name, path)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _hub_files(name, source, revision)
    raise UserError(
        f"encoder {name}: weights {source} do not exist; give a folder with {WEIGHTS_FILE} or a Hub id (owner/name)"
    )


def _files_in(name: str, folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UserError(f"encoder {name}: folder {folder} holds no {WEIGHTS_FILE}; only safetensors are read")
    return files


def _hub_files(name: str, repo: str, revision: str | None) -> list[Path]:
    import json

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo, file, revision=revision))

    where = f"encoder {name}: weights {repo}" + (f" at revision {revision}" if revision else "")
    try:
        try:
            return [fetch(WEIGHTS_FILE)]
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            shards = json.loads(fetch(INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()
            return [fetch(shard) for shard in sorted(set(shards))]
    except (HfHubHTTPError, LocalEntryNotFoundError, EntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{where} cannot be fetched from the Hugging Face Hub ({reason}); check the name, the revision and the "
            "connection, or give a local folder"
        ) from error


def _fitting_state(encoder: Encoder, files: list[Path], where: str) -> dict[str, Tensor]:
    """The encoder's complete state dict; raises ``UserError`` naming every tensor in ``files`` that does not fit."""
    expected = encoder.state_dict()
    stored = _read(files, where)
    rename = max(RENAMES, key=lambda rule: sum(rule(name) in expected for name in stored))
    found = {rename(name): tensor for name, tensor in stored.items()}
    optional = encoder.unused_prefixes
    with torch.device("cpu"):
        state = {name: torch.zeros(t.shape) for name, t in expected.items() if name.startswith(optional)}
        counters = {name: torch.tensor(0) for name in expected if name.endswith(".num_batches_tracked")}
        state |= {**counters, **encoder.computed_tensors()}
    extra = sorted(name for name in found if name not in expected and not name.startswith(optional))
    misshapen = []
    broken = []
    for name, tensor in found.items():
        if name not in expected:
            continue
        if tensor.shape == expected[name].shape:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                broken.append(name)
        elif not name.startswith(optional):
            misshapen.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
    shaped_wrong = {entry.split(" ")[0] for entry in misshapen}
    missing = sorted(set(expected) - set(state) - shaped_wrong)
    problems = {"missing": missing, "extra": extra, "misshapen": sorted(misshapen), "not finite": sorted(broken)}
    if any(problems.values()):
        text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{where} does not fit the configured {type(encoder).__name__}: {text}")
    return state


def _read(files: list[Path], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        for path in files:
            with safe_open(str(path), framework="pt") as file:
                tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{where}: {path} cannot be read as safetensors ({error}); fetch or save it again") from error
    return tensors
