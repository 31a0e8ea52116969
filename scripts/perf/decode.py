"""Seconds of audio decoded per second, against torchcodec alone.

In:  nothing; noise with a tone is encoded by torchcodec as WAV, FLAC and MP3, short and long, mono and stereo.
Out: a table, of each clip and of the clips of a format together; rows with --json. By default the time of the process
counts, not that of the clock, so that other programs of the machine matter less.

    python scripts/perf/decode.py --json decode.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, rates, run_bench, timed
from src.common.cli import run_cli

CLIPS = ((2.0, 16000, 1), (10.0, 16000, 1), (30.0, 44100, 2))


def main() -> None:
    parser = bench_parser(__doc__, rounds=31)
    parser.add_argument("--files", type=int, default=5, help="decodings of a round")
    parser.add_argument("--clock", action="store_true", help="measure by the clock")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """One row for each clip, and one for each format."""
    import torch
    from torchcodec.decoders import AudioDecoder
    from torchcodec.encoders import AudioEncoder

    from src.audio.waveform import load_waveform

    torch.set_num_threads(1)
    clock = time.perf_counter if args.clock else time.process_time
    rows = []
    for kind in ("wav", "flac", "mp3"):
        whole: dict[str, list[list[float]]] = {"ours": [], "torchcodec": []}
        for seconds, rate, channels in CLIPS:
            times = torch.arange(int(seconds * rate)) / rate
            noise = 0.1 * torch.randn(channels, times.numel(), generator=torch.Generator().manual_seed(0))
            samples = (0.3 * torch.sin(2 * torch.pi * 440 * times) + noise).clamp(-1, 1)
            data = AudioEncoder(samples, sample_rate=rate).to_tensor(kind).numpy().tobytes()
            found, baseline = load_waveform(data).samples, AudioDecoder(data).get_all_samples().data
            assert torch.equal(found, baseline), f"{kind}: ours differs from torchcodec"
            ways = {
                "ours": timed(lambda data=data: [load_waveform(data) for _ in range(args.files)], clock),
                "torchcodec": timed(
                    lambda data=data: [AudioDecoder(data).get_all_samples() for _ in range(args.files)], clock
                ),
            }
            spent = alternate(ways, args.rounds)
            ours, theirs = (rates(seconds * args.files, spent[way]) for way in ways)
            name = f"{kind}, {seconds:g} s at {rate} Hz, {channels} channel(s)"
            rows.append(BenchRow(name, "s of audio/s", ours, theirs, "cpu"))
            for way, each in whole.items():
                each.append(spent[way])
        decoded = args.files * sum(seconds for seconds, *_ in CLIPS)
        ours, theirs = (rates(decoded, [sum(one) for one in zip(*each, strict=True)]) for each in whole.values())
        rows.append(BenchRow(f"{kind}, the three clips", "s of audio/s", ours, theirs, "cpu"))
    return rows


if __name__ == "__main__":
    run_cli(main)
