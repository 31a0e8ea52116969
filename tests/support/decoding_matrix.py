"""Sound files of every container, codec, rate, channel count and oddity, made by FFmpeg and by hand."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Expect = Literal["same", "error"]
"""Same as FFmpeg; or an error, because more than 1 % is missing or nothing is there."""


@dataclass(frozen=True)
class Case:
    """A file: ``kind`` groups it in the table."""

    name: str
    kind: str
    data: bytes
    expect: Expect = "same"


@dataclass(frozen=True)
class Plan:
    """How FFmpeg makes a file: ending, further arguments, and the sound."""

    name: str
    kind: str
    ending: str
    args: tuple[str, ...]
    rate: int = 16000
    channels: int = 1
    seconds: float = 0.5
    expect: Expect = "same"
    small: bool = False


def make_cases(folder: Path, full: bool, jobs: int = 2) -> list[Case]:
    """The files, those of FFmpeg written below ``folder``; without ``full`` about one in eight."""
    plans = [plan for plan in _plans() if full or plan.small]
    with ThreadPoolExecutor(jobs) as pool:
        made = list(pool.map(lambda plan: _make(plan, folder), plans))
    return [case for case in made if case is not None] + list(_by_hand(folder, full))


@cache
def sound(rate: int, channels: int, seconds: float) -> NDArray[np.float32]:
    """Noise and tones ``(n, channels)``, each channel its own."""
    count = round(rate * seconds)
    generator = np.random.default_rng(count + channels)
    times = np.arange(count) / rate
    voices = []
    for channel in range(channels):
        tone = sum(np.sin(2 * np.pi * (220 + 130 * channel) * step * times) / step for step in (1, 2, 3))
        noise = np.convolve(generator.standard_normal(count + 8), np.ones(9) / 9, "valid")[:count]
        voices.append(0.2 * tone + 0.2 * noise * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * times)))
    return np.clip(np.stack(voices, axis=1), -0.95, 0.95).astype(np.float32)


def encode(
    samples: NDArray[np.float32], rate: int, ending: str, args: tuple[str, ...], folder: Path, name: str
) -> bytes:
    """``samples (n, channels)`` as FFmpeg writes them. Raises ``subprocess.CalledProcessError``."""
    target = folder / f"{name}.{ending}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "f32le", "-ar", str(rate), "-ac", str(samples.shape[1])]
    command += ["-i", "-", *args, f"file:{target}"]
    subprocess.run(command, input=samples.tobytes(), check=True, capture_output=True)
    return target.read_bytes()


def _make(plan: Plan, folder: Path) -> Case | None:
    samples = sound(plan.rate, plan.channels, plan.seconds)
    try:
        data = encode(samples, plan.rate, plan.ending, plan.args, folder, plan.name)
    except subprocess.CalledProcessError:
        return None  # this FFmpeg has no such encoder, or it does not take the rate
    return Case(f"{plan.name}.{plan.ending}", plan.kind, data, plan.expect)


RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)


def _plans() -> Iterator[Plan]:
    codecs = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_s64le", "pcm_f32le", "pcm_f64le", "pcm_alaw",
              "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "adpcm_yamaha")  # fmt: skip
    for number, codec in enumerate(codecs):
        for place, rate in enumerate(RATES):
            channels = 1 + (number + place) % 2
            kind = "WAV ADPCM" if "adpcm" in codec else "WAV PCM"
            small = place == number % len(RATES)
            yield Plan(f"wav_{codec}_{rate}", kind, "wav", ("-c:a", codec), rate, channels, small=small)
    for channels in (3, 4, 5, 6, 7, 8, 12, 16):
        for ending, codec in (("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("w64", "pcm_s24le"), ("caf", "pcm_s16be")):
            name = f"{ending}_{codec}_{channels}ch"
            yield Plan(
                name, f"{ending.upper()} channels", ending, ("-c:a", codec), 16000, channels, small=channels == 6
            )
    for channels in (1, 2, 3, 4, 5, 6, 7, 8):
        for codec_rate in (16000, 96000):
            for width in ("s16", "s32"):
                name = f"flac_{width}_{channels}ch_{codec_rate}"
                small = (channels, codec_rate, width) in {(1, 16000, "s16"), (2, 96000, "s32"), (5, 16000, "s16")}
                yield Plan(name, "FLAC", "flac", ("-sample_fmt", width), codec_rate, channels, small=small)
    for rate in RATES:
        yield Plan(f"flac_{rate}", "FLAC", "flac", (), rate, 2)
    other = {
        "w64": ("pcm_s16le", "pcm_f32le", "pcm_alaw", "adpcm_ms", "pcm_u8"),
        "aiff": ("pcm_s8", "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_f64be", "pcm_alaw", "pcm_mulaw",
                 "adpcm_ima_qt"),
        "au": ("pcm_s8", "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_f64be", "pcm_alaw", "pcm_mulaw"),
        "caf": ("pcm_s8", "pcm_s16le", "pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_f64be", "pcm_alaw", "alac",
                "adpcm_ima_qt"),
        "mka": ("pcm_s16le", "pcm_f32le", "flac", "libmp3lame", "aac", "libvorbis", "libopus", "ac3"),
        "avi": ("pcm_s16le", "libmp3lame", "ac3"), "mov": ("pcm_s16le", "pcm_s24be", "alac", "aac", "pcm_f32le"),
        "flv": ("libmp3lame", "aac"), "voc": ("pcm_u8", "pcm_s16le"), "ac3": ("ac3",), "eac3": ("eac3",),
        "wv": ("wavpack",), "tta": ("tta",), "mp2": ("mp2",), "mpg": ("mp2",),
    }  # fmt: skip
    for ending, names in other.items():
        for place, codec in enumerate(names):
            for rate, channels in ((44100, 2), (48000, 1)):
                args = ("-c:a", codec)
                small = place == 0 and rate == 44100 and ending in {"w64", "aiff", "au", "caf", "mka", "mov"}
                yield Plan(f"{ending}_{codec}_{rate}", ending.upper(), ending, args, rate, channels, small=small)
    for codec in ("pcm_s16le", "pcm_s24le", "pcm_f32le"):
        yield Plan(
            f"rf64_{codec}", "RF64", "wav", ("-c:a", codec, "-rf64", "always"), 48000, 2, small=codec[4] == "f"
        )
    yield from _lossy()
    for name, seconds in (("none", 0.0), ("one", 1 / 16000), ("two", 2 / 16000), ("40ms", 0.04), ("61s", 61.0)):
        for ending, args in (("wav", ()), ("flac", ()), ("mp3", ()), ("ogg", ("-c:a", "libvorbis")), ("opus", ()),
                             ("aac", ()), ("m4a", ()), ("aiff", ()), ("webm", ()), ("wma", ()),
                             ("ts", ())):  # fmt: skip
            if ending == "webm" and name in ("one", "two"):
                continue  # shorter than the codec's delay: FFmpeg 5 and 8 agree on neither length
            small = (
                name in ("one", "40ms")
                and ending in ("wav", "flac", "mp3", "ogg")
                or (name, ending) == ("none", "wav")
            )
            yield Plan(f"length_{name}_{ending}", "lengths", ending, args, 16000, 1, seconds, small=small)


def _lossy() -> Iterator[Plan]:
    for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000):
        for channels in (1, 2):
            small = (rate, channels) in {(16000, 1), (44100, 2)}
            yield Plan(f"mp3_{rate}_{channels}", "MP3", "mp3", (), rate, channels, 1.0, small=small)
            bare = ("-write_xing", "0", "-id3v2_version", "0")
            yield Plan(f"mp3_bare_{rate}_{channels}", "MP3", "mp3", bare, rate, channels, 1.0, small=small)
    for quality in (0, 4, 9):
        yield Plan(f"mp3_vbr_{quality}", "MP3", "mp3", ("-q:a", str(quality)), 44100, 2, 1.0, small=quality == 4)
    for bits in ("32k", "320k"):
        yield Plan(f"mp3_{bits}", "MP3", "mp3", ("-b:a", bits), 44100, 2, 1.0)
    for rate in (8000, 16000, 22050, 44100, 48000, 96000):
        for channels in (1, 2):
            small = (rate, channels) == (44100, 2)
            yield Plan(f"aac_{rate}_{channels}", "AAC", "aac", (), rate, channels, 1.0, small=small)
            yield Plan(f"m4a_{rate}_{channels}", "M4A", "m4a", (), rate, channels, 1.0, small=small)
            args = ("-c:a", "libvorbis")
            yield Plan(f"vorbis_{rate}_{channels}", "Ogg", "ogg", args, rate, channels, 1.0, small=small)
    yield Plan("m4a_alac", "M4A", "m4a", ("-c:a", "alac"), 44100, 2)
    yield Plan("m4a_first", "M4A", "m4a", ("-movflags", "+faststart"), 44100, 2, 1.0)
    yield Plan("m4a_pieces", "M4A", "mp4", ("-movflags", "frag_keyframe+empty_moov"), 44100, 2, 1.0)
    yield Plan("ogg_flac", "Ogg", "ogg", ("-c:a", "flac"), 44100, 2, 1.0, small=True)
    yield Plan("ogg_speex", "Ogg", "ogg", ("-c:a", "libspeex"), 16000, 1, 1.0)
    for rate in (8000, 16000, 24000, 48000):
        for ending in ("opus", "webm"):
            args = ("-c:a", "libopus")
            yield Plan(
                f"opus_{ending}_{rate}", "Opus", ending, args, rate, 1 + rate % 3 % 2, 1.0, small=rate == 48000
            )
    yield Plan("webm_vorbis", "WebM", "webm", ("-c:a", "libvorbis"), 44100, 2, 1.0, small=True)
    for codec in ("wmav1", "wmav2"):
        for rate in (16000, 44100):
            small = codec == "wmav2" and rate == 44100
            yield Plan(f"{codec}_{rate}", "WMA", "wma", ("-c:a", codec), rate, 2, 1.0, small=small)
    for codec in ("mp2", "libmp3lame", "aac", "ac3"):
        yield Plan(f"ts_{codec}", "TS", "ts", ("-c:a", codec), 48000, 2, 1.0, small=codec == "mp2")
    shifted = ("-output_ts_offset", "3600")
    for ending in ("ogg", "mka", "ts", "m4a"):
        args = ("-c:a", "libvorbis", *shifted) if ending == "ogg" else shifted
        yield Plan(f"late_{ending}", "lead-ins", ending, args, 44100, 2, 1.0, small=ending == "ogg")


def wav(
    data: bytes, *, rate: int = 16000, channels: int = 1, bits: int = 16, form: int = 1, size: int | None = None,
    before: bytes = b"", after: bytes = b"", head: bytes = b"RIFF", mask: int | None = None,
) -> bytes:  # fmt: skip
    """A WAV file whose header may say anything: ``size`` of the data chunk, chunks around it, extensible formats."""
    block = channels * bits // 8
    fields = struct.pack("<HHIIHH", form if mask is None else 0xFFFE, channels, rate, rate * block, block, bits)
    if mask is not None:
        guid = struct.pack("<H", form) + bytes.fromhex("000000001000800000aa00389b71")
        fields += struct.pack("<HHI", 22, bits, mask) + guid
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fields)) + fields + before
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data + after
    return head + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def _by_hand(folder: Path, full: bool) -> Iterator[Case]:
    pcm = (sound(16000, 1, 0.5)[:, 0] * 32767).astype("<i2").tobytes()
    two = (sound(16000, 2, 0.5) * 32767).astype("<i2").tobytes()
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x80000000):
        yield Case(f"streamed_{size:x}.wav", "streamed headers", wav(pcm, size=size))
        yield Case(f"streamed_stereo_{size:x}.wav", "streamed headers", wav(two, channels=2, size=size))
    yield Case("odd.wav", "odd bytes", wav(pcm[:-1], size=len(pcm)))
    yield Case("odd_stereo.wav", "odd bytes", wav(two[:-3], channels=2, size=len(two)))
    yield Case("odd_stated.wav", "odd bytes", wav(pcm[:-1]))
    junk = b"LIST" + struct.pack("<I", 27) + b"INFOINAM" + b"\0" * 19 + b"\0"
    yield Case("junk_before.wav", "junk", wav(pcm, before=junk + b"JUNK" + struct.pack("<I", 28) + b"\1" * 28))
    yield Case("junk_behind.wav", "junk", wav(pcm, after=junk + b"id3 " + struct.pack("<I", 10) + b"\2" * 10))
    yield Case("rest_behind.wav", "junk", wav(pcm) + b"\xff\xfb\x90\x00" * 200)
    yield Case("extensible.wav", "WAV extensible", wav(two, channels=2, mask=3))
    yield Case("extensible_nomask.wav", "WAV extensible", wav(two, channels=2, mask=0))
    floats = sound(16000, 2, 0.5).astype("<f4").tobytes()
    yield Case("extensible_float.wav", "WAV extensible", wav(floats, channels=2, bits=32, form=3, mask=3))
    yield Case("cut_half.wav", "cut", wav(pcm[: len(pcm) // 2], size=len(pcm)), "error")
    yield Case("cut_header.wav", "cut", wav(pcm)[:30], "error")
    yield Case("nothing.wav", "lengths", wav(b""), "error")
    yield from _of_encoded(folder, full)


def _of_encoded(folder: Path, full: bool) -> Iterator[Case]:
    def made(ending: str, rate: int = 44100, channels: int = 2, seconds: float = 1.0, *args: str) -> bytes:
        name = f"part_{rate}_{channels}_{seconds}_{len(args)}"
        return encode(sound(rate, channels, seconds), rate, ending, args, folder, name)

    mp3, flac, bare = made("mp3"), made("flac"), made("mp3", 44100, 2, 1.0, "-write_xing", "0", "-id3v2_version", "0")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 3, 0]) + b"T" * 384
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0xA0000000) + bytes(8)
    yield Case("two_tags.mp3", "ID3, APE", tag + tag + bare)
    yield Case("tag_behind.mp3", "ID3, APE", bare + b"TAG" + b"title".ljust(125, b"\0"))
    yield Case("ape_behind.mp3", "ID3, APE", bare + ape)
    yield Case("ape_before.mp3", "ID3, APE", ape + bare)
    yield Case("tag.flac", "ID3, APE", tag + flac)
    yield Case("zeros_before.mp3", "junk", bytes(417) + bare)
    yield Case("noise_between.mp3", "junk", bare + np.random.default_rng(1).bytes(600).replace(b"\xff", b"\0") + bare)
    yield Case("cut.mp3", "cut", mp3[: len(mp3) // 2])
    yield Case("cut.flac", "cut", flac[: len(flac) // 2], "error")
    yield Case("streamed.flac", "streamed headers", _without_total(flac))
    yield Case("other_rate.mp3", "format changes", bare + made("mp3", 22050, 1, 1.0, "-write_xing", "0"))
    yield Case("other_channels.mp3", "format changes", bare + made("mp3", 44100, 1, 1.0, "-write_xing", "0"))
    if not full:
        return
    ogg, aac, au, m4a = made("ogg"), made("aac"), made("au"), made("m4a")
    yield Case("chained.ogg", "format changes", ogg + made("ogg", 44100, 2, 0.7))
    yield Case("other_rate.aac", "format changes", aac + made("aac", 22050, 1))
    yield Case("cut.ogg", "cut", ogg[: len(ogg) // 2])
    yield Case("cut.aac", "cut", aac[: len(aac) // 2])
    yield Case("cut.m4a", "cut", m4a[: len(m4a) // 2], "error")
    yield Case("cut.au", "cut", au[: len(au) // 2], "error")
    for ending in ("aiff", "caf", "w64"):
        data = made(ending)
        yield Case(f"cut.{ending}", "cut", data[: len(data) // 2], "error")
    yield Case("streamed.au", "streamed headers", au[:8] + b"\xff" * 4 + au[12:])
    yield Case("streamed_caf.caf", "streamed headers", _caf_without_size(made("caf")))
    broken = bytearray(flac)
    broken[len(flac) // 2 : len(flac) // 2 + 3000] = bytes(3000)
    yield Case("damaged.flac", "cut", bytes(broken), "error")


def _without_total(flac: bytes) -> bytes:
    data = bytearray(flac)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def _caf_without_size(caf: bytes) -> bytes:
    place = caf.index(b"data")
    return caf[: place + 4] + b"\xff" * 8 + caf[place + 12 :]


def as_file(samples: NDArray[np.float32], rate: int) -> bytes:
    """Float WAV of ``samples (n, channels)``."""
    buffer = io.BytesIO()
    data = samples.astype("<f4").tobytes()
    buffer.write(wav(data, rate=rate, channels=samples.shape[1], bits=32, form=3))
    return buffer.getvalue()
