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

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

ENCODERS = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a clip")
    parser.add_argument("--clips", type=int, default=4, help="clips of a batch")
    parser.add_argument("--rate", type=int, default=44100, help="sample rate of the clips, in Hz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where ours is computed: cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = measure(args.seconds, args.clips, args.rate, args.threads, args.device)
    print(bench_table(rows))
    if args.json:
        write_rows(args.json, rows)


def measure(seconds: float, clips: int, rate: int, threads: int, device: str) -> list[BenchRow]:
    """One row for each encoder and one for all four."""
    import torch
    from torch.utils.benchmark import Timer

    from src.audio.config import FeatureConfig
    from src.audio.features import AudioFeatureExtractor
    from src.audio.waveform import Waveform

    torch.set_num_threads(threads)
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

    def time(work: Callable[[], object]) -> float:
        timer = Timer("work()", globals={"work": work}, num_threads=threads)
        return 1000 * timer.blocked_autorange(min_run_time=3.0).median / clips

    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {threads} threads"
    rows = []
    for names in [*([name] for name in ENCODERS), list(ENCODERS)]:
        extractor = AudioFeatureExtractor({name: configs[name] for name in names}, device)

        def alone(names: list[str] = names) -> None:
            for clip in audio:
                for name in names:
                    straightforward[name](clip.samples)

        ours = time(lambda extractor=extractor: extractor(audio))  # type: ignore[misc]
        title = names[0] if len(names) == 1 else "all four"
        rows.append(BenchRow(f"features, {title}, {seconds:g} s clip", "ms", ours, time(alone), where))
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
