"""Freed memory is kept by the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from src.common.memory import keep_freed_memory, release_freed_memory
kept = keep_freed_memory()
for _ in range(2):
    bytearray(200 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    bytearray(200 << 20)[::4096]
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
large = [bytearray(20 << 20) for _ in range(10)]
del large[::2], large
release_freed_memory()
size = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(kept, faults, size >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
@pytest.mark.parametrize("given", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_large_arrays_are_not_given_back_unless_the_environment_decides(given: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **given}, capture_output=True, text=True, check=True
    )
    kept, faults, megabytes = found.stdout.split()
    assert kept == str(not given)
    # bytearray takes cleared memory: fresh pages of the system fault when they are read, kept ones do not
    assert (int(faults) < 1000) == (not given)
    assert int(megabytes) < 100
