"""Downloads against a server on this machine: continued, retried, refused with the way out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.retry import RetryPolicy, is_network_failure, retry_after, retrying
from src.download.download import digest, fetch
from src.download.sources import HubFile, WebFile, drive_file, github_file
from tests.support.loopback import Loopback, loopback

QUICK = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02, timeout=5)
DATA = bytes(range(256)) * 4000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with loopback() as found:
        for name in ("GITHUB_RAW_ENDPOINT", "GOOGLE_DRIVE_ENDPOINT", "HF_ENDPOINT"):
            monkeypatch.setenv(name, found.address)
        yield found


def test_a_cut_download_goes_on_where_it_stopped(server: Loopback, tmp_path: Path) -> None:
    server.files["/a.bin"] = DATA
    server.trouble["/a.bin"] = ["503", "cut", "cut"]
    source = WebFile(f"{server.address}/a.bin", "a.bin", f"sha256:{hashlib.sha256(DATA).hexdigest()}")
    assert fetch(source, tmp_path, QUICK).read_bytes() == DATA
    half = len(DATA) // 2
    assert server.asked == [
        "GET /a.bin", "GET /a.bin", f"GET /a.bin bytes={half}-", f"GET /a.bin bytes={half + half // 2}-",
    ]  # fmt: skip
    assert fetch(source, tmp_path, QUICK).is_file() and len(server.asked) == 4, "a whole file is not fetched again"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_attempts_end_and_what_came_is_kept(server: Loopback, tmp_path: Path) -> None:
    server.files["/a.bin"] = DATA
    server.trouble["/a.bin"] = ["cut"] * 4
    with pytest.raises(UserError, match=r"a.bin: 4 attempts failed.*Run it again to go on"):
        fetch(WebFile(f"{server.address}/a.bin", "a.bin"), tmp_path, QUICK)
    assert (tmp_path / "a.bin.part").stat().st_size > len(DATA) // 2
    assert fetch(WebFile(f"{server.address}/a.bin", "a.bin"), tmp_path, QUICK).read_bytes() == DATA


def test_a_part_of_another_file_is_dropped(server: Loopback, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"short"
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert fetch(WebFile(f"{server.address}/a.bin", "a.bin"), tmp_path, QUICK).read_bytes() == b"short"


def test_files_for_browsers_name_the_page_and_the_way_in(server: Loopback, tmp_path: Path) -> None:
    source = drive_file("FILE", "clips.tar.gz")
    path = "/download?id=FILE&export=download&confirm=t"
    server.files[path] = DATA
    server.trouble[path] = ["html"]
    with pytest.raises(UserError, match=r"a web page.*drive.google.com/file/d/FILE/view.*--from-dir"):
        fetch(source, tmp_path, QUICK)
    assert fetch(source, tmp_path, QUICK).read_bytes() == DATA
    with pytest.raises(UserError, match=r"the server answers 404.*github.com/o/r/blob/c/x.json"):
        fetch(github_file("o/r", "c", "x.json"), tmp_path, QUICK)


@pytest.mark.parametrize("kind", ["sha256", "md5", "git"])
def test_another_content_is_refused_and_removed(server: Loopback, tmp_path: Path, kind: str) -> None:
    server.files["/o/r/c/x.json"] = DATA
    kept = fetch(github_file("o/r", "c", "x.json"), tmp_path / "kept", QUICK)
    right = f"{kind}:{digest(kept, kind)[:12]}"
    assert fetch(github_file("o/r", "c", "x.json", right), tmp_path / "kept", QUICK) == kept
    with pytest.raises(UserError, match=f"not the expected file: {kind}"):
        fetch(github_file("o/r", "c", "x.json", f"{kind}:0123"), tmp_path, QUICK)
    assert not (tmp_path / "x.json").exists()


def test_git_blob_ids_are_git_s(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert digest(tmp_path / "empty", "git") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    with pytest.raises(ValueError, match="unknown kind"):
        digest(tmp_path / "empty", "crc")


def test_hub_files_at_their_revision(server: Loopback, tmp_path: Path) -> None:
    server.hub["o/set", "a" * 40] = {
        "meta/x.json": b"[1]",
        "audio/1.wav": DATA,
        "audio/deep/2.wav": b"2",
        "n.md": b"n",
    }
    found = fetch(HubFile("o/set", "a" * 40, "meta/x.json"), tmp_path, QUICK)
    assert found == tmp_path / "meta" / "x.json" and found.read_bytes() == b"[1]"
    server.trouble[f"/datasets/o/set/resolve/{'a' * 40}/audio/1.wav"] = ["503"]
    assert fetch(HubFile("o/set", "a" * 40, "audio/**"), tmp_path, QUICK) == tmp_path
    assert (tmp_path / "audio/1.wav").read_bytes() == DATA and (tmp_path / "audio/deep/2.wav").is_file()
    assert not (tmp_path / "n.md").exists()
    with pytest.raises(UserError, match="has no meta/y.json at revision aaa"):
        fetch(HubFile("o/set", "a" * 40, "meta/y.json"), tmp_path, QUICK)


def test_a_closed_hub_repository_asks_for_a_login(server: Loopback, tmp_path: Path) -> None:
    for path in ("x.json", "audio/**"):
        with pytest.raises(UserError, match=r"accept its terms at https://huggingface.co/datasets/o/closed.*hf auth"):
            fetch(HubFile("o/closed", "b" * 40, path), tmp_path, QUICK)


@pytest.mark.parametrize("hub", [False, pytest.param(True, marks=pytest.mark.slow)])  # the Hub's client waits itself
def test_a_server_that_is_away_is_tried_again_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool
) -> None:
    with loopback() as gone:
        address = gone.address
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the Hub's own client waits between tries of its own
    source = HubFile("o/set", "a" * 40, "x.json") if hub else WebFile(f"{address}/a", "a")
    with pytest.raises(UserError, match="2 attempts failed"):
        fetch(source, tmp_path, RetryPolicy(attempts=2, first_wait=0.01))


def test_only_network_failures_are_tried_again() -> None:
    tried = []

    def work() -> None:
        tried.append(1)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        retrying(work, "work", QUICK)
    assert len(tried) == 1
    assert is_network_failure(TimeoutError()) and not is_network_failure(PermissionError())
    with pytest.raises(ValueError, match="at least one attempt"):
        retrying(work, "work", RetryPolicy(attempts=0))


@pytest.mark.parametrize(
    ("stated", "seconds"), [("7", 7.0), ("1.5", 1.5), ("soon", 0.0), ("\u00b2", 0.0), (None, 0.0)]
)
def test_a_server_may_ask_for_a_wait(stated: str | None, seconds: float) -> None:
    """A digit that is no decimal one ended the run instead of its attempt."""
    error = OSError()
    error.headers = {"Retry-After": stated}  # type: ignore[attr-defined]
    assert retry_after(error) == seconds
