"""The decoder against FFmpeg's command, its limits, and what it makes of arrays."""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from src.audio.budget import MemoryBudget
from src.audio.decode import Cuts, DecodeLimits, cell_source, decode, measure
from src.audio.errors import AudioError, NoMemory, NoSamples
from src.audio.headers import begins_as_mp3
from src.audio.mixing import to_mono
from tests.support.decoding_check import by_ffmpeg, compare, every_way
from tests.support.decoding_matrix import encode, make_cases, sound, wav

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with FFmpeg's command")
PCM = (sound(16000, 1, 0.5)[:, 0] * 32767).astype("<i2").tobytes()


@needs_ffmpeg
@pytest.mark.slow
def test_every_way_in_decodes_as_ffmpeg_does(tmp_path: Path) -> None:
    encoded, files = tmp_path / "encoded", tmp_path / "files"
    encoded.mkdir()
    files.mkdir()
    cases = make_cases(encoded, full=False)
    assert len(cases) > 60 and len({case.kind for case in cases}) > 20
    with every_way(files) as ways:
        differences, table = compare(cases, files, ways)
    assert not differences, "\n".join(f"{each.case}, {each.way}: {each.what}" for each in differences)
    assert sum(counts["compared"] for counts in table.values()) > 700


def test_limits_of_one_clip() -> None:
    data = wav(PCM)
    for limits, why in (
        (DecodeLimits(seconds=0.4), "expected at most 0.4 s"),
        (DecodeLimits(samples=7999), "more than 7999 samples"),
        (DecodeLimits(file_bytes=1000), "expected at most 1000"),
        (DecodeLimits(rates=(44100, 48000)), "16000 samples per second"),
        (DecodeLimits(formats=("mp3",)), "cannot be read as audio"),
        (DecodeLimits(codecs=("flac",)), "its codec is 'pcm_s16le'"),
        (DecodeLimits(work_seconds=0.0), "not decoded within 0 s"),
    ):
        with pytest.raises(AudioError, match=why):
            decode(data, limits=limits)
    assert measure(data) == (8000, 16000)
    with pytest.raises(NoSamples):
        decode(wav(b""))


def test_memory_is_shared_and_given_back() -> None:
    budget = MemoryBudget(100_000)
    kept = DecodeLimits(memory=budget, hold_memory=True, wait_seconds=0.05)
    held = [decode(wav(PCM), limits=kept) for _ in range(3)]
    assert budget.taken == 3 * 32_000
    with pytest.raises(NoMemory, match="clips in work hold"):
        decode(wav(PCM), limits=kept)
    view = held[0].samples[:, :10]
    held.clear()
    assert budget.taken == 32_000, "a view keeps the memory of its clip"
    del view
    assert budget.taken == 0
    with pytest.raises(AudioError):
        decode(wav(PCM[:4000], size=16_000), limits=kept)
    assert budget.taken == 0


def test_clips_wait_for_others_that_are_decoded_and_large_ones_for_all() -> None:
    budget = MemoryBudget(50_000)
    limits = DecodeLimits(memory=budget)
    results: list[int] = []

    def work() -> None:
        for _ in range(20):
            results.append(decode(wav(PCM * 4), limits=limits).samples.shape[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [32_000] * 80 and budget.taken == 0


def test_a_forked_worker_begins_with_all_memory() -> None:
    budget = MemoryBudget(1000)
    held = budget.reserve(900, "parent", None)
    child = os.fork()
    if child == 0:
        os._exit(0 if budget.taken == 0 and budget.reserve(2000, "child", None).count == 2000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and budget.taken == 900
    held.release()


@needs_ffmpeg
@pytest.mark.parametrize(("ending", "channels"), [("caf", 8), ("mov", 8), ("caf", 5), ("wav", 16)])
def test_any_channel_layout_is_decoded(ending: str, channels: int, tmp_path: Path) -> None:
    """PyAV frees the map of a custom layout twice, which ends the process."""
    args = ("-c:a", "pcm_s16be" if ending == "caf" else "pcm_s16le")
    path = tmp_path / f"a.{ending}"
    path.write_bytes(encode(sound(16000, channels, 0.2), 16000, ending, args, tmp_path, "made"))
    found = by_ffmpeg(path)
    assert found is not None
    for _ in range(30):
        samples = decode(path).samples
        junk = [bytearray(size) for size in range(900, 1000)]
    assert junk and np.array_equal(samples, found[0])


def test_cuts_of_files_whose_end_is_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "whole.wav").write_bytes(wav(PCM))
    cuts = Cuts(tmp_path / "whole.wav")
    whole = decode(tmp_path / "whole.wav").samples
    for start, stop in ((0, 10), (3000, 3001), (7990, 9000), (5, 5), (9000, 9100)):
        assert np.array_equal(cuts.read(start, stop), whole[:, start:stop])
    (tmp_path / "cut.wav").write_bytes(wav(PCM[:8000], size=16_000))
    with pytest.raises(AudioError, match="cut"):
        Cuts(tmp_path / "cut.wav")


@pytest.mark.parametrize("channels", [2, 3, 8, 16])
def test_mixing_is_the_mean_unless_channels_cancel(channels: int) -> None:
    samples = np.ascontiguousarray(sound(16000, channels, 0.2).T)
    assert np.array_equal(to_mono(samples), samples.mean(axis=0))
    one = np.zeros_like(samples)
    one[1] = samples[1]
    assert np.array_equal(to_mono(one), one.mean(axis=0)), "one channel of many is no antiphase"
    opposite = np.stack([samples[0], -samples[0]] + [np.zeros_like(samples[0])] * (channels - 2))
    assert np.array_equal(to_mono(opposite), samples[0])
    data = wav((opposite.T * 32767).astype("<i2").tobytes(), channels=channels)
    assert np.array_equal(decode(data, mono=True).samples[0], to_mono(decode(data).samples))
    assert not to_mono(np.zeros_like(samples)).any()


def test_cells() -> None:
    assert cell_source({"bytes": b"x", "path": "a.wav"}) == (b"x", "a.wav")
    for cell in ({}, {"bytes": None, "path": None}, {"sound": 1}):
        with pytest.raises(AudioError, match="expected 'array'"):
            cell_source(cell)


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x14" + bytes(20)], ids=["bare", "ID3v2"])
@pytest.mark.parametrize("rate", [8000, 12000, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_file_taken_for_mp3_without_a_probe_is_one_by_the_probe(rate: int, layout: str, tag: bytes) -> None:
    data = tag + _encoded("libmp3lame", "mp3", rate, layout)
    assert begins_as_mp3(data)
    with av.open(io.BytesIO(data)) as container:
        assert container.format.name == "mp3"


@pytest.mark.parametrize(("codec", "container"), [("mp2", "mp2"), ("aac", "adts"), ("ac3", "ac3")])
def test_other_frames_are_left_to_the_probe(codec: str, container: str) -> None:
    data = _encoded(codec, container, 48000, "stereo")
    assert not begins_as_mp3(data) and not begins_as_mp3(data[:3]) and not begins_as_mp3(b"")
    assert decode(data).rate == 48000


@pytest.mark.parametrize("damaged", [3, 1000], ids=["version", "later frame"])
def test_damaged_frames_are_left_to_the_probe(damaged: int) -> None:
    data = bytearray(_encoded("libmp3lame", "mp3", 44100, "stereo"))
    data[damaged - 2 : damaged + 1] = bytes(3)
    whole = begins_as_mp3(bytes(data))
    assert whole == (damaged == 1000)  # bytes within a frame say nothing
    data[417:421] = bytes(4)  # the header of the second frame of 128 kbit/s
    assert not begins_as_mp3(bytes(data))


def _encoded(codec: str, container: str, rate: int, layout: str) -> bytes:
    """Half a second of noise without ID3 and Xing headers."""
    file = io.BytesIO()
    options = {"write_xing": "0", "id3v2_version": "0"} if container == "mp3" else {}
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000 if rate >= 32000 else 32_000
        noise = np.random.default_rng(0).normal(0, 3000, (1, rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(noise, 1 if layout == "mono" else 2, 1), "s16", layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()
