"""Faults of the machine, not of a row: a lost device, no memory, a broken, full or read-only disk, no network.

A run that meets one ends in one line; what it has not finished is done again by the next start.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from src.common.errors import UserError

Fault = Literal["device", "memory", "disk"]

_DEVICE = re.compile(
    r"CUDA (driver )?error|device-side assert|HIP error|hipError|ROCm error|Triton Error|MPS backend"
    r"|XPU error|UR error|level.?zero|NPU error|MUSA error|NCCL error|RCCL error|(CUDA|GPU|XPU) (device )?is lost"
    r"|fallen off the bus",
    re.IGNORECASE,
)
_DEVICE_TYPES = ("AcceleratorError", "DistBackendError")
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED|hipErrorOutOfMemory", re.IGNORECASE
)
_BROKEN = {
    getattr(errno, name)
    for name in ("EIO", "ENXIO", "ENODEV", "ESTALE", "ENOTCONN", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT")
}
"""Errors of reading that other files would meet as well; a missing or forbidden file is the row's own."""
_WRITING = {
    errno.ENOSPC: "the disk is full; free some space, or choose another folder, and start again",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder, and start again",
    errno.EROFS: "the file system is read-only; choose another folder, or mount it for writing",
    errno.EACCES: "permission denied; change its permissions, or choose another folder",
    errno.EPERM: "not permitted; change its permissions, or choose another folder",
    errno.EIO: "the disk cannot be read or written; check it, and start again",
    errno.ESTALE: "the network file system has lost the file; mount it again, and start again",
    errno.ENOTCONN: "the network file system is not connected; mount it again, and start again",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n), or use fewer workers",
    errno.ENFILE: "too many open files on this machine; close other programs, or raise the limit",
    errno.ENOMEM: "no memory is left; use smaller batches or fewer workers",
    errno.EFBIG: "the file is larger than this file system or `ulimit -f` allows; choose another folder",
}
_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""Where libraries in Rust and C++ (safetensors, Arrow) put the number."""
_TORCH_WRITE = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*(unexpected pos|write)", re.DOTALL)
_NETWORK_MODULES = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "huggingface_hub", "urllib")
_NETWORK_TYPES = re.compile(
    r"Connect|Timeout|Network|Protocol|MaxRetry|NameResolution|Proxy|Offline|URLError|SSLError"
)
_HUB_TEXT = re.compile(r"couldn't connect to|Cannot reach http|offline mode is enabled|Max retries exceeded", re.I)


_NOTE = "while writing "
_ROOM = 256 * 2**20
"""Bytes that a machine with memory can spare."""


class MachineError(UserError):
    """The machine has failed: what was under way is nobody's result, and is done again by the next start."""


def one_line(error: BaseException, most: int = 300) -> str:
    """An error as one line: its type and text."""
    text = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def machine_fault(error: BaseException) -> Fault | None:
    """Whether the machine is at fault, found by the error and its causes; ``None`` for any other error.

    ``memory`` says that something did not fit: into the device or the host. It may also be the fault of one clip that
    is too large; whoever raised it must find out.
    """
    for each in _chain(error):
        if type(each).__module__.partition(".")[0] == "av":
            continue  # FFmpeg says "Input/output error" of damaged files
        text = str(each)
        memory = isinstance(each, MemoryError) or "OutOfMemory" in type(each).__name__ or _MEMORY.search(text)
        if memory and not isinstance(each, UserError):
            return "memory"
        if _is_a(each, _DEVICE_TYPES) or (isinstance(each, RuntimeError) and _DEVICE.search(text)):
            return "device"
        if isinstance(each, OSError) and each.errno in _BROKEN and not _of_network(each):
            return "disk"
    return None


def check_host(error: BaseException) -> None:
    """Raise :class:`MachineError` if a clip failed because the disk is broken or full, or memory has run out.

    Memory that one clip alone asked too much of is the clip's fault: there is room for others.
    """
    fault = machine_fault(error)
    if fault == "memory":
        try:
            bytearray(_ROOM)
        except MemoryError:
            pass
        else:
            return
    if fault is not None:
        raise MachineError(explain(error) or one_line(error)) from error


def explain(error: BaseException) -> str | None:
    """One line about a fault of the machine, with the path or address and the fix; ``None`` for other errors."""
    for each in _chain(error):
        number = _number(each)
        if number in _WRITING and not _of_network(each):
            named = [str(os.fsdecode(name)) for name in (getattr(each, "filename", None), _second(each)) if name]
            where = " -> ".join(named) or _place(error)
            return f"{where}: {_WRITING[number]}" if where else f"{_WRITING[number]} ({one_line(each)})"
        if _TORCH_WRITE.search(str(each)):
            return f"{_place(error) or 'a file'}: cannot be written; is the disk full? ({one_line(each, 150)})"
        if _of_network(each) or (isinstance(each, OSError) and _HUB_TEXT.search(str(each))):
            return (
                f"no answer from the network ({one_line(each)}); check the address and the connection, or give a "
                "folder of this machine in place of a Hub name"
            )
        if _is_a(each, ("HfHubHTTPError",)):
            return f"the Hugging Face Hub does not do it ({one_line(each)}); check the name, HF_TOKEN and your rights"
    fault = machine_fault(error)
    if fault == "device":
        return f"the device is lost ({one_line(error)}); what is finished is kept, start again to go on"
    if fault == "memory":
        return f"no memory is left ({one_line(error)}); use smaller batches, or end what else uses the device"
    return None


def say_where(error: BaseException, folder: Path) -> None:
    """Note on an error that it happened while ``folder`` was written: errors of a full disk often name no file."""
    error.add_note(f"{_NOTE}{folder}")


def _place(error: BaseException) -> str:
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_NOTE)]
    return notes[0].removeprefix(_NOTE) if notes else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes; not what it merely came after (``__context__``)."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def _is_a(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether a class of the error has one of these names: libraries are not imported for it."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _of_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        return True
    kinds = type(error).__mro__
    return any(
        kind.__module__.partition(".")[0] in _NETWORK_MODULES and _NETWORK_TYPES.search(kind.__name__)
        for kind in kinds
    )


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    known = isinstance(error, OSError) or type(error).__name__ in ("SafetensorError", "ArrowException", "HDF5Error")
    found = _IN_TEXT.search(str(error)) if known else None
    return int(found[1] or found[2]) if found else None


def _second(error: BaseException) -> str | None:
    """The target of a move."""
    return getattr(error, "filename2", None)
