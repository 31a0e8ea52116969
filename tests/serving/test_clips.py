"""Clips of requests: what is decoded, and what is refused before it costs anything."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from src.audio.waveform import load_waveform
from src.serving.clip_decoder import ApiError, decode, read_base64, read_url
from src.serving.config import Limits
from tests.serving.sounds import (
    audio_url,
    encoded,
    float_wav,
    input_audio,
    large_wav_header,
    silence_bomb,
    wav_header,
)

LIMITS = Limits(clip_seconds=20)
KINDS = ["wav", "mp3", "flac", "ogg"]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_decoded_as_offline(kind: str, rate: int, channels: int) -> None:
    data = encoded(kind, 0.7, rate, channels)
    expected = load_waveform(data)
    for encoded_file in (
        read_base64(input_audio(data, kind)["input_audio"]["data"].encode()),
        read_url(audio_url(data)["audio_url"]["url"].encode(), LIMITS),
    ):
        found = decode(encoded_file, LIMITS, kind)
        assert found.rate == rate and found.samples.shape[0] == 1
        assert np.array_equal(found.samples[0], expected.mono.numpy())


def test_an_id3_tag_changes_nothing() -> None:
    plain = encoded("mp3")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + b"T" * 128
    assert np.array_equal(decode(tag + tag + plain, LIMITS, "mp3").samples, decode(plain, LIMITS).samples)


def refusal(data: bytes, declared: str | None = None, limits: Limits = LIMITS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(data, limits, declared)
    assert caught.value.status == 400
    return caught.value


def test_long_clips_are_refused_whatever_their_header_says() -> None:
    began = time.monotonic()
    assert refusal(silence_bomb()).code == "audio_too_long"
    assert refusal(encoded("wav", 21.0)).code == "audio_too_long"
    streamed = bytearray(encoded("flac", 30.0))
    streamed[21] &= 0xF0  # the number of samples in STREAMINFO: unknown
    streamed[22:26] = bytes(4)
    assert refusal(bytes(streamed)).code == "audio_too_long"
    many = refusal(encoded("wav", 5.0, 16000, 2), limits=Limits(clip_seconds=20, samples=100_000))
    assert many.code == "audio_too_long" and "2 channels" in many.message
    assert time.monotonic() - began < 10


def test_claims_of_gigabytes_take_no_memory() -> None:
    for data in (wav_header(2**30), large_wav_header(10 * 2**30), large_wav_header(2**62)):
        assert "holds 1600" in refusal(data).message
    for unknown in (2**32 - 1, 2**31 - 1, 0x7FFFF000):  # written before the length was known
        assert decode(wav_header(unknown), LIMITS).samples.shape[1] == 800


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"RIFF", "cannot be read"),
        (b"\x80\x04pickle", "cannot be read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot be read"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00#EXTM3U\nfile:///etc/passwd\n", "cannot be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be read"),
        (b"\xff\xfb\x90\x64<MPD profiles='urn:mpeg:dash:profile:isoff-live:2011'>" * 50, "cannot be read"),
        (b"\xff\xfb\x90\x64\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n" * 50, "cannot be read"),
        (b"RIFF\xff\xff\xff\xffWAVE<MPD dash:profile:isoff-live:2011>", "cannot be read"),
        (b"OggS\0" + b"\1" * 400, "cannot be read"),
        (b"fLaC\0\0\0\x22" + b"\1" * 400, ""),
        (encoded("wav")[:40], ""),
        (encoded("flac")[:60], ""),
        (encoded("mp3")[:8], ""),
        (encoded("wav", 0.0), "0 s"),
        (wav_header(0, data=b""), ""),
        (wav_header(1600, tag=0x161), "cannot be read"),
        (wav_header(1600, channels=0), ""),
        (wav_header(1600, channels=60000), ""),
        (wav_header(1600, rate=0), ""),
        (wav_header(1600, rate=2**31), ""),
        (wav_header(1600, rate=1), ""),
        (float_wav([0.1, float("nan"), 0.2] * 100), "not finite"),
        (float_wav([float("inf")] * 100), "not finite"),
    ],
)
def test_what_is_no_audio_is_refused_with_a_reason(data: bytes, why: str) -> None:
    assert why in refusal(data).message


def test_the_format_must_be_what_it_says() -> None:
    assert "'mp3', but the bytes are those of a wav" in refusal(encoded("wav"), "mp3").message


@pytest.mark.parametrize("text", ["", "a", "====", "UklGR", "päper", "UklGRg==\nUklGRg==", "%%%%", "-_AA"])
def test_broken_base64_is_refused(text: str) -> None:
    with pytest.raises(ApiError):
        read_base64(text.encode())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "data:",
        "data:audio/wav,UklGRg==",
        "data:text/html;base64,UklGRg==",
        "data:audio/wav;base64",
        "concat:/etc/passwd|/etc/hosts",
        "subfile,,start,0,end,64,,:/etc/passwd",
    ],
)
def test_nothing_but_data_urls_is_read(url: str) -> None:
    with pytest.raises(ApiError):
        read_url(url.encode(), LIMITS)


def test_addresses_of_hosts_that_are_not_listed_are_not_read() -> None:
    limits = Limits(remote_hosts=["example.com"])
    for url in ("HTTPS://user@Example.org:81/a.wav", "http://example.com.evil.example/a.wav", "http://[::1/a.wav"):
        with pytest.raises(ApiError, match="are not read|not a valid address"):
            read_url(url.encode(), limits)


def test_odd_headers_of_good_files_pass(tmp_path: Path) -> None:
    samples = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"):
        file = io.BytesIO()
        soundfile.write(file, samples, 16000, format="WAV", subtype=subtype)
        assert decode(file.getvalue(), LIMITS).samples.shape[1] >= 1000
    junk = encoded("wav")
    junk = junk[:12] + b"JUNK" + struct.pack("<I", 28) + b"\1" * 28 + junk[12:]
    assert decode(junk, LIMITS).samples.shape[1] == 16000
