"""Tensors of a model spread over safetensors files: names and shapes first, values when asked, in bounded memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from src.common.errors import UserError, error_text
from src.common.paths import REPO_ROOT

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
LARGEST = 1e30
"""A weight beyond it was never trained, and gives infinite embeddings."""
OPEN_BYTES = 2**28
"""A file is closed after so many bytes: while it is open, pages of it that were read count as memory in use."""

_NO_SAFETENSORS = f"it holds no {WEIGHTS_FILE}; only safetensors are read"
Fetch = Callable[[str], Path | None]
"""Path of a file of the source by its name there, downloaded if need be; None where there is no such file."""


@dataclass(frozen=True)
class TensorFiles:
    """Which file of a source holds which tensor.

    Attributes:
        where: the source, for messages.
        file_of: file name by tensor name.
        fetch: where a file lies; called for the files that are read alone.
    """

    where: str
    file_of: Mapping[str, str]
    fetch: Fetch = field(repr=False)

    @classmethod
    def open(cls, where: str, fetch: Fetch) -> TensorFiles | None:
        """The tensors of a source: by its index, or those of its one file; None where it has neither.

        Raises :class:`UserError` for an index or a file that cannot be read.
        """
        index = fetch(INDEX_FILE)
        if index is None:
            path = fetch(WEIGHTS_FILE)
            return None if path is None else cls.of_files(where, [path])
        file_of = read_json(index, f"{where}: index of tensors").get("weight_map")
        if not isinstance(file_of, dict) or not all(isinstance(file, str) for file in file_of.values()):
            raise UserError(
                f"{where}: {index} has no weight_map of tensor names to file names; fetch or save it again"
            )
        for file in sorted(set(file_of.values())):
            # only files next to the index: it can come from anybody
            if not file.endswith(".safetensors") or "/" in file or "\\" in file or file.startswith("."):
                raise UserError(
                    f"{where}: {index} names the file {file[:100]!r}; expected safetensors files in the same folder"
                )
        return cls(where, file_of, fetch)

    @classmethod
    def of_files(cls, where: str, paths: Collection[Path]) -> TensorFiles:
        """The tensors of local files."""
        by_name = {path.name: path for path in paths}
        file_of: dict[str, str] = {}
        for path in paths:
            with _opened(path, where) as file:
                file_of |= dict.fromkeys(file.keys(), path.name)
        return cls(where, file_of, by_name.get)

    def names(self, prefix: str = "") -> list[str]:
        """Names that begin with ``prefix``, in order."""
        return sorted(name for name in self.file_of if name.startswith(prefix))

    def shapes(self, names: Collection[str]) -> dict[str, tuple[int, ...]]:
        """Shapes by name; only the headers of the files are read."""
        return {name: shape for name, (shape, _) in self.headers(names).items()}

    def headers(self, names: Collection[str]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and safetensors dtype (``F32``, ``BF16``, ...) by name."""
        found = {}
        for path, members in self._by_file(names):
            with _opened(path, self.where) as file:
                for name in members:
                    part = file.get_slice(name)
                    found[name] = (tuple(part.get_shape()), str(part.get_dtype()))
        return found

    def read(self, names: Collection[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and value, file by file; floating-point tensors in ``dtype`` where it is given.

        Raises :class:`UserError` for a file that is missing or broken.
        """
        for path, members in self._by_file(names):
            waiting = list(members)
            while waiting:
                used = 0
                with _opened(path, self.where) as file:
                    while waiting and used < OPEN_BYTES:
                        name = waiting.pop(0)
                        stored = file.get_tensor(name)
                        used += stored.nbytes
                        wanted = dtype if dtype is not None and stored.is_floating_point() else stored.dtype
                        # a copy: the stored tensor lies in the mapped file and would keep its pages in memory;
                        # on the CPU, whatever default device the caller has set
                        yield name, torch.empty(stored.shape, dtype=wanted, device="cpu").copy_(stored)
                        del stored

    def _by_file(self, names: Collection[str]) -> Iterator[tuple[Path, list[str]]]:
        members: dict[str, list[str]] = {}
        for name in names:
            members.setdefault(self.file_of[name], []).append(name)
        for file, inside in sorted(members.items()):
            path = self.fetch(file)
            if path is None:
                raise UserError(f"{self.where}: {file} is missing, it should hold {inside[0]}; fetch it again")
            yield path, inside


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; ``what`` begins the message of the :class:`UserError` when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: {path} cannot be read as JSON ({error_text(error, 120)})") from error
    except RecursionError as error:
        raise UserError(f"{what}: {path} cannot be read as JSON (nested too deeply)") from error
    if not isinstance(content, dict):
        raise UserError(f"{what}: {path} contains a JSON {type(content).__name__}, expected an object")
    return content


@contextmanager
def _opened(path: Path, where: str) -> Iterator[safe_open]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{where}: {path} is not a readable safetensors file ({error}); fetch or save it again"
        ) from error


def gather_full(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; put together from all processes where it is shared out (then all must call this)."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().cpu().contiguous()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # as bytes, since numpy has no bfloat16
        digest.update(gather_full(tensor).flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensor_mismatches(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Every way ``given`` differs from what ``expected`` asks: missing, extra, misshapen or non-finite tensors."""
    # Values are looked at as well: a broken run leaves NaN weights, which would end the next one without a reason.
    both = sorted(set(given) & set(expected))
    groups = {
        "missing": sorted(set(expected) - set(given)),
        "not expected": sorted(set(given) - set(expected)),
        "other shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in both
            if given[name].shape != expected[name].shape
        ],
        "not finite": [name for name in both if not math.isfinite(peak(given[name]))],
        f"beyond {LARGEST:g}": [name for name in both if LARGEST < peak(given[name]) < math.inf],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names]


def peak(tensor: Tensor) -> float:
    """The largest magnitude in a tensor; not a number where there is one such value."""
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    return float(tensor.abs().amax())


def folder_files(folder: Path) -> Fetch:
    """Files of a local folder."""

    def fetch(file: str) -> Path | None:
        path = folder / file
        return path if path.is_file() else None

    return fetch


def hub_files(repo: str, revision: str | None, offline: bool = False) -> Fetch:
    """Files of a Hub repository, downloaded one by one into its cache as they are asked for.

    ``offline`` takes what the cache holds. Otherwise the returned function raises huggingface_hub's own errors when
    the Hub cannot be reached and the file is not in the cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, local_files_only=offline))
        except LocalEntryNotFoundError:
            if offline:
                return None
            raise
        except EntryNotFoundError:
            return None

    return fetch


def find_tensors(what: str, source: str, revision: str | None = None) -> TensorFiles:
    """The tensors of a local file or folder (relative to the working directory or the repository), or of the Hub.

    ``what`` begins the message of the :class:`UserError` when there are none.
    """
    from huggingface_hub.errors import HfHubHTTPError

    local = _local_tensors(what, source)
    if local is not None:
        return local
    reason = _NO_SAFETENSORS
    try:
        tensors = TensorFiles.open(source, hub_files(source, revision))
    except (HfHubHTTPError, OSError, ValueError) as error:
        tensors, reason = None, error_text(error)
    if tensors is None:
        raise _not_fetched(what, source, revision, reason)
    fetch = tensors.fetch

    def fetch_or_explain(file: str) -> Path | None:
        try:
            return fetch(file)
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise _not_fetched(what, source, revision, error_text(error)) from error

    return dataclasses.replace(tensors, fetch=fetch_or_explain)


def find_stored_tensors(what: str, source: str, revision: str | None = None) -> TensorFiles | None:
    """As :func:`find_tensors`, without downloads: ``None`` for a Hub repository that is not completely in the cache.

    Raises :class:`UserError` also for a repository that the Hub does not have, or that has no safetensors.
    """
    from huggingface_hub import HfApi

    local = _local_tensors(what, source)
    if local is not None:
        return local
    stored = TensorFiles.open(source, hub_files(source, revision, offline=True))
    if stored is not None:
        fetch = stored.fetch
        return stored if all(fetch(file) for file in set(stored.file_of.values())) else None
    try:
        siblings = HfApi().model_info(source, revision=revision, timeout=10).siblings or ()
    except Exception as error:  # the Hub's client raises many kinds, those of its HTTP library among them
        raise _not_fetched(what, source, revision, error_text(error)) from error
    if not any(each.rfilename.endswith(".safetensors") for each in siblings):
        raise _not_fetched(what, source, revision, _NO_SAFETENSORS)
    return None


def _local_tensors(what: str, source: str) -> TensorFiles | None:
    """The tensors of a local source; None for one that can only be an id of the Hub."""
    for base in (Path.cwd(), REPO_ROOT):
        path = base / source
        if path.is_file():
            return TensorFiles.of_files(source, [path])
        if path.is_dir():
            # an index may be missing where a download was put together by hand
            tensors = TensorFiles.open(source, folder_files(path))
            shards = sorted(path.glob("model*.safetensors")) if tensors is None else []
            if tensors is None and not shards:
                raise UserError(f"{what}: folder {path} holds no {WEIGHTS_FILE}; only safetensors are read")
            return tensors or TensorFiles.of_files(source, shards)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{what} {source} do not exist; give a folder with {WEIGHTS_FILE} or a Hub id (owner/name)")
    return None


def _not_fetched(what: str, source: str, revision: str | None, reason: str) -> UserError:
    where = f"{what} {source}" + (f" at revision {revision}" if revision else "")
    return UserError(
        f"{where} cannot be fetched from the Hugging Face Hub ({reason}); check the name, the revision and the "
        "connection, or give a local folder"
    )
