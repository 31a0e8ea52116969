"""Audio that was misread, refused or too costly: rows A1 to A15 of the list of reported inputs."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, DatasetDict, load_from_disk

from src.audio.decode import Cuts, decode
from src.audio.resample import resample
from src.audio.roots import VARIABLE, StoredCell
from src.audio.waveform import AudioError, load_waveform
from src.common.paths import indexes_dir, indexes_filtered_dir, raw_dir
from src.corpus.postprocess.audio_filter import filter_by_audio
from src.corpus.rows.audio import seconds_of, to_rate
from src.dataset.splits import read_indexes, write_indexes
from src.serving.clip_decoder import ApiError
from src.serving.clip_decoder import decode as decode_clip
from src.serving.config import Limits
from tests.support.decoding_check import by_ffmpeg
from tests.support.decoding_matrix import as_file, encode, sound, wav
from tests.support.hostile_clips import SDP, Cost, hls, with_picture

CASES = Path(__file__).resolve().parents[1] / "reference/cases/audio"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with FFmpeg's command")


def as_ffmpeg(path: Path, data: bytes | None = None) -> None:
    """The file is decoded by a run, the collectors and the server as FFmpeg decodes it."""
    found = by_ffmpeg(path)
    assert found is not None
    expected, rate = found
    loaded = load_waveform(path)
    assert loaded.sample_rate == rate and loaded.samples.shape == expected.shape
    np.testing.assert_allclose(loaded.samples.numpy(), expected, atol=2e-3)
    collected = decode(path).samples
    np.testing.assert_array_equal(collected, loaded.samples.numpy())
    assert round(seconds_of(path) * rate) == expected.shape[1]
    served = decode_clip(path.read_bytes(), Limits(clip_seconds=100))
    torch.testing.assert_close(torch.from_numpy(served.samples[0]), loaded.mono)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["scene_adpcm_ms.wav", "ima512.wav"])
def test_a1_adpcm_keeps_its_length(name: str) -> None:
    """ADPCM in WAV was decoded to a quarter of its length, as other sound, with status ok."""
    as_ffmpeg(CASES / name)
    if name == "scene_adpcm_ms.wav":
        plain, packed = load_waveform(CASES / "scene_pcm.wav").mono, load_waveform(CASES / name).mono
        packed = packed[: len(plain)]
        assert torch.dot(plain, packed) / plain.norm() / packed.norm() > 0.99


@needs_ffmpeg
def test_a2_the_index_filter_decodes_whole_files(data_root: Path) -> None:
    """The filter probed 0 to 10 ms: MP3 files that begin later were dropped, and a damaged FLAC file was kept."""
    names = ["plain.mp3", "cover.mp3", "trunc.flac", "scene_pcm.wav"]
    rows = {
        "audio": [{"bytes": (CASES / name).read_bytes(), "path": name} for name in names],
        "duration": [2.0] * 4, "dataset_index": [0, 1, 2, 3], "unique_id_1": names, "unique_id_2": names,
    }  # fmt: skip
    DatasetDict({"train": Dataset.from_dict(rows).cast_column("audio", Audio())}).save_to_disk(str(raw_dir("cases")))
    write_indexes(indexes_dir("cases"), "train", np.arange(4))
    filter_by_audio("cases", jobs=0)
    assert read_indexes(indexes_filtered_dir("cases"))["train"].tolist() == [0, 1, 3]
    dropped = (indexes_filtered_dir("cases") / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert "trunc.flac" in json.loads(dropped[0])["reason"]
    for name in names[:2]:
        as_ffmpeg(CASES / name)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["offset.ogg", "cut_long.mp3"])
def test_a3_timestamps_and_headers_are_hints(name: str) -> None:
    """A first timestamp of an hour gave "no samples", a header of 400 s "too long"; 2 s and 12 s are there."""
    as_ffmpeg(CASES / name)
    assert load_waveform(CASES / name, max_seconds=30).duration < 13


def test_a4_any_rate_is_resampled_at_once() -> None:
    """4 kB at 191,992 Hz took seconds in the one encoding thread, and 190 MiB for good."""
    began = time.process_time()
    for rate in range(191_000, 191_992, 8 * 31):
        samples = torch.randn(1, 2000)
        resample(samples, torch.tensor([2000]), rate, 16000)
    assert time.process_time() - began < 3.0


SCENE = sound(16000, 1, 0.5)[:, 0]


@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "list", "float32 whole", "uint8", "int8", "int32 full"])
def test_a5_integers_are_scaled_by_their_type(kind: str) -> None:
    """16-bit values in a column of 64-bit integers were divided by 2^63: silence, with status ok."""
    whole = np.rint(SCENE * 32767)
    forms = {
        "list": whole.astype(int).tolist(), "float32 whole": whole.astype(np.float32),
        "uint8": np.rint(SCENE * 127 + 128).astype(np.uint8), "int8": np.rint(SCENE * 127).astype(np.int8),
        "int32 full": (SCENE.astype(np.float64) * (2**31 - 1)).astype(np.int32),
    }  # fmt: skip
    array = forms[kind] if kind in forms else whole.astype(kind)
    loaded = load_waveform({"array": array, "sampling_rate": 16000})
    np.testing.assert_allclose(loaded.samples[0].numpy(), SCENE, atol=0.01)


@pytest.mark.parametrize("array", [SCENE > 0, SCENE * 20000 + 0.3, SCENE.astype(np.complex64)])
def test_a5_what_says_nothing_of_its_scale_is_an_error(array: np.ndarray) -> None:
    """Booleans and floats far beyond 1 were taken as they were."""
    with pytest.raises(AudioError, match="expected (floats in|about) -1 to 1"):
        load_waveform({"array": array, "sampling_rate": 16000})


@needs_ffmpeg
@pytest.mark.parametrize("name", ["id3_garbage.mp3", "ape_lead.mp3"])
def test_a6_there_is_one_probe(name: str) -> None:
    """The server refused files with junk or an APE tag before the sound, which everything else played."""
    as_ffmpeg(CASES / name)


def test_a7_a_path_is_never_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colon in a file's name was read as a protocol."""
    for name in ("12:30 call.wav", "file:x.wav", "concat:a.wav", "pipe:0"):
        shutil.copy(CASES / "scene_pcm.wav", tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert load_waveform(name).samples.shape == (1, 92448)


@needs_ffmpeg
def test_a8_streamed_headers_and_a_missing_byte(tmp_path: Path) -> None:
    """A data size of 0 gave no samples in the collectors and was refused elsewhere; so was one byte too few."""
    pcm = (sound(44100, 2, 0.5) * 32767).astype("<i2").tobytes()
    for name, data in {
        "data0.wav": wav(pcm, rate=44100, channels=2, size=0),
        "oddbytes.wav": wav(pcm[:-1], rate=44100, channels=2, size=len(pcm)),
    }.items():
        (tmp_path / name).write_bytes(data)
        as_ffmpeg(tmp_path / name)


@needs_ffmpeg
def test_a9_the_rate_may_change_in_a_file() -> None:
    """Audio after a change of rate was played at double speed."""
    as_ffmpeg(CASES / "cat_rates.mp3")


def test_the_rate_may_change_between_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio after a change of rate was played at double speed where a block of samples ended at the change."""
    expected = decode(CASES / "cat_rates.mp3").samples
    monkeypatch.setattr("src.audio.stream._BLOCK_BYTES", 4)  # every packet ends a block
    np.testing.assert_array_equal(decode(CASES / "cat_rates.mp3").samples, expected)


def test_a10_antiphase_is_not_silence() -> None:
    """Two channels that are each other's negative became silence by averaging."""
    samples = np.stack([SCENE, -SCENE], axis=1)
    data = wav((samples * 32767).astype("<i2").tobytes(), channels=2)
    for mono in (load_waveform(data).mono, torch.from_numpy(decode_clip(data, Limits()).samples[0])):
        np.testing.assert_allclose(mono.numpy(), SCENE, atol=1e-3)
    ordinary = load_waveform(np.stack([SCENE, 0.5 * SCENE]), 16000)
    torch.testing.assert_close(ordinary.mono, ordinary.samples.mean(dim=0), rtol=0, atol=0)


def test_a11_samples_are_checked_after_mixing() -> None:
    """3e38 in two channels is finite in each, and infinite once they are added."""
    data = (CASES / "f32_huge2ch.wav").read_bytes()
    with pytest.raises(AudioError, match="do not stay finite"):
        load_waveform(data)
    with pytest.raises(ApiError, match="not finite"):
        decode_clip(data, Limits())


def test_a12_pictures_are_not_decoded(tmp_path: Path) -> None:
    """A cover of 16000 x 16000 pixels took 7 s and 2 GB for a second of audio; one of 6000 x 6000 a second."""
    data = with_picture(encode(sound(8000, 1, 1.0), 8000, "flac", (), tmp_path, "short"), 6000)
    began = time.process_time()
    assert decode_clip(data, Limits()).samples.shape == (1, 8000)
    assert time.process_time() - began < 1.0


def test_a13_clips_of_a_request_share_one_bound() -> None:
    """Limits held for each clip alone: eight of 180 kB took 3.9 GB. Those of all requests: ``tests/serving``."""
    from src.audio.budget import Allowance

    data = wav(bytes(2 * 100_000))
    together = Allowance(150_000)
    decode_clip(data, Limits(), allowance=together)
    with pytest.raises(ApiError, match="clips of one request"):
        decode_clip(data, Limits(), allowance=together)


def test_a14_the_server_decodes_what_it_says_it_takes() -> None:
    """A transport stream behind an MPEG sync passed for MP3 and was decoded as a transport stream."""
    data = (CASES / "ts_behind_sync.mp3").read_bytes()
    with pytest.raises(ApiError):
        decode_clip(data, Limits())


def test_a15_lists_of_other_files_are_refused_at_once(tmp_path: Path) -> None:
    """A playlist called x.mp3 gave the sound of the file that it names; SDP took 20 s."""
    other = tmp_path / "other.wav"
    shutil.copy(CASES / "scene_pcm.wav", other)
    lists = [hls(other), SDP, f"ffconcat version 1.0\nfile '{other}'\n".encode(), b"[playlist]\nFile1=other.wav\n"]
    began = time.monotonic()
    for number, content in enumerate(lists):
        path = tmp_path / f"x{number}.mp3"
        path.write_bytes(content)
        for source in (path, content, {"bytes": content, "path": "x.mp3"}):
            with pytest.raises(AudioError, match="cannot be read as audio"):
                load_waveform(source)
    assert time.monotonic() - began < 5


def test_a15_rows_name_files_of_their_own_data_set_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row ``{"bytes": null, "path": "/any/local.wav"}`` was decoded, stored and published, an address fetched."""
    inside, outside = tmp_path / "set", tmp_path / "outside.wav"
    inside.mkdir()
    shutil.copy(CASES / "scene_pcm.wav", inside / "a.wav")
    shutil.copy(CASES / "scene_pcm.wav", outside)
    (inside / "link.wav").symlink_to(outside)
    roots = [inside.resolve()]
    for path in ("a.wav", str(inside / "a.wav")):
        assert load_waveform(StoredCell({"bytes": None, "path": path}, roots)).duration > 3
    for path in (str(outside), "../outside.wav", "link.wav", "http://127.0.0.1:9/a.wav", "file:///etc/passwd"):
        with pytest.raises(AudioError) as caught:
            load_waveform(StoredCell({"bytes": None, "path": path}, roots))
        assert caught.value.fault == "missing_audio"
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    from src.audio.roots import audio_roots

    assert load_waveform(StoredCell({"bytes": None, "path": str(outside)}, audio_roots(inside))).duration > 3


def test_a15_files_outside_are_not_stored_with_answers(tmp_path: Path, data_root: Path) -> None:
    """The library puts every file that a cell names into what it saves and publishes."""
    from src.generation.input_dataset import Table
    from src.generation.output_dataset import _audio_of

    secret = tmp_path / "secret.wav"
    shutil.copy(CASES / "scene_pcm.wav", secret)
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": (CASES / "scene_pcm.wav").read_bytes(), "path": "b.wav"}]
    folder = raw_dir("foreign")
    (folder / "train").mkdir(parents=True)
    made = Dataset.from_dict({"audio": cells}).cast_column("audio", Audio(decode=False))
    data = made.with_format(None)
    table = Table("train", data, (0, 1))
    stored = _audio_of(table, [0, 1])
    DatasetDict({"train": stored}).save_to_disk(str(tmp_path / "saved"))
    saved = load_from_disk(str(tmp_path / "saved"))["train"].cast_column("audio", Audio(decode=False))["audio"]
    assert (saved[0] is None or saved[0]["bytes"] is None) and saved[1]["bytes"] == cells[1]["bytes"]


@needs_ffmpeg
@pytest.mark.slow  # eight threads decode until their limits, in a process of their own
def test_hostile_clips_at_once_stay_small(tmp_path: Path) -> None:
    """All kinds at once from eight threads, in a process of its own."""
    from tests.support.hostile_clips import _in_process, make_hostile

    files = make_hostile(tmp_path, small=True)
    cost: Cost = _in_process("all", [str(path) for path in files.values()])
    assert cost.mib < 700 and cost.refused >= 4


def test_decoded_length_is_compared_with_the_stated_one() -> None:
    """A file of which half is missing passed as whole."""
    pcm = (SCENE * 32767).astype("<i2").tobytes()
    with pytest.raises(AudioError, match="claims 16000 bytes of samples"):
        decode(wav(pcm[: len(pcm) // 2], size=len(pcm)))


RIFF_GUID, WAVE_GUID = bytes.fromhex("2e91cf11a5d628db04c10000"), bytes.fromhex("f3acd3118cd100c04f8edb8a")


def valid_bits_wav(bits: int, valid: int) -> bytes:
    """:data:`SCENE` as PCM of ``valid`` bits in the upper ones of containers of ``bits``."""
    steps = np.rint(SCENE.astype(np.float64) * (1 << valid - 1)).astype(np.int64) << bits - valid
    data = b"".join(int(step).to_bytes(bits // 8, "little", signed=True) for step in steps)
    made = bytearray(wav(data, bits=bits, mask=4))
    made[38:40] = valid.to_bytes(2, "little")
    return bytes(made)


@pytest.mark.parametrize(("bits", "valid"), [(32, 24), (32, 20), (32, 16), (24, 16), (24, 20), (16, 12), (32, 31)])
def test_valid_bits_are_not_the_width_of_samples(bits: int, valid: int, tmp_path: Path) -> None:
    """24 bits in containers of 32 (as Windows records) were read as floats or at another rate: noise or an error."""
    import soundfile

    data = valid_bits_wav(bits, valid)
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    expected, _ = soundfile.read(path, dtype="float32")
    size = struct.pack("<Q", len(data) - 44)
    w64 = b"riff" + RIFF_GUID + size + b"wave" + WAVE_GUID + b"fmt " + WAVE_GUID + struct.pack("<Q", 64)
    w64 += data[20:60] + b"data" + WAVE_GUID + size + data[68:]
    for found in (decode(path).samples, decode(data).samples, Cuts(path).read(0, 9000), decode(w64).samples):
        np.testing.assert_allclose(found[0], expected, atol=1e-6)
        np.testing.assert_allclose(found[0], SCENE, atol=2.0 ** (1 - valid))


@needs_ffmpeg
def test_ogg_streams_of_other_rates_and_layouts_follow_each_other(tmp_path: Path) -> None:
    """FFmpeg 8 ends at a stream of another rate or layout in a chained Ogg file: the rest was lost silently."""

    def made(codec: str, rate: int, channels: int, seconds: float) -> bytes:
        samples = sound(rate, channels, seconds)
        return encode(samples, rate, "ogg", ("-c:a", codec), tmp_path, f"{codec}{rate}{channels}")

    vorbis = [made("libvorbis", 44100, 2, 1.0), made("libvorbis", 22050, 1, 0.8), made("libvorbis", 16000, 2, 0.5)]
    opus = [made("libopus", 48000, 2, 1.0), made("libopus", 48000, 1, 0.7)]
    for parts in ([*vorbis, vorbis[0], vorbis[0], vorbis[2]], vorbis[1:], [*opus, *opus], opus[::-1]):
        found = decode(b"".join(parts))
        alone = [decode(part) for part in parts]
        seconds = sum(each.samples.shape[1] / each.rate for each in alone)
        assert found.rate == alone[0].rate and found.samples.shape[1] / found.rate == pytest.approx(seconds, abs=0.01)
        count = alone[0].samples.shape[1]
        np.testing.assert_array_equal(found.samples[:, :count], alone[0].samples)
        begin = round((seconds - alone[-1].samples.shape[1] / alone[-1].rate) * found.rate)
        tail = alone[-1].samples if len(found.samples) > 1 else alone[-1].samples.mean(axis=0, keepdims=True)
        last, expected = (
            to_rate(each[:1], rate)[0]
            for each, rate in ((found.samples[:, begin:], found.rate), (tail, alone[-1].rate))
        )
        fits = [np.corrcoef(last[2000 + lag : 6000 + lag], expected[2000:6000])[0, 1] for lag in range(-160, 160)]
        assert max(fits) > 0.97  # a converter delays by some milliseconds
    many = decode((vorbis[0] + vorbis[1]) * 30)
    assert many.samples.shape[1] == pytest.approx(30 * (44100 + 2 * 17664), abs=2000)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["libvorbis", "libopus", "flac"])
def test_missing_pages_of_an_ogg_file_are_found(codec: str, tmp_path: Path) -> None:
    """A page that was damaged or gone took a second of sound with it, and the file passed as whole."""
    data = encode(sound(16000, 1, 8.0), 16000, "ogg", ("-c:a", codec), tmp_path, codec)
    middle = data.index(b"OggS", len(data) // 2)
    gone, broken = bytearray(data), bytearray(data)
    del gone[middle : data.index(b"OggS", middle + 1)]
    broken[middle + 100 : middle + 110] = bytes(10)
    for damaged in (gone, broken):
        with pytest.raises(AudioError, match="of the [78].* s that its header states"):
            decode(bytes(damaged))
    assert decode(data + b"TAG" + bytes(125)).samples.shape == decode(data).samples.shape
    assert decode(data + data).samples.shape[1] > 1.9 * decode(data).samples.shape[1]


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["wv", "tta", "sph", "iff", "aifc", "mp4"])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.98])
def test_cut_files_of_every_stated_length_are_found(ending: str, share: float, tmp_path: Path) -> None:
    """Half a file passed as whole where a header says how much there should be: only some formats were trusted."""
    import soundfile

    samples = sound(16000, 1, 8.0)
    if ending in ("sph", "iff"):
        soundfile.write(
            tmp_path / "x", samples, 16000, format={"sph": "NIST", "iff": "SVX"}[ending], subtype="PCM_16"
        )
        data = (tmp_path / "x").read_bytes()
    else:
        args = {
            "aifc": ("-c:a", "adpcm_ima_qt", "-f", "aiff"),
            "mp4": ("-movflags", "empty_moov", "-frag_duration", "4000000"),
        }.get(ending, ())
        data = encode(samples, 16000, ending, args, tmp_path, "x")
    assert decode(data).samples.shape[1] >= 128000
    with pytest.raises(AudioError, match="may have been cut|check that the file is whole"):
        decode(data[: int(share * len(data))])


@needs_ffmpeg
def test_headers_that_count_otherwise_do_not_refuse_a_file(tmp_path: Path) -> None:
    """W64, AIFF and CAF files as libsndfile and others write them were refused, or lost their end."""
    import io

    import soundfile

    def written(form: str, subtype: str, rate: int = 22050) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, sound(rate, 1, 1.0), rate, format=form, subtype=subtype)
        return buffer.getvalue()

    adpcm, gsm = decode(written("W64", "MS_ADPCM")), decode(written("AIFF", "GSM610", 8000))
    assert 22050 <= adpcm.samples.shape[1] < 24000 and gsm.samples.shape == (1, 8000)
    assert decode(written("CAF", "ALAC_16")).samples.shape == (1, 22050)
    overview = written("CAF", "PCM_16") + b"ovvw" + (20000).to_bytes(8, "big") + bytes(20000)
    assert decode(overview).samples.shape == (1, 22050)
    pcm = (SCENE * 32767).astype("<i2").tobytes()
    ds64 = (
        b"ds64"
        + (28).to_bytes(4, "little")
        + b"".join(n.to_bytes(8, "little") for n in (0, 1 << 50, 8000))
        + bytes(4)
    )
    plain = wav(pcm, head=b"RF64")
    assert decode(plain[:12] + ds64 + plain[12:]).samples.shape == (1, 8000)


@needs_ffmpeg
def test_cuts_are_those_of_the_decoded_file(tmp_path: Path) -> None:
    """FLAC in WAV was refused as cut, and what a header does not count was left out."""
    in_wav = encode(sound(16000, 1, 1.0), 16000, "wav", ("-c:a", "flac"), tmp_path, "in_wav")
    flac = bytearray(encode(sound(16000, 1, 1.0), 16000, "flac", (), tmp_path, "short"))
    flac[22:26] = (1000).to_bytes(4, "big")
    for data in (in_wav, bytes(flac)):
        (tmp_path / "x").write_bytes(data)
        found = Cuts(tmp_path / "x").read(0, 20000)
        np.testing.assert_array_equal(found, decode(data).samples)
        assert found.shape == (1, 16000)


@needs_ffmpeg
def test_cuts_of_a_file_that_cannot_be_searched(tmp_path: Path) -> None:
    """Bytes inserted into a FLAC file led the search for its end astray: refused, though all of it is there."""
    data = encode(sound(44100, 2, 6.0), 44100, "flac", (), tmp_path, "whole")
    junk = np.random.default_rng(5).bytes(152)
    for place in range(20_000, 200_000, 6_000):
        damaged = data[:place] + junk + data[place:]
        (tmp_path / "x").write_bytes(damaged)
        try:
            expected = decode(damaged).samples
        except AudioError:
            with pytest.raises(AudioError):
                Cuts(tmp_path / "x").read(0, 300_000)
        else:
            np.testing.assert_array_equal(Cuts(tmp_path / "x").read(0, 300_000), expected)


@needs_ffmpeg
def test_what_looks_like_frames_in_an_ape_tag_is_not_sound(tmp_path: Path) -> None:
    """A cover in an APE tag at the end was taken for damaged frames, and the file refused or made longer."""
    mp3 = encode(sound(16000, 1, 1.0), 16000, "mp3", (), tmp_path, "plain")
    cover = b"Cover\0" + b"\xff\xf3\x84\x44" * 3000 + np.random.default_rng(1).bytes(9000)
    item = len(cover).to_bytes(4, "little") + (2).to_bytes(4, "little") + cover

    def edge(flags: int) -> bytes:
        fields = (2000, len(item) + 32, 1, flags)
        return b"APETAGEX" + b"".join(field.to_bytes(4, "little") for field in fields) + bytes(8)

    tagged = mp3 + edge(0xA0000000) + item + edge(0x80000000)
    (tmp_path / "x.mp3").write_bytes(tagged + b"TAG" + bytes(125))
    for source in (tagged, tagged + b"TAG" + bytes(125), tmp_path / "x.mp3"):
        np.testing.assert_array_equal(decode(source).samples, decode(mp3).samples)


@needs_ffmpeg
def test_streams_that_begin_later_are_ignored(tmp_path: Path) -> None:
    """PyAV raised an IndexError at the end of a file in which a stream appeared after it was opened."""
    flv = encode(sound(44100, 1, 30.0), 44100, "flv", ("-c:a", "libmp3lame"), tmp_path, "sound")
    video = b"\x09\x00\x00\x05\x00\x75\x30\x00\x00\x00\x00\x12\x00\x00\x84\x00" + (16).to_bytes(4, "big")
    whole = decode(flv).samples
    for _ in range(20):
        np.testing.assert_array_equal(decode(flv + video * 3).samples, whole)


@pytest.mark.parametrize("rate", ["16000", float("nan"), float("inf"), [16000], 16000.5, True, 1, 10**9 + 7, None])
def test_sampling_rates_of_arrays_are_checked(rate: object) -> None:
    """A rate that is no number ended in a traceback; one of 10^9 took all memory when it was resampled."""
    with pytest.raises(AudioError, match="sampling rate|samples per second"):
        load_waveform({"array": SCENE, "sampling_rate": rate})


def test_cells_of_wrong_types_are_errors_that_name_them(tmp_path: Path) -> None:
    """These ended in tracebacks, and an integer in place of bytes took as much memory as it says."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    cells = [{"bytes": "RIFF"}, {"bytes": 10**12}, {"bytes": [1, 2]}, {"path": 5}, {"path": "a" * 5000}]
    stored = [StoredCell({"path": path}, [tmp_path]) for path in ("a" * 5000, "a\0b", "loop", 5)]
    arrays = [torch.zeros(9).to_sparse(), torch.zeros(9, dtype=torch.complex64).conj()]
    for source in (*cells, *stored, *({"array": each, "sampling_rate": 16000} for each in arrays), "a" * 5000):
        with pytest.raises(AudioError):
            load_waveform(source)


def test_cuts_are_checked_as_whole_files_are(tmp_path: Path) -> None:
    """Samples that are not finite were read from a stretch of a file, and written as noise."""
    samples = SCENE.copy()
    samples[5000] = np.nan
    (tmp_path / "x.wav").write_bytes(as_file(samples[:, None], 16000))
    cuts = Cuts(tmp_path / "x.wav")
    assert cuts.read(0, 4000).shape == (1, 4000)
    with pytest.raises(AudioError, match="x.wav: .* not finite"):
        cuts.read(4000, 8000)


def test_headers_lead_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Lengths beyond what a system can seek ended in an OSError of the file, or in one that PyAV printed."""
    far = struct.pack(">Q", 2**63 + 5), struct.pack(">Q", 2**62)
    starts = [b"caff\0\1\0\0desc" + each for each in far]
    starts += [b"\0\0\0\x14ftypM4A \0\0\0\0M4A \0\0\0\1free" + each for each in far]
    starts += [
        b"riff" + RIFF_GUID + bytes(8) + b"wave" + WAVE_GUID + b"junk" + WAVE_GUID + each[::-1] for each in far
    ]
    for number, start in enumerate(starts):
        path = tmp_path / f"{number}"
        path.write_bytes(start + bytes(3000))
        for source in (path, path.read_bytes()):
            with pytest.raises(AudioError, match="cannot be read"):
                decode(source)
    assert "Traceback" not in capfd.readouterr().err
