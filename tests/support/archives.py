"""Small archives of every format that is unpacked, and what is in them."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

_RANDOM = random.Random(0)
FILES = {
    **{f"a/{number}.wav": _RANDOM.randbytes(size) for number, size in enumerate((512, 0, 700, 1024, 700, 300))},
    "b/ü.txt": b"text " * 60,
    "b/" + "long" * 40 + ".txt": b"more text",
}
"""Files with and without padding in a tar, empty, compressible, with a name beyond ASCII and one of 166 letters."""
TARS = ("tar", "gnu.tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")
ZIPS = ("stored.zip", "deflated.zip", "bzip2.zip", "lzma.zip")
_METHODS = {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}


def packed(kind: str, files: dict[str, bytes] | None = None) -> bytes:
    """An archive of one of ``TARS``, ``ZIPS`` or ``7z``."""
    files = FILES if files is None else files
    data = io.BytesIO()
    if kind.endswith(".zip"):
        with zipfile.ZipFile(data, "w", _METHODS[kind.split(".")[0]]) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind == "7z":
        import py7zr

        with py7zr.SevenZipFile(data, "w") as archive_7z:
            for name, content in files.items():
                archive_7z.writestr(content, name)
    else:
        return tarred(*((member(name, size=len(content)), content) for name, content in files.items()), kind=kind)
    return data.getvalue()


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    """The header of a member of a tar."""
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def tarred(*members: tuple[tarfile.TarInfo, bytes], kind: str = "tar.gz") -> bytes:
    """A tar of any members."""
    data = io.BytesIO()
    method = {"tgz": "gz", "tar": ""}.get(kind.split(".")[-1], kind.split(".")[-1])
    form = tarfile.GNU_FORMAT if kind.startswith("gnu") else tarfile.PAX_FORMAT
    with tarfile.open(fileobj=data, mode=f"w:{method}", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def found(folder: Path) -> dict[str, bytes]:
    """Files below a folder by their path; marks left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
