"""Clips per second that one data worker prepares, against a plain loop, and how many workers 20 clips a second need.

In:  nothing; speech-like noise is encoded by torchcodec as 16 kHz FLAC and 44.1 kHz MP3 of 10 to 30 s, and saved as a
     raw set and as tar shards.
Out: a table; rows with --json. ours: the training's own loader with a model that does nothing (rows from disk or from
     shards, decoding, tokenising, batches through a worker's pipe, and with --features cpu also the features of the
     four encoders). baseline: one process without a loader that decodes with torchcodec and computes the features
     with the encoders' usual extractors, clip by clip. By default the time of the process that works counts, not that
     of the clock, so that other programs matter less: a rate is then that of a core.

    python scripts/perf/data.py --json data.json
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, rates, run_bench
from src.common.cli import run_cli
from src.common.paths import ASSETS

FORMATS = {"flac": 16000, "mp3": 44100}
TARGET = 20.0
"""Clips a second that a GPU is to be fed with."""
ENCODERS = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--clips", type=int, default=48, help="clips of a round")
    parser.add_argument("--least", type=float, default=10.0, help="shortest clip in seconds")
    parser.add_argument("--longest", type=float, default=30.0, help="longest clip in seconds")
    parser.add_argument("--batch", type=int, default=8, help="clips of a micro-batch")
    parser.add_argument(
        "--features", choices=("device", "cpu", "both"), default="both", help="where features are made"
    )
    parser.add_argument("--clock", action="store_true", help="measure by the clock")
    parser.add_argument("--llm", default=str(ASSETS / "mini/llm"), help="whose tokenizer is used")

    def measured(args: argparse.Namespace) -> list[BenchRow]:
        with tempfile.TemporaryDirectory() as folder:
            return measure(Path(folder), args)

    run_bench(parser, measured)


def measure(folder: Path, args: argparse.Namespace) -> list[BenchRow]:
    """For each format and place of the features: rates of one worker, and the workers that the target needs."""
    import torch

    torch.set_num_threads(1)
    clock = time.perf_counter if args.clock else time.process_time
    seconds = (args.least, args.longest)
    before = os.environ.get("ALARM_DATA_ROOT")
    os.environ["ALARM_DATA_ROOT"] = str(folder / "datasets")
    rows = []
    try:
        for kind, rate in FORMATS.items():
            encoded = save_clips(folder, kind, rate, args.clips, seconds)
            for with_features in {"device": (False,), "cpu": (True,), "both": (False, True)}[args.features]:
                ways = {
                    "disk": loader(kind, args.batch, args.llm, with_features, clock),
                    "shards": loader(str(folder / "shards" / kind), args.batch, args.llm, with_features, clock),
                    "baseline": plain_loop(encoded, rate, with_features, clock),
                }
                speeds = {name: rates(args.clips, spent) for name, spent in alternate(ways, args.rounds).items()}
                rows += speed_rows(f"{kind} {rate} Hz, {seconds[0]:g}-{seconds[1]:g} s", with_features, speeds)
    finally:
        if before is None:
            del os.environ["ALARM_DATA_ROOT"]
        else:
            os.environ["ALARM_DATA_ROOT"] = before
    return rows


def speed_rows(clips: str, with_features: bool, speeds: dict[str, list[float]]) -> list[BenchRow]:
    """Rates of a worker that reads from disk and from shards, and the workers that the target needs."""
    where, device = "with features" if with_features else "without features", "cpu, 1 thread"
    rows = [
        BenchRow(f"{clips}, from {name}, {where}", "clips/s of a worker", speeds[name], speeds["baseline"], device)
        for name in ("disk", "shards")
    ]
    slower = map(min, speeds["disk"], speeds["shards"])
    needed = ([float(math.ceil(TARGET / each)) for each in found] for found in (slower, speeds["baseline"]))
    return [*rows, BenchRow(f"{clips}, workers for {TARGET:g} clips a second, {where}", "workers", *needed, device)]


def save_clips(folder: Path, kind: str, rate: int, count: int, seconds: tuple[float, float]) -> list[bytes]:
    """Write a raw set named after the format, and shards of it; returns the encoded clips."""
    import torch
    from datasets import Audio, Dataset, DatasetDict, disable_progress_bars
    from torchcodec.encoders import AudioEncoder

    from src.common.paths import raw_dir
    from src.dataset.shard_writer import ShardSettings, write_shards

    disable_progress_bars()
    generator = torch.Generator().manual_seed(0)
    encoded, lengths = [], []
    for place in range(count):
        length = seconds[0] + (seconds[1] - seconds[0]) * place / max(1, count - 1)
        times = torch.arange(int(length * rate)) / rate
        envelope = (2 * torch.pi * 3 * times).sin().clamp(min=0.05)
        samples = 0.2 * envelope * torch.randn(1, times.numel(), generator=generator)
        samples = torch.nn.functional.avg_pool1d(samples, 5, 1, 2)  # fewer high frequencies, as in speech
        encoded.append(AudioEncoder(samples, sample_rate=rate).to_tensor(kind).numpy().tobytes())
        lengths.append(length)
    columns: dict[str, list[Any]] = {
        "audio": [{"bytes": clip, "path": f"{place}.{kind}"} for place, clip in enumerate(encoded)],
        "text": ["A target of about twenty words, as a caption of a clip has them, for the tokenizer to work on."]
        * count,
        "dataset_index": list(range(count)),
        "duration": lengths,
    }
    DatasetDict({"train": Dataset.from_dict(columns).cast_column("audio", Audio())}).save_to_disk(str(raw_dir(kind)))
    write_shards(kind, folder / "shards" / kind, ShardSettings(shard_mb=4.0))
    return encoded


def loader(
    address: str, batch: int, llm: str, with_features: bool, clock: Callable[[], float]
) -> Callable[[], float]:
    """Seconds that one worker of the training's loader takes for an epoch."""
    from torch.utils.data import DataLoader

    from src.dataset.examples import ExampleDataset, collate_step
    from src.dataset.mixture import MixtureConfig, open_mixture
    from src.dataset.sampler import StepPlan, StepSampler
    from src.model.llm import load_chat_tokenizer
    from src.prompts.given_answers import AnswerFrame

    tokenizer = load_chat_tokenizer(llm)
    rows = open_mixture(MixtureConfig([[address, "Text", 1.0, False]], prompt="Describe the audio."))
    examples = ExampleDataset(rows, tokenizer, answers=AnswerFrame(tokenizer, "", []))
    steps = StepSampler(len(examples), StepPlan(batch), examples.lengths(), stream=rows.order)
    extract = extractor() if with_features else None

    def collate(micro_batches: Any) -> Any:
        batches = collate_step(micro_batches)
        found = [(each, None if extract is None else extract(each.waveforms)) for each in batches]
        return found, clock()  # of the worker

    def epoch() -> float:
        loaded = DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=steps,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=1,
        )
        stamps, counts = [], []
        for batches, stamp in loaded:
            stamps.append(stamp)
            counts.append(sum(len(each) for each, _ in batches))
        # From the end of the first step, with which the worker has started.
        return (stamps[-1] - stamps[0]) * sum(counts) / sum(counts[1:])

    return epoch


def extractor() -> Any:
    """Features of the four encoders on the CPU."""
    from src.audio.config import FeatureConfig
    from src.audio.features import AudioFeatureExtractor

    return AudioFeatureExtractor(
        {
            "whisper": FeatureConfig("whisper", 16000, 3000, 128),
            "w2vbert": FeatureConfig("w2vbert", 16000, 1500, 80),
            "sslam": FeatureConfig("sslam", 16000, 1024, 128),
            "muq": FeatureConfig("muq", 24000, 720000),
        },
        "cpu",
    )


def plain_loop(
    encoded: list[bytes], rate: int, with_features: bool, clock: Callable[[], float]
) -> Callable[[], float]:
    """Seconds of one process that decodes all clips with torchcodec, and computes the features clip by clip."""
    from torchcodec.decoders import AudioDecoder

    from scripts.perf.features import baseline

    straightforward = baseline(rate)

    def epoch() -> float:
        began = clock()
        for clip in encoded:
            samples = AudioDecoder(clip).get_all_samples().data
            if with_features:
                for name in ENCODERS:
                    straightforward[name](samples)
        return clock() - began

    return epoch


if __name__ == "__main__":
    run_cli(main)
