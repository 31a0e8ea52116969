"""Seconds of audio decoded per second, against torchcodec alone.

In:  nothing; noise with a tone is encoded by torchcodec as WAV, FLAC and MP3, short and long, mono and stereo.
Out: a table; rows with --json. Ours and the baseline alternate, the median of all rounds counts. By default the time
of the process counts, not that of the clock, so that other programs of the machine matter less.

    python scripts/perf/decode.py --rounds 15 --json decode.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

CLIPS = ((2.0, 16000, 1), (10.0, 16000, 1), (30.0, 44100, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--files", type=int, default=10, help="decodings of a round")
    parser.add_argument("--clock", action="store_true", help="measure by the clock")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = measure(args.rounds, args.files, time.perf_counter if args.clock else time.process_time)
    print(bench_table(rows))
    if args.json:
        write_rows(args.json, rows)


def measure(rounds: int, files: int, clock: Callable[[], float]) -> list[BenchRow]:
    """One row for each format and clip."""
    import torch
    from torchcodec.decoders import AudioDecoder
    from torchcodec.encoders import AudioEncoder

    from src.audio.waveform import load_waveform

    torch.set_num_threads(1)
    rows = []
    for kind in ("wav", "flac", "mp3"):
        for seconds, rate, channels in CLIPS:
            times = torch.arange(int(seconds * rate)) / rate
            noise = 0.1 * torch.randn(channels, times.numel(), generator=torch.Generator().manual_seed(0))
            samples = (0.3 * torch.sin(2 * torch.pi * 440 * times) + noise).clamp(-1, 1)
            data = AudioEncoder(samples, sample_rate=rate).to_tensor(kind).numpy().tobytes()
            found, baseline = load_waveform(data).samples, AudioDecoder(data).get_all_samples().data
            assert torch.equal(found, baseline), f"{kind}: ours differs from torchcodec"
            ours = _Timed(lambda data=data: load_waveform(data), files, clock)
            theirs = _Timed(lambda data=data: AudioDecoder(data).get_all_samples(), files, clock)
            for number in range(rounds):
                for each in (ours, theirs) if number % 2 else (theirs, ours):
                    each.run()
            total = seconds * files
            speeds = total / ours.median, total / theirs.median
            name = f"{kind}, {seconds:g} s at {rate} Hz, {channels} channel(s)"
            rows.append(BenchRow(name, "s of audio/s", *speeds, "cpu"))
    return rows


class _Timed:
    def __init__(self, work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> None:
        self._work, self._repeats, self._clock = work, repeats, clock
        self._times: list[float] = []

    def run(self) -> None:
        began = self._clock()
        for _ in range(self._repeats):
            self._work()
        self._times.append(self._clock() - began)

    @property
    def median(self) -> float:
        return statistics.median(self._times)


if __name__ == "__main__":
    run_cli(main)
