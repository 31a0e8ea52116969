"""Files that can be downloaded: behind a web address, in a Hub repository at a revision, in a shared Drive folder."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class WebFile:
    """A file behind a plain address, kept as ``name``.

    ``checksum`` is ``sha256:…``, ``md5:…`` or ``git:…`` (a git blob id, which may be cut short), if one is known.
    ``manual`` is the page for people, named when the file must be fetched by hand.
    """

    url: str
    name: str
    checksum: str | None = None
    manual: str = ""


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository at a revision; ``path`` may be a pattern such as ``audio/**``.

    ``checksum`` as for :class:`WebFile`; a pattern has none.
    """

    repo: str
    revision: str
    path: str
    checksum: str | None = None
    repo_type: str = "dataset"

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_pattern(self) -> bool:
        """Whether ``path`` stands for several files."""
        return any(sign in self.path for sign in "*?[")


@dataclass(frozen=True)
class DriveFolderFile:
    """The file ``name`` somewhere in the shared folder of Google Drive at ``url``, which only gdown can list."""

    url: str
    name: str
    checksum: str | None = None


DownloadSource = WebFile | HubFile | DriveFolderFile


def github_file(repo: str, commit: str, path: str, checksum: str | None = None) -> WebFile:
    """A file of a GitHub repository at a commit; ``GITHUB_RAW_ENDPOINT`` names a mirror."""
    root = os.environ.get("GITHUB_RAW_ENDPOINT", "https://raw.githubusercontent.com")
    page = f"https://github.com/{repo}/blob/{commit}/{path}"
    return WebFile(f"{root}/{repo}/{commit}/{path}", path.rsplit("/", 1)[-1], checksum, page)


def drive_file(file_id: str, name: str, checksum: str | None = None) -> WebFile:
    """A shared file of Google Drive, past its page about large files; ``GOOGLE_DRIVE_ENDPOINT`` names a mirror."""
    # `confirm` passes the page about files that are too large to be scanned for viruses:
    # https://github.com/ndrplz/google-drive-downloader/pull/30
    root = os.environ.get("GOOGLE_DRIVE_ENDPOINT", "https://drive.usercontent.google.com")
    page = f"https://drive.google.com/file/d/{file_id}/view"
    return WebFile(f"{root}/download?id={file_id}&export=download&confirm=t", name, checksum, page)
