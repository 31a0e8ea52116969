"""Archives unpacked once, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into ``folder``; a mark beside the archive tells that it was done, so that it is not done again.

    Raises :class:`UserError` if the archive is damaged or holds paths that leave the folder.
    """
    mark = archive.with_name(f".{archive.name}.unpacked")
    if mark.exists():
        return
    log.info("unpacking %s", archive)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        elif shutil.which("pigz") and shutil.which("tar") and not archive.name.endswith(".tar"):
            done = subprocess.run(
                ["tar", "--use-compress-program=pigz", "-xf", str(archive), "-C", str(folder)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise tarfile.ReadError(done.stderr.strip()[-200:])
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}; remove it and run this again") from error
    mark.touch()
