"""Types shared by the archive readers and the unpacker: members, errors, and a bound on the content."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

AGAIN = "remove it and run this again"
BY_HAND = "unpack it by hand and give the folder with --from-dir"
ELSEWHERE = "get it from its publisher again, or unpack it by hand and give the folder with --from-dir"
MOST_RATIO = 200
"""Content by size of the archive: audio compresses to a half, text to a tenth."""
_ALWAYS = 1 << 20


class UnpackError(Exception):
    """An archive is damaged, refused or not supported; ``fix`` says what the user can do."""

    def __init__(self, reason: str, fix: str = AGAIN) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True)
class Member:
    """One entry; ``kind`` is ``file``, ``folder`` or another thing in words; ``read`` gives a file's data once."""

    name: str
    kind: str
    size: int
    read: Callable[[], Iterable[bytes | memoryview]] = field(default=tuple)


class Budget:
    """Bytes that an archive of ``size`` bytes may unpack to; raises :class:`UnpackError` beyond."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = max(_ALWAYS, size * MOST_RATIO)

    def spend(self, count: int) -> None:
        """Count bytes of content."""
        self._left -= count
        if self._left < 0:
            raise UnpackError(
                f"its content is more than {MOST_RATIO} times its size ({self._size} bytes), as of an archive bomb",
                ELSEWHERE,
            )


def shown(name: str) -> str:
    """A member's name for a message: one line, printable, not too long."""
    return ascii(name if len(name) <= 120 else name[:117] + "...")
