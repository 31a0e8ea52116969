"""Where the benchmarks' files lie: pinned revisions, and checksums where they are known."""

from __future__ import annotations

from dataclasses import dataclass

from src.download.sources import DownloadSource, HubFile, drive_file, github_file


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split: metadata, and audio as archives (unpacked beside each other) or a tree of files."""

    metadata: DownloadSource
    audio: tuple[DownloadSource, ...]


def sources() -> dict[str, dict[str, SplitFiles]]:
    """Files by benchmark and split; the pinned revisions are those of the published system.

    MMAU-Pro, which it does not use, is taken as it is today: its answers are in no fixed edition that we know of.
    """
    mmau = ("Sakshi113/MMAU", "8e0ed4cd58363e546dda52cc21f9a733e684bae3")
    mmau_test = HubFile("gamma-lab-umd/MMAU-test", "8e835a9f64ed6c703b3c9ddb6d423d9ab697061e", "test-audios.tar.gz")
    mmar = ("BoJack/MMAR", "3bd051123480e80d273ae9e8e9f1653f49010ac7")
    mmsu, air, pro = "ddwang2000/MMSU", "qyang1021/AIR-Bench-Dataset", "gamma-lab-umd/MMAU-Pro"
    return {
        "mmau": {
            "test-mini": SplitFiles(
                github_file(*mmau, "mmau-test-mini.json", "git:a2f7539b"),
                (drive_file("1fERNIyTa0HWry6iIG1X-1ACPlUlhlRWA", "test-mini-audios.tar.gz"),),
            ),
            "test": SplitFiles(github_file(*mmau, "mmau-test.json"), (mmau_test,)),
        },
        "mmar": {
            "test": SplitFiles(
                HubFile(*mmar, "MMAR-meta.json", "git:f85f6328"), (HubFile(*mmar, "mmar-audio.tar.gz"),)
            )
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
