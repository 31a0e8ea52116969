"""Where the benchmarks' files lie: pinned revisions, and checksums where they are known."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class WebFile:
    """A file behind a plain address. ``blob`` starts its git blob id (SHA-1 of header and content), if known."""

    url: str
    name: str
    blob: str | None = None
    manual: str = ""


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face data set at a revision; ``path`` may be a pattern such as ``audio/**``."""

    repo: str
    revision: str
    path: str
    blob: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]


Source = WebFile | HubFile


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split: metadata, and audio as archives (unpacked beside each other) or a tree of files."""

    metadata: Source
    audio: tuple[Source, ...]


def _github(path: str, blob: str | None = None) -> WebFile:
    root = os.environ.get("GITHUB_RAW_ENDPOINT", "https://raw.githubusercontent.com")
    return WebFile(f"{root}/{path}", path.rsplit("/", 1)[-1], blob)


def _drive(file_id: str, name: str) -> WebFile:
    root = os.environ.get("GOOGLE_DRIVE_ENDPOINT", "https://drive.usercontent.google.com")
    page = f"https://drive.google.com/file/d/{file_id}/view"
    return WebFile(f"{root}/download?id={file_id}&export=download&confirm=t", name, manual=page)


def sources() -> dict[str, dict[str, SplitFiles]]:
    """Files by benchmark and split. ``GITHUB_RAW_ENDPOINT`` and ``GOOGLE_DRIVE_ENDPOINT`` name mirrors.

    The Hub's mirror is ``HF_ENDPOINT``. The pinned revisions are those of the published system.
    """
    mmau = "Sakshi113/MMAU/8e0ed4cd58363e546dda52cc21f9a733e684bae3"
    mmau_test = HubFile("gamma-lab-umd/MMAU-test", "8e835a9f64ed6c703b3c9ddb6d423d9ab697061e", "test-audios.tar.gz")
    mmar = ("BoJack/MMAR", "3bd051123480e80d273ae9e8e9f1653f49010ac7")
    mmsu, air, pro = "ddwang2000/MMSU", "qyang1021/AIR-Bench-Dataset", "gamma-lab-umd/MMAU-Pro"
    return {
        "mmau": {
            "test-mini": SplitFiles(
                _github(f"{mmau}/mmau-test-mini.json", "a2f7539b"),
                (_drive("1fERNIyTa0HWry6iIG1X-1ACPlUlhlRWA", "test-mini-audios.tar.gz"),),
            ),
            "test": SplitFiles(_github(f"{mmau}/mmau-test.json"), (mmau_test,)),
        },
        "mmar": {
            "test": SplitFiles(HubFile(*mmar, "MMAR-meta.json", "f85f6328"), (HubFile(*mmar, "mmar-audio.tar.gz"),))
        },
        "mmsu": {
            "test": SplitFiles(
                HubFile(mmsu, "2568d7b939286b19a0be93b767886e29c7874445", "question/mmsu.jsonl"),
                (HubFile(mmsu, "4b230b59ac5ae4cd074b4efddfc459496000111b", "audio/**"),),
            )
        },
        "airbench": {
            "test": SplitFiles(
                HubFile(air, "df92055c320edc10183f930d0df72740e9b33147", "Foundation/Foundation_meta.json"),
                (HubFile(air, "7766a6f775ab20013e957353961007ab157a5d46", "Foundation/**"),),
            )
        },
        "mmaupro": {"test": SplitFiles(HubFile(pro, "main", "test.parquet"), (HubFile(pro, "main", "data.zip"),))},
    }
