"""Errors that end in one line without a traceback: those of the user, and those of the machine.

Faults of the machine (a lost device, no memory, a broken, full or read-only disk, no network) belong to no row: a run
that meets one ends, and what it has not finished is done again by the next start.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import socket
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal


class UserError(Exception):
    """Bad input: the message says what, what was got, what was expected, and the fix. Exit code 1."""

    exit_code = 1


class ConfigError(UserError):
    """A command line or configuration that cannot be used. Exit code 2."""

    exit_code = 2


def name_hint(name: str, known: Iterable[str]) -> str:
    """Suggestion for a message about an unknown name: the closest of the known ones, or all of them."""
    listed = list(known)
    close = difflib.get_close_matches(name, listed, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(listed)}"


class MachineError(UserError):
    """Failure of the machine: unfinished rows get no result and are done by the next start."""


MachineFault = Literal["device", "memory", "disk"]

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
    errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
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
    errno.ENOTDIR: "a part of this path: a file is where a folder is needed; choose another, or move the file away",
    errno.EEXIST: "a file is where a folder is needed; choose another folder, or move the file away",
    errno.EISDIR: "a folder is where a file is needed; choose another file name",
    errno.EFBIG: "the file is larger than this file system or `ulimit -f` allows; choose another folder",
    errno.ENAMETOOLONG: "the name is longer than this file system allows; choose a shorter one",
    errno.ELOOP: "its symbolic links go in a circle; choose another folder",
}
_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""Where libraries in Rust and C++ (safetensors, Arrow) put the number."""
_TORCH_WRITE = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*(unexpected pos|write)", re.DOTALL)
_NETWORK_MODULES = (
    "httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3", "aiohttp", "huggingface_hub", "urllib",
)  # fmt: skip
_NETWORK_TYPES = re.compile(
    r"Connect|Timeout|Network|Protocol|MaxRetry|NameResolution|Proxy|Offline|URLError|SSLError"
)
_HUB_TEXT = re.compile(r"couldn't connect to|Cannot reach http|offline mode is enabled|Max retries exceeded", re.I)
_NOTE = "while writing "
_SPARE_BYTES = 256 * 2**20
"""Memory that can be allocated unless the machine has run out of it."""


def error_text(error: BaseException, most: int = 300) -> str:
    """Text of an error in one line of at most ``most`` characters; the name of its type if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def one_line(error: BaseException, most: int = 300) -> str:
    """An error as one line: its type and text."""
    kind, text = type(error).__name__, error_text(error, most)
    return kind if text == kind else f"{kind}: {text}"


def machine_fault(error: BaseException) -> MachineFault | None:
    """Kind of machine fault that an error or one of its causes is; ``None`` for any other error.

    ``memory`` means that something did not fit into the device or the host. This may also be the fault of one clip
    that is too large; the caller must find out.
    """
    for each in _chain(error):
        if type(each).__module__.partition(".")[0] == "av":
            continue  # FFmpeg reports damaged files as "Input/output error"
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

    If memory for others is left, a clip that needs too much of it is at fault itself.
    """
    fault = machine_fault(error)
    if fault == "memory":
        try:
            bytearray(_SPARE_BYTES)
        except MemoryError:
            pass
        else:
            return
    if fault is not None:
        raise MachineError(explain(error) or one_line(error)) from error


def explain(error: BaseException) -> str | None:
    """One line about an error of the machine, with the path or address and the fix; ``None`` for other errors."""
    for each in _chain(error):
        number = _number(each)
        if isinstance(each, OSError) and _of_semaphores(each):
            return (
                f"/dev/shm: worker processes need it ({each.strerror}); make room there, mount it for writing, or "
                "work without them (--jobs 0, training_args.dataloader_num_workers=0)"
            )
        if number in _WRITING and not _of_network(each):
            names = (getattr(each, name, None) for name in ("filename", "filename2"))  # two files: a move
            named = [str(os.fsdecode(name)) for name in names if name]
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
    """Add the ``folder`` that was written to an error: errors of a full disk often name no file."""
    error.add_note(f"{_NOTE}{folder}")


def _place(error: BaseException) -> str:
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_NOTE)]
    return notes[0].removeprefix(_NOTE) if notes else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, without the errors that were merely handled before it (``__context__``)."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def _is_a(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether a class of the error has one of these names, so that libraries need not be imported."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _of_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        return True
    kinds = type(error).__mro__
    return any(
        kind.__module__.partition(".")[0] in _NETWORK_MODULES and _NETWORK_TYPES.search(kind.__name__)
        for kind in kinds
    )


def _of_semaphores(error: OSError) -> bool:
    """Whether an error was raised while a semaphore was made, which Linux keeps in ``/dev/shm`` (sem_overview(7))."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "multiprocessing.synchronize" for frame, _ in frames)


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    known = isinstance(error, OSError) or type(error).__name__ in ("SafetensorError", "ArrowException", "HDF5Error")
    found = _IN_TEXT.search(str(error)) if known else None
    return int(found[1] or found[2]) if found else None
