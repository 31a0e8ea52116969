"""Clips that cost much more than they look: each is decoded from eight threads at once in a process of its own."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.paths import REPO_ROOT
from tests.support.decoding_matrix import encode, sound

MOST_MIB, MOST_SECONDS, THREADS = 1536.0, 2.0, 8


@dataclass(frozen=True)
class Cost:
    """Cost of eight of one kind together; ``seconds`` is the slowest."""

    name: str
    mib: float
    seconds: float
    decoded: int
    refused: int


@dataclass(frozen=True)
class Report:
    """Costs of all kinds, ``mixed`` being all of them at once."""

    costs: list[Cost]

    def faults(self) -> list[str]:
        """Kinds that cost too much."""
        return [each.name for each in self.costs if each.mib > MOST_MIB or each.seconds > MOST_SECONDS]

    def lines(self) -> list[str]:
        """For people, in Markdown."""
        head = [
            "| eight at once | memory above idle, MiB | slowest, s | decoded | refused |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        return head + [
            f"| {each.name} | {each.mib:.0f} | {each.seconds:.2f} | {each.decoded} | {each.refused} |"
            for each in self.costs
        ]

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return {"costs": [asdict(each) for each in self.costs], "faults": self.faults()}


def make_hostile(folder: Path, small: bool = False) -> dict[str, Path]:
    """The clips by name, written to ``folder``; ``small`` ones are made faster."""
    side, seconds, frame = (6000, "60", "640x480") if small else (16000, "299", "1920x1088")

    def put(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    other = put("other.wav", encode(sound(16000, 1, 1.0), 16000, "wav", (), folder, "secret"))
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "anullsrc=r=192000:cl=mono",
            "-t",
            seconds,
            str(folder / "silence.flac"),
        ],
        check=True,
    )
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=s={frame}:r=5", "-f", "lavfi", "-i", "sine",
         "-t", "4", "-c:v", "libtheora", "-c:a", "libvorbis", str(folder / "theora.ogg")], check=True,
    )  # fmt: skip
    flac = encode(sound(8000, 1, 1.0), 8000, "flac", (), folder, "short")
    return {
        f"silence, {seconds} s at 192 kHz (FLAC)": folder / "silence.flac",
        f"picture of {side} x {side} (FLAC)": put("picture.flac", with_picture(flac, side)),
        "Theora video (Ogg)": folder / "theora.ogg",
        "HLS playlist": put("hls.mp3", hls(other)),
        "SDP": put("sdp.mp3", SDP),
        "concat list": put("concat.mp3", f"ffconcat version 1.0\nfile '{other}'\n".encode()),
        "DASH": put("dash.mp3", DASH),
        "rate of 191,992 Hz": put("odd_rate.wav", encode(sound(191_992, 1, 0.01), 191_992, "wav", (), folder, "odd")),
    }


SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
DASH = b"<?xml version='1.0'?><MPD profiles='urn:mpeg:dash:profile:isoff-live:2011'/>"


def hls(other: Path) -> bytes:
    """A playlist that names another file."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{other}\n#EXT-X-ENDLIST\n".encode()


def with_picture(flac: bytes, side: int) -> bytes:
    """A FLAC file with a cover of ``side`` x ``side`` black pixels, a few hundred kilobytes as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    picture = struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">I", 0)
    picture += struct.pack(">IIIII", side, side, 24, 0, len(png)) + png
    info = 4 + 4 + 34  # the magic and the first block, STREAMINFO
    block = bytes([6]) + len(picture).to_bytes(3, "big") + picture
    return flac[:4] + bytes([flac[4] & 0x7F]) + flac[5:info] + block + flac[info:]


def measure_hostile() -> Report:
    """Every kind alone, then all kinds together, each in a fresh process."""
    with tempfile.TemporaryDirectory() as made:
        files = make_hostile(Path(made))
        jobs = {name: [str(path)] * THREADS for name, path in files.items()}
        jobs["all of them, twice"] = [str(path) for path in files.values()] * 2
        return Report([_in_process(name, paths) for name, paths in jobs.items()])


def _in_process(name: str, paths: list[str]) -> Cost:
    command = [sys.executable, "-m", "tests.support.hostile_clips", *paths]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    return Cost(name=name, **json.loads(done.stdout.splitlines()[-1]))


def _measure(paths: list[str]) -> dict[str, Any]:
    """Decode the files at once as clips of one request, keep what was decoded, and tell the peak of memory."""
    import torch

    from src.audio.budget import Allowance
    from src.audio.resample import resample
    from src.serving.clip_decoder import ApiError, decode
    from src.serving.config import Limits

    small = encode(np.zeros((1600, 1), np.float32), 16000, "wav", (), Path(tempfile.mkdtemp()), "warm")
    decode(small, Limits())  # libraries are loaded
    resample(torch.zeros(1, 100), torch.tensor([100]), 8000, 16000)
    contents = [Path(path).read_bytes() for path in paths]
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    allowance = Allowance(Limits().request_samples)
    kept: list[Any] = []
    times: list[float] = []
    refused: list[str] = []
    gate = threading.Barrier(len(contents))

    def work(data: bytes) -> None:
        gate.wait()
        began = time.monotonic()
        try:
            kept.append(decode(data, Limits(), allowance=allowance))
        except ApiError as error:
            refused.append(error.message)
        times.append(time.monotonic() - began)

    threads = [threading.Thread(target=work, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": (peak - idle) / 1024, "seconds": max(times), "decoded": len(kept), "refused": len(refused)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1:])) + "\n")
