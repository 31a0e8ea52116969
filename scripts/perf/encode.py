"""Clips per second and peak memory of the four encoders at full size, with random weights.

In:  nothing; features are noise. Out: a table; rows with --json.
Ours: the needed hidden states alone, chunks that are all padding left out, in --dtype. The baseline encodes every
chunk of the padded batch in float32 and stacks every hidden state before the needed ones are taken.

    python scripts/perf/encode.py --device cuda --json encode.json
    python scripts/perf/encode.py --layers 2 --seconds 12 30      # a CPU can do a few layers
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, PeakMemory, alternate, bench_parser, device_name, rates, run_bench
from src.common.cli import run_cli

if TYPE_CHECKING:
    import torch

    from src.model.encoders.base import Encoder

ENCODERS = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[8, 12, 20, 30, 10, 45, 5, 30], help="clip lengths"
    )
    parser.add_argument("--layers", type=int, help="cut every encoder to its first layers (default: full size)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of ours")
    parser.add_argument("--device", default="cpu")
    run_bench(parser, lambda args: [row for name in args.encoders for row in measure(name, args)])


def measure(name: str, args: argparse.Namespace) -> list[BenchRow]:
    """Rate and, on a GPU, memory of one encoder."""
    import torch

    encoder, layers, batch = prepare(name, args.seconds, args.layers, args.device)
    own = copy.deepcopy(encoder).to(getattr(torch, args.dtype))
    ways = {
        "ours": lambda: timed(lambda: own(*batch, layers), args.device),
        "baseline": lambda: timed(lambda: stack_everything(encoder, batch, layers), args.device),
    }
    for way in ways.values():  # kernels are chosen and memory is reserved in the first call
        way()
    found = alternate(ways, args.rounds)
    seconds, memory = ({way: [each[part] for each in found[way]] for way in ways} for part in (0, 1))
    title, where = f"{name}, {args.dtype}", device_name(args.device)
    speeds = [rates(len(args.seconds), seconds[way]) for way in ways]
    rows = [BenchRow(title, "clips/s", *speeds, where)]
    if args.device.startswith("cuda"):
        rows.append(BenchRow(f"{title}, peak memory", "GB", memory["ours"], memory["baseline"], where))
    return rows


def prepare(
    name: str, seconds: list[float], cut: int | None, device: str
) -> tuple[Encoder, list[int], tuple[torch.Tensor, torch.Tensor]]:
    """An encoder in float32 with random weights, the layers that its adapter reads, and features with their mask."""
    import torch
    import yaml

    from src.model.encoders.load import build_encoder

    root = Path(__file__).resolve().parents[2]
    settings = yaml.safe_load((root / "src" / "configs" / "model" / "encoder" / f"{name}.yaml").read_text())
    if cut is not None:
        settings["architecture"]["num_layers"] = cut
        settings["layers"] = [cut - 1]
    torch.manual_seed(0)
    with torch.device(device):
        encoder = build_encoder(name, settings).eval()
        rate = {"whisper": 100, "w2vbert": 50, "sslam": 100, "muq": 24000}[name]
        lengths = torch.tensor([int(length * rate) for length in seconds])
        frames = int(lengths.max())
        if encoder.pads_chunks:
            frames = -(-frames // encoder.chunk_frames) * encoder.chunk_frames
        mask = (torch.arange(frames) < lengths[:, None]).to(torch.int8)
        width = {"whisper": (128,), "w2vbert": (160,), "sslam": (128,), "muq": ()}[name]
        features = torch.randn(len(seconds), frames, *width) * mask.view(*mask.shape, *[1] * len(width))
    return encoder, settings["layers"], (features, mask)


def stack_everything(encoder: Encoder, batch: tuple[torch.Tensor, torch.Tensor], layers: list[int]) -> torch.Tensor:
    """The straightforward way: every chunk of every clip, one chunk after another, all states stacked in float32."""
    import torch

    features, mask = batch
    stacks = []
    with torch.inference_mode():
        for begin in range(0, mask.shape[1], encoder.chunk_frames):
            part = slice(begin, begin + encoder.chunk_frames)
            chunk, chunk_mask = features[:, part], mask[:, part].bool()
            stacks.append(torch.stack(list(encoder.states(chunk, chunk_mask))))
        return torch.cat(stacks, dim=2)[layers]


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of one call."""
    import torch

    watch = PeakMemory(device)
    began = time.perf_counter()
    with torch.inference_mode():
        work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began, watch.read()


if __name__ == "__main__":
    run_cli(main)
