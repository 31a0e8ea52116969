"""Clips per second and peak memory of the four encoders at full size, with random weights.

In:  nothing; features are noise. Out: a table; rows with --json.
Ours: the needed hidden states alone, chunks that are all padding left out, in --dtype. The baseline encodes every
chunk of the padded batch in float32 and stacks every hidden state before the needed ones are taken.

    python scripts/perf/encode.py --device cuda --json encode.json
    python scripts/perf/encode.py --layers 2 --seconds 12 30      # a CPU can do a few layers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

if TYPE_CHECKING:
    import torch

    from src.model.encoders.base import Encoder

ENCODERS = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[8, 12, 20, 30, 10, 45, 5, 30], help="clip lengths"
    )
    parser.add_argument("--layers", type=int, help="cut every encoder to its first layers (default: full size)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = [row for name in args.encoders for row in measure(name, args)]
    print(bench_table(rows))
    if args.json:
        write_rows(args.json, rows)


def measure(name: str, args: argparse.Namespace) -> list[BenchRow]:
    """Rate and, on a GPU, memory of one encoder."""
    import torch

    encoder, layers, batch = prepare(name, args.seconds, args.layers, args.device)
    clips, device = len(args.seconds), args.device
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"

    def everything() -> None:
        stack_everything(encoder, batch, layers)

    base_rate, base_memory = timed(everything, clips, args.repeats, device)
    encoder.to(getattr(torch, args.dtype))

    def ours() -> None:
        encoder(*batch, layers)

    rate, memory = timed(ours, clips, args.repeats, device)
    rows = [BenchRow(f"{name}, {args.dtype}", "clips/s", rate, base_rate, where)]
    if memory is not None:
        rows.append(BenchRow(f"{name}, {args.dtype}, peak memory", "GB", memory, base_memory, where))
    return rows


def prepare(
    name: str, seconds: list[float], cut: int | None, device: str
) -> tuple[Encoder, list[int], tuple[torch.Tensor, torch.Tensor]]:
    """An encoder in float32 with random weights, the layers that its adapter reads, and features with their mask."""
    import torch
    import yaml

    from src.model.encoders.build import build_encoder

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


def timed(work, clips: int, repeats: int, device: str) -> tuple[float, float | None]:
    """Clips per second (best of ``repeats``) and peak memory in GB on a GPU."""
    import time

    import torch

    on_gpu = device.startswith("cuda")
    best = float("inf")
    with torch.inference_mode():
        work()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            if on_gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
    return clips / best, torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None


if __name__ == "__main__":
    run_cli(main)
