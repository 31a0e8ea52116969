"""Archives unpacked once and whole; clips found and rewritten."""

from __future__ import annotations

import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from src.common.errors import UserError
from src.download.clips import find_below, rewrite_clip
from src.download.unpack import is_archive, unpack


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar", "a.zip"])
def test_archives_are_unpacked_once(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("audio/1.wav", b"one")
    else:
        make_tar(archive, {"audio/1.wav": b"one"})
    assert is_archive(archive)
    out = unpack(archive, tmp_path / "out")
    (out / "audio/1.wav").write_bytes(b"touched")
    assert (unpack(archive, out) / "audio/1.wav").read_bytes() == b"touched"
    if name == "a.tar":  # another archive under the same name is unpacked again
        make_tar(archive, {"audio/1.wav": b"other one"})
        assert (unpack(archive, out) / "audio/1.wav").read_bytes() == b"other one"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar", "a.zip"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive at all" * 100)
    with pytest.raises(UserError, match=f"{name} cannot be unpacked.*remove it"):
        unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["bad.tar.gz", "bad.tar"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(make_tar(tmp_path / name, {"../outside": b"x"}), tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("outside"))


def test_files_are_found_below_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "one" / "set" / "audio").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "set" / "audio" / "1.wav").touch()
    (tmp_path / "two" / "2.wav").touch()
    roots = [tmp_path / "one", tmp_path / "two"]
    assert find_below(roots, "audio/1.wav") == tmp_path / "one/set/audio/1.wav"
    assert find_below(roots, "2.wav") == tmp_path / "two/2.wav"
    with pytest.raises(UserError, match=r"there is no 3.wav in .*one, .*two"):
        find_below(roots, "3.wav")
    with pytest.raises(UserError, match="leaves the folder"):
        find_below(roots, "../two/2.wav")


def test_a_clip_is_rewritten_mono_and_cut(tmp_path: Path) -> None:
    rate, seconds = 8000, 3
    left = np.sin(np.arange(rate * seconds) * 0.05) * 0.5
    source = tmp_path / "in.flac"
    soundfile.write(source, np.stack([left, np.zeros_like(left)], axis=1), rate)
    rewrite_clip(source, tmp_path / "out" / "clip.wav", max_seconds=2)
    found, found_rate = soundfile.read(tmp_path / "out" / "clip.wav")
    assert found.shape == (32000,) and found_rate == 16000
    assert abs(found[:16000].std() - left[:8000].std() / 2) < 0.01
    rewrite_clip(source, tmp_path / "whole.wav")
    assert soundfile.info(tmp_path / "whole.wav").frames == 16000 * seconds
    rewrite_clip(tmp_path / "gone.flac", tmp_path / "whole.wav")  # what is there is kept
    with pytest.raises(UserError, match="gone.flac does not exist"):
        rewrite_clip(tmp_path / "gone.flac", tmp_path / "new.wav")
    assert not (tmp_path / "new.wav").exists()
