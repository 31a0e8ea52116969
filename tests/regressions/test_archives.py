"""Rows R1 to R4: damaged archives that passed as whole, links that were written through, tracebacks and bombs."""

from __future__ import annotations

import errno
import http.server
import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.common.retry import RetryPolicy
from src.corpus.collect import sources
from src.corpus.collect.sources import Workspace, gather
from src.corpus.recipe import Files, Options, web
from src.download import unpack as unpacker
from src.download.download import fetch
from src.download.sources import WebFile
from src.download.unpack import unpack, unpack_volumes
from tests.corpus.collect.test_sources import with_sources
from tests.support.archives import FILES, TARS, ZIPS, found, member, packed, tarred

CASES = REPO_ROOT / "tests/reference/cases/archives"
ALL = (*TARS, *ZIPS, "7z")


def result(folder: Path, name: str, data: bytes) -> dict[str, bytes] | str:
    """Content that a file unpacks to, or the message; then nothing may be left."""
    archive, out = folder / name, folder / "out"
    archive.write_bytes(data)
    try:
        unpack(archive, out)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and name in message and "; " in message
        assert not list(out.iterdir()), "a refused archive leaves nothing"
        return message
    files = found(out)
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return files


def refused(folder: Path, name: str, data: bytes) -> str:
    message = result(folder, name, data)
    assert isinstance(message, str), f"{name} was unpacked: {list(message)}"
    return message


def headers(data: bytes) -> list[int]:
    """Places of the members' own headers in a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset_data - 512 for info in archive]


# R1: cut or changed archives were unpacked as far as they could be read, and marked as done


@pytest.mark.parametrize("kind", ALL)
def test_r1_every_cut_is_refused(tmp_path: Path, kind: str) -> None:
    data = packed(kind)
    assert result(tmp_path, f"x.{kind}", data) == FILES
    whole = len(data)
    if kind in ("tar", "gnu.tar"):  # content, its padding, and one block of zeros that ends the archive
        last = (len(data.rstrip(b"\0")) + 511) // 512 * 512
        whole = last + 512
    for size in sorted({*range(0, whole, max(1, whole // 60)), *range(0, whole, 512), whole - 1}):
        refused(tmp_path, f"x.{kind}", data[:size])


@pytest.mark.parametrize("kind", ALL)
def test_r1_no_flipped_byte_changes_the_content(tmp_path: Path, kind: str) -> None:
    data = packed(kind)
    places = range(0, len(data), max(1, len(data) // 120))
    if kind in ("tar", "gnu.tar"):  # a tar has checksums of its headers only
        places = [start + place for start in headers(data) for place in range(0, 512, 13)]  # type: ignore[assignment]
    count = 0
    for place in places:
        changed = bytearray(data)
        changed[place] ^= (1, 32, 128, 255)[place % 4]
        unpacked = result(tmp_path, f"x.{kind}", bytes(changed))
        count += isinstance(unpacked, str)
        assert isinstance(unpacked, str) or unpacked == FILES, f"byte {place}"
    assert count > len(places) // 4


def test_r1_zeros_in_the_middle(tmp_path: Path) -> None:
    data = packed("tar")
    for start in headers(data)[:-1]:
        message = refused(tmp_path, "x.tar", data[:start] + bytes(512) + data[start + 512 :])
        assert "zeros stand in place of a header" in message or "a member that is not there" in message
    big = packed("tar", {f"{number}": bytes([1]) * 20_000 for number in range(9)})
    start = headers(big)[4]
    assert "only zeros" in refused(tmp_path, "x.tar", big[:start] + bytes(len(big) - start))


@pytest.mark.parametrize("blocks", [2, 20, 256])
def test_r1_padding_to_a_record_of_any_length_is_no_damage(tmp_path: Path, blocks: int) -> None:
    data = packed("tar")
    data = data[: len(data.rstrip(b"\0")) // 512 * 512 + 512]
    assert result(tmp_path, "x.tar", data + bytes(1024) + bytes(-(len(data) + 1024) % (512 * blocks))) == FILES


@pytest.mark.parametrize("kind", ALL)
def test_r1_data_behind_the_end(tmp_path: Path, kind: str) -> None:
    if kind != "7z":  # its end is stated in its front, with a checksum
        refused(tmp_path, f"x.{kind}", packed(kind) + b"and more")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_r1_compressed_in_several_streams(tmp_path: Path, kind: str) -> None:
    import bz2
    import gzip
    import lzma

    compress = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[kind]
    plain = packed("tar")
    streams = [compress(plain[place : place + 2000]) for place in range(0, len(plain), 2000)]
    assert result(tmp_path, f"x.{kind}", b"".join(streams)) == FILES
    refused(tmp_path, f"x.{kind}", b"".join(streams[:2]))
    refused(tmp_path, f"x.{kind}", b"".join(streams[:1] + streams[2:]))


def test_r1_the_number_of_members_is_compared(tmp_path: Path) -> None:
    data = bytearray(packed("stored.zip"))
    end = data.rfind(b"PK\5\6")
    struct.pack_into("<HH", data, end + 8, 3, 3)
    assert "8 members, its end says 3" in refused(tmp_path, "x.zip", bytes(data))


def test_r1_zips_that_were_streamed_or_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes behind the data; zip64 sizes; more members than the end record can count."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=name.endswith("1.wav")) as file:
                file.write(content)
    assert result(tmp_path, "x.zip", bytes(pipe.data)) == FILES
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)  # as if there were more than 65,535
    whole = bytearray(packed("stored.zip"))
    struct.pack_into("<HH", whole, whole.rindex(b"PK\5\6") + 8, 0xFFFF, 0xFFFF)
    assert result(tmp_path, "x.zip", bytes(whole)) == FILES
    whole[whole.rindex(b"PK\6\6") + 32] ^= 1
    assert "its end says 9" in refused(tmp_path, "x.zip", bytes(whole))


def test_r1_a_damaged_extended_header(tmp_path: Path) -> None:
    data = packed("tar")
    for old, new in ((b"path=", b"path "), (b"\n\0", b"\0\0")):
        place = data.rindex(old)
        assert "extended header cannot be read" in refused(
            tmp_path, "x.tar", data[:place] + new + data[place + len(new) :]
        )


def test_r1_members_that_are_lost_without_an_error(tmp_path: Path) -> None:
    """Two files of one name, an archive behind another one, and archives without any file."""
    import gzip
    import warnings

    def twice(*contents: str) -> bytes:
        data = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(data, "w") as archive:
            warnings.simplefilter("ignore")
            for name, content in zip(("a", "./a"), contents, strict=True):
                archive.writestr(name, content)
        return data.getvalue()

    assert "'./a' twice, with different content" in refused(tmp_path, "x.zip", twice("1", "2"))
    assert result(tmp_path, "x.zip", twice("1", "1")) == {"a": b"1"}
    two = packed("stored.zip", {"one": b"1"}) + packed("stored.zip", {"two": b"2"})
    assert "several archives in one file" in refused(tmp_path, "x.zip", two)
    program = b"MZ" + bytes(500)  # as of an archive that unpacks itself
    assert result(tmp_path, "x.zip", program + packed("stored.zip")) == FILES
    nothing = {f"x.{kind}": packed(kind, {}) for kind in ALL}
    nothing |= {"zeros.tar": bytes(1 << 20), "zeros.tar.gz": gzip.compress(bytes(10240))}
    nothing["folders.zip"] = packed("stored.zip", {"a/": b"", "a/b/": b""})
    for name, data in nothing.items():
        assert "it contains no file" in refused(tmp_path, name, data)


def test_r1_a_damaged_mark_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(packed("tar"))
    mark = tmp_path / "out/.x.tar.unpacked"
    mark.parent.mkdir()
    for damaged in (b"\xff\xfe", b"", bytes(30)):
        mark.write_bytes(damaged)
        assert found(unpack(tmp_path / "x.tar", tmp_path / "out")) == FILES
        assert mark.read_bytes() != damaged


def volumes(folder: Path, data: bytes, number: int, cut: int = 1) -> list[Path]:
    """Parts of one size that is a multiple of ``cut``."""
    folder.mkdir()
    size = (len(data) // number + cut) // cut * cut
    paths = [folder / f"part_{place:02d}" for place in range((len(data) + size - 1) // size)]
    for place, path in enumerate(paths):
        path.write_bytes(data[place * size : (place + 1) * size])
    return paths


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "deflated.zip"])
@pytest.mark.parametrize("cut", [1, 512])
def test_r1_volumes_exchanged_missing_or_doubled(tmp_path: Path, kind: str, cut: int) -> None:
    kinds = {f"a/{number}.wav": bytes([number]) * 3000 + os.urandom(20) for number in range(12)}
    paths = volumes(tmp_path / "parts", packed(kind, kinds), 5, cut)
    how = "zip" if kind.endswith("zip") else "tar"
    out = tmp_path / "out"
    assert found(unpack_volumes(paths, how, out)) == kinds
    wrong = [paths[::-1], [paths[1], paths[0], *paths[2:]]]
    wrong += [[path for path in paths if path is not left_out] for left_out in paths]
    wrong += [[*paths[:place], paths[place], *paths[place:]] for place in range(len(paths))]
    for number, some in enumerate(wrong):
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack_volumes(some, how, tmp_path / f"wrong{number}")
        assert not list((tmp_path / f"wrong{number}").iterdir())
    # The same under names that are in order, as a user may have saved them. Parts of a plain tar that end between
    # members may be exchanged: no file is lost or changed by that.
    contents = [[path.read_bytes() for path in some] for some in wrong]
    for number, parts in enumerate(contents):
        folder = tmp_path / f"renamed{number}"
        folder.mkdir()
        named = [folder / f"part_{place:02d}" for place in range(len(parts))]
        for path, content in zip(named, parts, strict=True):
            path.write_bytes(content)
        try:
            assert found(unpack_volumes(named, how, folder / "out")) == kinds and number < 2
        except UserError:
            assert not list((folder / "out").iterdir())


OLD, NEW = bytes(range(256)) * 40, bytes(range(255, -1, -1)) * 40


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Cuts its first reply; what it does when asked for the rest is named by the path."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked[6:-1]) if asked else 0
        content, end, kind = OLD, len(OLD), self.path.strip("/").replace("%20", " ")
        if kind in ("time", "tag", "size") and self.server.asked:  # type: ignore[attr-defined]
            content = OLD + NEW if kind == "size" else NEW
            end = len(content)
        if kind == "other start":
            start //= 2
        if kind == "less" and asked:
            end = min(end, start + 4000)
        self.send_response(206 if asked else 200)
        if asked and kind != "unnamed":
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        edition = "2" if content is not OLD else "1"
        if kind == "time":
            self.send_header("Last-Modified", f"Mon, 0{edition} Jan 2024 00:00:00 GMT")
        if kind in ("time", "tag"):
            self.send_header("ETag", f'"{len(self.server.asked) if kind == "time" else edition}"')  # type: ignore[attr-defined]
        body = content[start:end]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.asked else body[:3000])  # type: ignore[attr-defined]
        self.server.asked.append(asked)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "content"),
    [("time", NEW), ("tag", NEW), ("size", OLD + NEW), ("other start", OLD), ("unnamed", OLD), ("less", OLD)],
)
def test_r1_a_download_is_of_one_edition_and_whole(tmp_path: Path, kind: str, content: bytes) -> None:
    """The rest of a changed file was appended to the old part, and the part of a range was taken for the file."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeServer) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = WebFile(f"http://127.0.0.1:{server.server_port}/{kind.replace(' ', '%20')}", "a.tar")
        policy = RetryPolicy(attempts=5, first_wait=0.01, longest_wait=0.02, timeout=5)
        assert fetch(source, tmp_path, policy).read_bytes() == content
        server.shutdown()
    assert os.listdir(tmp_path) == ["a.tar"]


KILLED = """
import os, signal, sys
from pathlib import Path
from src.download import unpack
write, count = unpack._MemberWriter.write, 0
def dying(self, member):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, member)
unpack._MemberWriter.write = dying
unpack.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_r1_a_killed_unpacking_leaves_nothing_that_counts(tmp_path: Path) -> None:
    archive, out = tmp_path / "x.tar.gz", tmp_path / "out"
    archive.write_bytes(packed("tar.gz"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(archive), str(out)], cwd=REPO_ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [".x.tar.gz.unpacking"]
    assert found(unpack(archive, out)) == FILES
    assert sorted(path.name for path in out.iterdir()) == [".x.tar.gz.unpacked", "a", "b"]


def test_r1_a_corpus_is_marked_when_its_inner_archive_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, work = tmp_path / "given", Workspace(tmp_path / "work", tmp_path / "given")
    given.mkdir()
    (given / "o.tar").write_bytes(packed("tar", {"raw/in.tar.gz": packed("tar.gz")}))
    recipe = with_sources(web("http://x/o.tar", "raw/a", inner=("raw/in.tar.gz",)))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sources, "unpack", interrupted)
        gather(recipe, work, Options())
    assert found(gather(recipe, work, Options()).path("raw")) == FILES
    lacking = with_sources(Files((WebFile("http://x/o.tar", "o.tar"),), "raw/a", inner=("raw/none.tar",)))
    with pytest.raises(UserError, match="o.tar holds no raw/none.tar"):
        gather(lacking, Workspace(tmp_path / "other", given), Options())


# R2: with pigz on the PATH, links, pipes and devices were created, and files written through links

HOSTILE = {
    "a symbolic link": [(member("d", type=tarfile.SYMTYPE, linkname="OUTSIDE"), b"")],
    "an inner symbolic link": [(member("d", type=tarfile.SYMTYPE, linkname="a"), b"")],
    "a hard link": [(member("e", size=1), b"x"), (member("d", type=tarfile.LNKTYPE, linkname="e"), b"")],
    "a named pipe": [(member("p", type=tarfile.FIFOTYPE), b"")],
    "a device": [(member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b"")],
    "a block device": [(member("sda", type=tarfile.BLKTYPE, devmajor=8), b"")],
    "setuid": [(member("tool", size=1, mode=0o4755), b"x")],
    "an absolute path": [(member("/OUTSIDE/evil", size=1), b"x")],
    "a way out": [(member("a/../../evil", size=1), b"x")],
    "an unknown type": [(member("x", type=b"Q"), b"")],
    "a mark": [(member(".other.zip.unpacked", size=1), b"x")],
}


@pytest.fixture(params=[False, True], ids=["plain", "pigz"])
def pigz(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``pigz`` on the PATH, or none."""
    if request.param:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/pigz").write_text('#!/bin/sh\nexec gzip "$@"\n')
        (tmp_path / "bin/pigz").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize("what", HOSTILE)
def test_r2_only_files_and_folders_of_the_folder(tmp_path: Path, what: str, pigz: None) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [(member("first", size=5), b"first"), *HOSTILE[what], (member("d/evil", size=1), b"x")]
    for info, _ in members:
        info.name = info.name.replace("/OUTSIDE", str(outside))
        info.linkname = info.linkname.replace("OUTSIDE", str(outside))
    for kind in ("tar.gz", "tar"):
        message = refused(tmp_path, f"x.{kind}", tarred(*members, kind=kind))
        assert "it contains" in message and "remove it" not in message
    assert not list(outside.iterdir()) and not list(tmp_path.rglob("*evil"))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFREG | 0o4755])
def test_r2_the_same_in_a_zip(tmp_path: Path, mode: int) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        info = zipfile.ZipInfo("d")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/tmp")
    assert "it contains a" in refused(tmp_path, "x.zip", data.getvalue())


@pytest.mark.parametrize("kind", ["deflated.zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_r2_names_in_every_format(tmp_path: Path, kind: str, name: str) -> None:
    assert "it contains" in refused(tmp_path, f"x.{kind}", packed(kind, {name: b"x"}))


def test_r2_a_link_in_a_7z(tmp_path: Path) -> None:
    import py7zr

    (tmp_path / "up").mkdir()
    (tmp_path / "up/d").symlink_to("/tmp")
    with py7zr.SevenZipFile(tmp_path / "l.7z", "w") as archive:
        archive.writeall(tmp_path / "up", "up")
    assert "it contains a link" in refused(tmp_path, "x.7z", (tmp_path / "l.7z").read_bytes())


def test_r2_nothing_is_written_through_a_link_that_is_there(tmp_path: Path, pigz: None) -> None:
    """As an archive before, or an older version, may have left it."""
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "d").symlink_to(outside)
    with pytest.raises(UserError, match="two_b.tar.gz cannot be unpacked.*/d is in the way.*; remove"):
        unpack(CASES / "two_b.tar.gz", out)
    assert not list(outside.iterdir()) and [path.name for path in out.iterdir()] == ["d"]


def test_r2_setgid_folders_of_a_cluster_are_no_danger(tmp_path: Path) -> None:
    folder = (member("a", type=tarfile.DIRTYPE, mode=0o2775), b"")
    data = tarred(folder, (member("./a/1.wav", size=1, mode=0o775), b"x"))
    (tmp_path / "x.tar.gz").write_bytes(data)
    out = unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert found(out) == {"a/1.wav": b"x"}
    assert not (out / "a").stat().st_mode & 0o6000 and not (out / "a/1.wav").stat().st_mode & 0o111


# R3: tracebacks of the decoders; and the files of the report


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken_LZMAError_d.tar.xz", "Corrupt input data.*; remove it and run this again"),
        ("broken_error_d.zip", "Error -3 while decompressing.*; remove it and run this again"),
        ("encrypted.zip", "'a' is encrypted; unpack it by hand"),
        ("fifo.tar.gz", "a named pipe"),
        ("sym_then_write.tar.gz", "a symbolic link"),
        ("two_a.tar.gz", "a symbolic link"),
    ],
)
def test_r3_one_line_names_the_archive_and_the_fix(tmp_path: Path, name: str, says: str, pigz: None) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be unpacked: .*{says}") as caught:
        unpack(CASES / name, tmp_path / "out")
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").iterdir())


def test_r3_unknown_methods_and_encryption(tmp_path: Path) -> None:
    import py7zr

    data = bytearray(packed("stored.zip", {"x": b"1"}))
    for start, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        struct.pack_into("<H", data, data.index(start) + place, 97)
    assert "method 97, which is not supported; unpack it by hand" in refused(tmp_path, "x.zip", bytes(data))
    for hidden in (False, True):
        with py7zr.SevenZipFile(tmp_path / "e.7z", "w", password="p", header_encryption=hidden) as archive:
            archive.writestr(b"x", "x")
        assert "is encrypted; unpack it by hand" in refused(tmp_path, "x.7z", (tmp_path / "e.7z").read_bytes())


def test_r3_what_is_not_supported_is_not_fetched_again(tmp_path: Path) -> None:
    for place, value in ((6, 99), (8, 0x40)):
        data = bytearray(packed("stored.zip", {"x": b"1"}))
        struct.pack_into("<H", data, data.index(b"PK\1\2") + place, value)
        assert "; unpack it by hand" in refused(tmp_path, "x.zip", bytes(data))
    for begins, name in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x9d\x90", "compress"), (b"LZIP\1", "lzip")):
        message = refused(tmp_path, "x.tar", begins + os.urandom(600))
        assert f"compressed with {name}, which is not supported; unpack it by hand" in message
    for kind in ("tar", "stored.zip"):  # longer than a path may be (PATH_MAX, 4096)
        assert "remove it" not in refused(tmp_path, f"x.{kind}", packed(kind, {"a/" * 2400 + "x": b"1"}))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from src.common.errors import UserError
from src.download.unpack import unpack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for name in sys.argv[2:]:
    try:
        unpack(Path(name), Path(sys.argv[1]))
    except UserError as error:
        print(error)
"""


def test_r3_a_disk_that_takes_no_more_is_not_the_archives_fault(tmp_path: Path) -> None:
    """A good 7z archive was to be removed and fetched again."""
    kinds = ("7z", "tar.gz", "deflated.zip")
    for kind in kinds:
        (tmp_path / f"x.{kind}").write_bytes(packed(kind, {"a": os.urandom(3000)}))
    names = [str(tmp_path / f"x.{kind}") for kind in kinds]
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "out"), *names]
    told = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 3
    for name, line in zip(names, told, strict=True):
        assert name in line and "File too large" in line and "; make room" in line and "remove it" not in line


def test_r3_an_archive_on_a_broken_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(unpacker.JoinedFile, "readinto", broken)
    for kind in ("tar.gz", "stored.zip"):
        assert "the disk fails" in (message := refused(tmp_path, f"x.{kind}", packed(kind)))
        assert "remove it" not in message


def test_r3_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacker.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    for kind in ("tar.gz", "deflated.zip", "7z"):
        message = refused(tmp_path, f"x.{kind}", packed(kind))
        assert "the disk has 100 free; make room" in message


# R4: content of any size was written


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "deflated.zip", "lzma.zip", "7z"])
def test_r4_content_of_many_times_the_size(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(kind, {"a/small.wav": FILES["a/0.wav"], "a/zeros.wav": bytes(20 << 20)})
    assert len(data) < 100_000
    written: list[int] = []
    move = unpacker._move
    monkeypatch.setattr(unpacker, "_move", lambda *args, **more: written.append(1) or move(*args, **more))
    message = refused(tmp_path, f"x.{kind}", data)
    assert "more than 200 times its size" in message and "by hand" in message and not written


def test_r4_many_headers_and_members(tmp_path: Path) -> None:
    import gzip

    comment = b"50018 comment=" + b"x" * 50_003 + b"\n"
    many = [(member("g", type=tarfile.XGLTYPE, size=len(comment)), comment)] * 60
    plain = tarred(*many, (member("a", size=1), b"x"), kind="tar")
    assert "200 times" in refused(tmp_path, "x.tar.gz", gzip.compress(plain))
    sparse = tarred((member("s", size=0, pax_headers={"GNU.sparse.realsize": "9" * 15}), b""))
    assert "a sparse file" in refused(tmp_path, "x.tar.gz", sparse)
    zeros = gzip.compress(packed("tar") + bytes(8 << 20))
    assert "cannot be unpacked" in refused(tmp_path, "x.tar.gz", zeros)


def test_r4_members_that_share_their_data(tmp_path: Path) -> None:
    """A directory that names one compressed member many times: no single ratio is above that of its method."""
    once = packed("deflated.zip", {"x": bytes(900_000)})
    directory, end = once.index(b"PK\1\2"), once.index(b"PK\5\6")
    entry, count = once[directory:end], 300
    data = bytearray(once[:directory] + entry * count + once[end:])
    struct.pack_into("<HHL", data, len(data) - 14, count, count, len(entry) * count)
    assert "200 times" in refused(tmp_path, "x.zip", bytes(data))


@pytest.mark.parametrize("kind", ["tar.bz2", "bzip2.zip", "lzma.zip", "tar.xz"])
def test_r4_memory_is_bounded_as_well(tmp_path: Path, kind: str) -> None:
    """45 bytes of bzip2 may be 45 MB; the library asks for what comes of 4 kB at once."""
    import bz2
    import tracemalloc

    data = packed(
        kind, {"zeros": bytes(100 << 20 if kind == "lzma.zip" else 8 << 20)} if "bz" not in kind else {"x": b"1"}
    )
    if kind == "bzip2.zip":
        content = bz2.compress(bytes(45 << 20))
        plain = packed("stored.zip", {"x": content})
        changed = bytearray(plain)
        for start, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
            struct.pack_into("<H", changed, changed.index(start) + place, zipfile.ZIP_BZIP2)
        data = bytes(changed)
    elif kind == "tar.bz2":
        data = bz2.compress(tarred((member("x", size=40 << 20), bytes(40 << 20)), kind="tar"))
    tracemalloc.start()
    refused(tmp_path, f"x.{kind}", data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (80 if kind == "lzma.zip" else 20) << 20, peak


def test_r4_what_compresses_well_is_unpacked(tmp_path: Path) -> None:
    table = "".join(f"{number:06d},train,speech,english\n" for number in range(30_000)).encode()
    for kind in ("tar.xz", "deflated.zip", "7z"):
        assert result(tmp_path, f"x.{kind}", packed(kind, {"t.csv": table, "s.wav": bytes(600_000)})) != ""


# Archives of other programs than Python's library


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
@pytest.mark.parametrize("blocks", ["1", "20", "128"])
def test_tars_of_gnu_tar(tmp_path: Path, form: str, blocks: str) -> None:
    files = {name: content for name, content in FILES.items() if len(name) < 90 or form not in ("ustar", "v7")}
    write_files(tmp_path / "up", files)
    command = ["tar", f"--format={form}", "-b", blocks, "-cf", "x.tar", "-C", "up", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert found(unpack(tmp_path / "x.tar", tmp_path / "out")) == files


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP is not installed")
def test_zips_and_volumes_of_info_zip(tmp_path: Path) -> None:
    files = {"a/1.wav": os.urandom(200_000), "a/2.wav": os.urandom(3000), "t.txt": b"text " * 500}
    write_files(tmp_path / "up", files)
    (tmp_path / "link").symlink_to("/tmp")
    subprocess.run(
        "zip -qr ../s.zip . -s 64k; zip -qr - . | cat > ../c.zip", shell=True, cwd=tmp_path / "up", check=True
    )
    subprocess.run("zip -qy l.zip link; zip -qP secret e.zip up/t.txt", shell=True, cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("s.z*"))
    assert found(unpack_volumes(parts, "split_zip", tmp_path / "s")) == files and len(parts) > 3
    assert found(unpack(tmp_path / "c.zip", tmp_path / "c")) == files
    for name, says in (("l", "a symbolic link"), ("e", "is encrypted")):
        with pytest.raises(UserError, match=f"{name}.zip cannot be unpacked.*{says}"):
            unpack(tmp_path / f"{name}.zip", tmp_path / name)
    contents = [path.read_bytes() for path in parts]
    wrong = [contents[:place] + contents[place + 1 :] for place in range(len(parts))]
    wrong += [contents[: place + 1] + contents[place:] for place in range(len(parts))]
    wrong += [[contents[1], contents[0], *contents[2:]]]
    for number, some in enumerate(wrong):
        (tmp_path / f"{number}").mkdir()
        paths = [tmp_path / f"{number}/s.z{place:02d}" for place in range(1, len(some))]
        paths.append(tmp_path / f"{number}/s.zip")
        for path, content in zip(paths, some, strict=True):
            path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack_volumes(paths, "split_zip", tmp_path / f"{number}/out")


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
