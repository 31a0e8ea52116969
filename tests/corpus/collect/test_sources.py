"""From given files, archives and a loopback server to the tree that recipes read."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.corpus.collect.sources import Workspace, gather, given_folder
from src.corpus.recipe import Files, HubRows, Options, Recipe, web
from src.download import download
from src.download.sources import WebFile
from src.download.unpack import unpack, unpack_volumes
from tests.support.toy_corpus import RECIPE, write_toy


def tree(folder: Path) -> dict[str, bytes]:
    """Files below a folder by their path, marks left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def zipped(folder: Path) -> bytes:
    """All files below a folder as a ZIP archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree(folder).items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Address, served folder, and the requests that came."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_request(self, *args: object) -> None:
            asked.append(f"{self.command} {self.path}")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, asked
        httpd.shutdown()


def with_sources(*sources: Files) -> Recipe:
    """The toy corpus from other sources."""
    return dataclasses.replace(RECIPE, sources=sources)


def test_fetched_unpacked_once_and_archives_removed(tmp_path: Path, server: tuple[str, Path, list[str]]) -> None:
    address, served, asked = server
    write_toy(tmp_path / "up", 3)
    content = zipped(tmp_path / "up")
    (served / "a.zip").write_bytes(content[:2000])
    (served / "b.zip").write_bytes(content[2000:])
    (served / "list.txt").write_text("x")
    checksum = hashlib.md5(content[:2000]).hexdigest()
    parts = (WebFile(f"{address}/a.zip", "a.zip", f"md5:{checksum}"), WebFile(f"{address}/b.zip", "b.zip"))
    recipe = with_sources(Files(parts, "toy", "zip"), web(f"{address}/list.txt?x=1", "meta/list.txt", into="meta"))
    work = Workspace(tmp_path / "work")
    inputs = gather(recipe, work, Options())
    assert tree(inputs.path("toy")) == tree(tmp_path / "up/toy") and inputs.path("meta/list.txt").read_text() == "x"
    assert list(work.downloads.iterdir()) == []
    asked.clear()
    gather(recipe, work, Options())
    assert asked == []


def test_a_wrong_checksum_and_a_wrong_archive_are_told(tmp_path: Path, server: tuple[str, Path, list[str]]) -> None:
    address, served, _ = server
    write_toy(tmp_path / "up", 1)
    (served / "a.zip").write_bytes(zipped(tmp_path / "up"))
    wrong = Files((WebFile(f"{address}/a.zip", "a.zip", "md5:" + "0" * 32),), "toy")
    with pytest.raises(UserError, match="a.zip is not the expected file: md5"):
        gather(with_sources(wrong), Workspace(tmp_path / "one"), Options())
    with pytest.raises(UserError, match="a.zip holds no other"):
        gather(with_sources(web(f"{address}/a.zip", "other")), Workspace(tmp_path / "two"), Options())
    with pytest.raises(UserError, match="404.*--from-dir"):
        gather(with_sources(web(f"{address}/none.zip", "toy")), Workspace(tmp_path / "three"), Options())


def test_given_archives_and_trees_need_no_network(tmp_path: Path) -> None:
    write_toy(tmp_path / "up", 2)
    given = tmp_path / "given"
    given.mkdir()
    (given / "toy.zip").write_bytes(zipped(tmp_path / "up"))
    inputs = gather(RECIPE, Workspace(tmp_path / "work", given), Options())
    assert tree(inputs.path("toy")) == tree(tmp_path / "up/toy")
    assert (given / "toy.zip").is_file(), "what the user gave is not removed"
    direct = gather(RECIPE, Workspace(tmp_path / "work2", tmp_path / "up"), Options())
    assert direct.path("toy") == tmp_path / "up/toy"
    with pytest.raises(UserError, match="toy/none is in none of"):
        direct.path("toy/none")


def test_a_folder_of_many_corpora(tmp_path: Path) -> None:
    (tmp_path / "all/toy/wavs").mkdir(parents=True)
    (tmp_path / "flat/toy").mkdir(parents=True)
    (tmp_path / "hub/toy/data").mkdir(parents=True)
    (tmp_path / "hub/toy/data/train.parquet").touch()
    elsewhere = with_sources(web("http://x/y.zip", "wavs"))
    rows = dataclasses.replace(RECIPE, sources=(HubRows("a/b", "c"),))
    assert given_folder(tmp_path / "all", elsewhere) == tmp_path / "all/toy"
    assert given_folder(tmp_path / "flat", RECIPE) == tmp_path / "flat"
    assert given_folder(tmp_path / "flat", elsewhere) is None, "what is not there is fetched"
    assert given_folder(tmp_path / "hub", rows) == tmp_path / "hub/toy"
    assert given_folder(tmp_path / "all", rows) is None
    assert given_folder(None, RECIPE) is None
    with pytest.raises(UserError, match="is not a folder"):
        given_folder(tmp_path / "none", RECIPE)


def test_too_little_room_is_told_before_the_first_byte(
    tmp_path: Path, server: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served, asked = server
    (served / "a.zip").write_bytes(b"x" * 10_000)
    usage = type("Usage", (), {"free": 29_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    recipe = with_sources(web(f"{address}/a.zip", "toy"))
    with pytest.raises(UserError, match="toy needs about 0.0 GB.*--ignore-space"):
        gather(recipe, Workspace(tmp_path / "work"), Options())
    assert asked == ["HEAD /a.zip"]


def test_an_archive_in_the_archive(tmp_path: Path) -> None:
    write_toy(tmp_path / "up", 2)
    given = tmp_path / "given"
    given.mkdir()
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as inner:
        inner.add(tmp_path / "up/toy", "toy")
    with tarfile.open(given / "outer.tar.gz", "w:gz") as outer:
        outer.add(tmp_path / "inner.tar.gz", "Raw/inner.tar.gz")
    recipe = with_sources(web("http://x/outer.tar.gz", "Raw/toy", inner=("Raw/inner.tar.gz",)))
    inputs = gather(recipe, Workspace(tmp_path / "work", given), Options())
    assert tree(inputs.path("Raw")) == tree(tmp_path / "up")


def test_a_tar_that_was_cut_anywhere(tmp_path: Path) -> None:
    write_toy(tmp_path / "up", 5)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        archive.add(tmp_path / "up/toy", "toy")
    data, paths = whole.getvalue(), []
    for number in range(7):
        paths.append(tmp_path / f"part_{number:02d}")
        paths[-1].write_bytes(data[number * len(data) // 7 : (number + 1) * len(data) // 7])
    assert tree(unpack_volumes(paths, "tar", tmp_path / "out")) == tree(tmp_path / "up")
    with pytest.raises(UserError, match="part_00.* cannot be unpacked"):
        unpack_volumes(paths[:4], "tar", tmp_path / "half")


def split_volumes(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    """A stored ZIP archive as zip's own volumes: a mark in front, places of members by volume."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    mark = b"PK\x07\x08"
    body = bytearray(mark + data)
    bounds = [0, *(cut + len(mark) for cut in cuts), len(body)]

    def place(offset: int) -> tuple[int, int]:
        volume = max(number for number, start in enumerate(bounds[:-1]) if start <= offset)
        return volume, offset - bounds[volume]

    directory = archive.start_dir + len(mark)
    at = directory
    for info in archive.infolist():
        volume, offset = place(info.header_offset + len(mark))
        struct.pack_into("<H", body, at + 34, volume)
        struct.pack_into("<I", body, at + 42, offset)
        at += 46 + len(info.filename) + len(info.extra) + len(info.comment)
    last, offset = place(directory)
    struct.pack_into("<HH", body, at + 4, len(bounds) - 2, last)
    struct.pack_into("<I", body, at + 16, offset)
    return [bytes(body[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]


def test_zip_volumes_are_read_without_joining_them(tmp_path: Path) -> None:
    write_toy(tmp_path / "up", 6)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name, content in tree(tmp_path / "up").items():
            archive.writestr(name, content)
    size = len(data.getvalue())
    paths = []
    for number, volume in enumerate(split_volumes(data.getvalue(), (size // 3, 2 * size // 3))):
        paths.append(tmp_path / f"a.z{number}")
        paths[-1].write_bytes(volume)
    assert tree(unpack_volumes(paths, "split_zip", tmp_path / "out")) == tree(tmp_path / "up")


def test_a_7z_archive(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    write_toy(tmp_path / "up", 2)
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "up/toy", "toy")
    assert tree(unpack(tmp_path / "a.7z", tmp_path / "out")) == tree(tmp_path / "up")
    (tmp_path / "b.7z").write_bytes((tmp_path / "a.7z").read_bytes()[:500])
    with pytest.raises(UserError, match="b.7z cannot be unpacked"):
        unpack(tmp_path / "b.7z", tmp_path / "out")


def test_rows_of_a_copy_of_the_repository(tmp_path: Path) -> None:
    from datasets import Dataset

    from src.corpus.collect.sources import open_rows

    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict({"id": [split], "x": [1]}).to_parquet(
            str(tmp_path / f"data/{split}-00000-of-00001.parquet")
        )
    rows = open_rows(HubRows("a/b", "c"), tmp_path, tmp_path / "cache")
    assert {split: found["id"][:] for split, found in rows.items()} == {"train": ["train"]}
    both = open_rows(HubRows("a/b", "c", splits=("test", "train")), tmp_path, tmp_path / "cache")
    assert both["train"]["id"][:] == ["test", "train"]
    with pytest.raises(UserError, match="has no split dev; it has"):
        open_rows(HubRows("a/b", "c", splits=("dev",)), tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_rows(HubRows("a/b", "c"), tmp_path / "data/none", tmp_path / "cache")


def test_hub_rows_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from src.common.retry import RetryPolicy
    from src.corpus.collect.sources import open_rows

    calls = []

    def load(*args: object, **options: object) -> object:
        calls.append((args, options["revision"]))
        if len(calls) == 1:
            raise ConnectionError("reset")
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})})

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = open_rows(HubRows("a/b", "c0ffee"), None, tmp_path, policy=RetryPolicy(2, first_wait=0.0))
    assert len(rows["train"]) == 1 and calls == [(("a/b", None), "c0ffee")] * 2
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: (_ for _ in ()).throw(ConnectionError("x"))
    )
    with pytest.raises(UserError, match="a/b: 2 attempts failed"):
        open_rows(HubRows("a/b", "c"), None, tmp_path, policy=RetryPolicy(2, first_wait=0.0))
