"""Milliseconds per clip for each encoder's features, against one clip at a time by the encoders' usual extractors.

In:  nothing; clips are noise with a slow envelope, stereo at 44.1 kHz.
Out: a table; rows with --json. The baseline is transformers' Whisper and SeamlessM4T extractors and torchaudio's
Kaldi filterbank, after channel averaging and torchaudio's resampling, done for each encoder and clip.

    python scripts/perf/features.py --threads 1 --json features.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, device_name, run_bench, timed
from src.common.cli import run_cli

ENCODERS = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    parser = bench_parser(__doc__, rounds=7)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a clip")
    parser.add_argument("--clips", type=int, default=4, help="clips of a batch")
    parser.add_argument("--rate", type=int, default=44100, help="sample rate of the clips, in Hz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where ours is computed: cpu or cuda")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """One row for each encoder and one for all four."""
    import torch

    from src.audio.config import FeatureConfig
    from src.audio.features import AudioFeatureExtractor
    from src.audio.waveform import Waveform

    seconds, rate, clips, device = args.seconds, args.rate, args.clips, args.device
    torch.set_num_threads(args.threads)
    configs = {
        "whisper": FeatureConfig("whisper", 16000, 3000, 128),
        "w2vbert": FeatureConfig("w2vbert", 16000, 1500, 80),
        "sslam": FeatureConfig("sslam", 16000, 1024, 128),
        "muq": FeatureConfig("muq", 24000, 720000),
    }
    generator = torch.Generator().manual_seed(0)
    envelope = torch.sin(torch.linspace(0, 60, int(seconds * rate))).abs()
    audio = [
        Waveform(0.1 * envelope * torch.randn(2, len(envelope), generator=generator), rate) for _ in range(clips)
    ]
    straightforward = baseline(rate)

    where = device_name(device)
    rows = []
    for names in [*([name] for name in ENCODERS), list(ENCODERS)]:
        extractor = AudioFeatureExtractor({name: configs[name] for name in names}, device)

        def alone(names: list[str] = names) -> None:
            for clip in audio:
                for name in names:
                    straightforward[name](clip.samples)

        def together(extractor: AudioFeatureExtractor = extractor) -> None:
            extractor(audio)
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        ways = {"ours": together, "baseline": alone}
        for way in ways.values():
            way()
        spent = alternate({name: timed(way) for name, way in ways.items()}, args.rounds)
        each = {name: [1000 * value / clips for value in values] for name, values in spent.items()}
        title = names[0] if len(names) == 1 else "all four"
        rows.append(BenchRow(f"features, {title}, {seconds:g} s clip", "ms", each["ours"], each["baseline"], where))
    return rows


def baseline(rate: int) -> dict[str, Callable]:
    """The straightforward way, for one clip ``(channels, n)`` and one encoder."""
    import torch
    from torchaudio.compliance import kaldi
    from torchaudio.functional import resample
    from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

    whisper = WhisperFeatureExtractor(feature_size=128)
    seamless = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1)

    def mono(clip: torch.Tensor, target: int) -> torch.Tensor:
        return resample(clip.mean(0), rate, target)

    def sslam(clip: torch.Tensor) -> torch.Tensor:
        samples = mono(clip, 16000)
        samples = torch.nn.functional.pad(samples - samples.mean(), (160, 160))
        fbank = kaldi.fbank(
            samples[None], htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
            num_mel_bins=128, dither=0.0, frame_shift=10,
        )  # fmt: skip
        fbank = torch.nn.functional.pad(fbank, (0, 0, 0, -len(fbank) % 1024))
        return (fbank + 4.268) / (2 * 4.569)

    def muq(clip: torch.Tensor) -> torch.Tensor:
        samples = mono(clip, 24000)
        return torch.nn.functional.pad(samples, (0, -len(samples) % 720000))

    return {
        "whisper": lambda clip: whisper(mono(clip, 16000).numpy(), sampling_rate=16000, return_tensors="pt"),
        "w2vbert": lambda clip: seamless(mono(clip, 16000).numpy(), sampling_rate=16000, return_tensors="pt"),
        "sslam": sslam,
        "muq": muq,
    }


if __name__ == "__main__":
    run_cli(main)
