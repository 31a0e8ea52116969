"""Freed memory of a process on Linux: kept for the next tensors instead of given back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed, arrays of up to 1 GiB included; whether it does.

    The process stays at its peak of memory. Nothing is changed with another C library.
    """
    # the user has said how memory is to be kept:
    # https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl; Windows knows no library None
        return False
    # By default arrays over 32 MiB go back to the system at once, which clears every page of the next one: a sixth of
    # a training step on a CPU. glibc before 2.35 takes no threshold over 32 MiB, but needs no mapping for each.
    large = mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) or mallopt(_M_MMAP_MAX, 0)
    return bool(large) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_freed_memory() -> None:
    """Give what :func:`keep_freed_memory` keeps back to the system, so that the process's size is what it uses."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
