"""Every way in compared with what FFmpeg's command decodes: number of samples, rate, and the samples themselves."""

from __future__ import annotations

import http.server
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.common.errors import UserError
from tests.support.decoding_matrix import Case
from tests.support.loopback import running

Found = tuple[NDArray[np.float32], int]
_OUTPUT = re.compile(rb"Output #0.*?Audio: pcm_f32le[^,]*, (\d+) Hz, ([^,\n]+)", re.DOTALL)
CORRELATION, LARGEST = 0.9995, 2e-3
"""The command and the library need not be of one version: IMA ADPCM, for one, is rounded differently in FFmpeg 8."""


@dataclass(frozen=True)
class Difference:
    """A way in that differs from FFmpeg for a file, and how."""

    case: str
    kind: str
    way: str
    what: str


@contextmanager
def every_way(folder: Path) -> Iterator[dict[str, Callable[[Path], Found | None]]]:
    """Ways in by name; each takes a file and returns samples ``(channels, n)`` and rate, or raises ``UserError``.

    ``None`` where a way does not take the kind of file at all. Those that mix return one channel.
    """
    import torch

    from src.audio.decode import decode
    from src.audio.roots import StoredCell
    from src.audio.waveform import Waveform, load_waveform
    from src.corpus.rows.audio import Cuts, read_mono, seconds_of
    from src.report.spectrogram import read_sound
    from src.serving.clip_decoder import ApiError
    from src.serving.clip_decoder import decode as decode_clip
    from src.serving.config import Limits

    def plain(waveform: Waveform) -> Found:
        return waveform.samples.numpy(), waveform.sample_rate

    def measured(path: Path) -> Found:
        found = decode(path)
        samples, rate = found.samples, found.rate
        seconds = seconds_of(path.read_bytes(), path.name)
        assert round(seconds * rate) == samples.shape[1], f"measured {seconds * rate}, read {samples.shape[1]}"
        return samples, rate

    def cut(path: Path) -> Found:
        cuts = Cuts(path)
        step = 3001 * max(1, cuts.rate // 16000)
        pieces = [cuts.read(0, step)]
        while pieces[-1].shape[1] == step:
            pieces.append(cuts.read(step * len(pieces), step * (len(pieces) + 1)))
        return np.concatenate(pieces, axis=1), cuts.rate

    def by_server(path: Path) -> Found | None:
        try:
            found = decode_clip(path.read_bytes(), Limits(clip_seconds=100, samples=10**9))
            return found.samples, found.rate
        except ApiError as error:
            if path.suffix not in (".wav", ".mp3", ".flac", ".ogg", ".opus") or "its codec is" in error.message:
                return None
            raise UserError(error.message) from error

    def by_array(path: Path) -> Found:
        found = load_waveform(path)
        return plain(load_waveform({"array": found.samples.numpy(), "sampling_rate": found.sample_rate}))

    def by_report(path: Path) -> Found:
        sound = read_sound({"bytes": path.read_bytes(), "path": None}, path.name)
        return sound.samples[None], sound.rate

    def by_datasets(path: Path) -> Found:
        class Decoder:  # what datasets hands over: a torchcodec decoder with the cell that it was made of
            _hf_encoded = {"bytes": path.read_bytes(), "path": path.name}

            def get_all_samples(self) -> Any:
                raise AssertionError("the encoded cell is there")

        return plain(load_waveform(Decoder()))

    with _serving(folder) as address:
        yield {
            "path": lambda path: plain(load_waveform(path)),
            "bytes": lambda path: plain(load_waveform(path.read_bytes())),
            "URL": lambda path: plain(load_waveform(f"{address}/{path.name}")),
            "cell with bytes": lambda path: plain(load_waveform({"bytes": path.read_bytes(), "path": path.name})),
            "cell with path": lambda path: plain(
                load_waveform(StoredCell({"bytes": None, "path": path.name}, [path.parent.resolve()]))
            ),
            "cell with array": by_array,
            "decoder of datasets": by_datasets,
            "collector, filter": measured,
            "collector, cuts": cut,
            "collector, mono": lambda path: (read_mono(path)[None], 16000),
            "report": by_report,
            "server": by_server,
        }
    assert torch is not None


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    with running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


def by_ffmpeg(path: Path) -> Found | None:
    """Samples that FFmpeg's command decodes of the first audio stream; ``None`` if that is nothing."""
    done = subprocess.run(
        ["ffmpeg", "-hide_banner", "-nostdin", "-i", f"file:{path}", "-map", "0:a:0", "-f", "f32le", "-"],
        capture_output=True,
    )
    said = _OUTPUT.search(done.stderr)
    if said is None or not done.stdout:
        return None
    layout = said[2].decode().strip()
    known = {"mono": 1, "stereo": 2, "quad": 4, "4.0": 4, "hexagonal": 6, "octagonal": 8, "hexadecagonal": 16}
    counted = re.match(r"(\d+) channels", layout)
    dotted = re.match(r"(\d+)\.(\d+)", layout)
    channels = known.get(layout) or (int(counted[1]) if counted else 0)
    channels = channels or (int(dotted[1]) + int(dotted[2]) if dotted else 0)
    if not channels:
        raise AssertionError(f"unknown layout {layout}")
    return np.frombuffer(done.stdout, np.float32).reshape(-1, channels).T, int(said[1])


def compare(
    cases: Sequence[Case], folder: Path, ways: dict[str, Callable[[Path], Found | None]]
) -> tuple[list[Difference], dict[str, Counter[str]]]:
    """Differences, and for each kind of file the number of files and of comparisons."""
    differences: list[Difference] = []
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        path = folder / case.name
        path.write_bytes(case.data)
        expected = by_ffmpeg(path) if case.expect == "same" else None
        table[case.kind]["files"] += 1
        for name, way in ways.items():
            what = _compare_one(path, expected, name, way)
            if what is None:
                continue
            table[case.kind]["compared"] += 1
            if what:
                table[case.kind]["different"] += 1
                differences.append(Difference(case.name, case.kind, name, what))
        path.unlink()
    return differences, dict(table)


def _compare_one(path: Path, expected: Found | None, name: str, way: Callable[[Path], Found | None]) -> str | None:
    """Difference; empty if nothing does, ``None`` if the way does not take such files."""
    try:
        found = way(path)
    except UserError as error:
        return f"an error: {error}" if expected is not None else ""
    except Exception as error:  # noqa: BLE001 - a difference as well
        return f"{type(error).__name__}: {error}"
    if found is None:
        return None
    if expected is None:
        return f"{found[0].shape[1]} samples, expected an error"
    samples, rate = found
    wanted, wanted_rate = expected
    if name == "collector, mono":
        from src.corpus.rows.audio import mono, to_rate

        wanted, wanted_rate = to_rate(mono(wanted.copy()), wanted_rate), 16000
    elif samples.shape[0] == 1 and wanted.shape[0] > 1:
        wanted = wanted.mean(axis=0, keepdims=True)
    if rate != wanted_rate:
        return f"{rate} Hz, FFmpeg {wanted_rate}"
    if samples.shape != wanted.shape:
        return f"{samples.shape[0]} x {samples.shape[1]} samples, FFmpeg {wanted.shape[0]} x {wanted.shape[1]}"
    largest = float(np.abs(samples - wanted).max())
    if largest <= LARGEST:
        return ""
    energy = float(np.linalg.norm(samples) * np.linalg.norm(wanted))
    correlation = float((samples * wanted).sum()) / energy if energy else 0.0
    return "" if correlation >= CORRELATION else f"correlation {correlation:.5f}, largest difference {largest:.3g}"


def rows_of(table: dict[str, Counter[str]]) -> list[str]:
    """The table for people, in Markdown."""
    lines = ["| format | files | comparisons | differences |", "| --- | ---: | ---: | ---: |"]
    total: Counter[str] = Counter()
    for kind, counts in sorted(table.items()):
        total.update(counts)
        lines.append(f"| {kind} | {counts['files']} | {counts['compared']} | {counts['different']} |")
    return [*lines, f"| **all** | {total['files']} | {total['compared']} | {total['different']} |"]
