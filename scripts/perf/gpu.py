r"""Speed and memory of training on this machine's GPU, in one run of at most 10 minutes.

In:  nothing; models of the true sizes have random weights, clips are noise. Needs torch, torchaudio and
     transformers alone.
Out: in --out: gpu.json (rows as all performance programs write them), gpu.md (the same as a table).
Measured are a training step against the straightforward way, with and without packing, recomputation and compiled
layers; its share of the chip's bf16 peak; the four encoders; features on the GPU; and the longest clip of which one
can be trained on. A part that fails, say for lack of memory, is named, and the others go on.

    scripts/perf/gpu.sh                         # a GPU; --peak-tflops for others than H100 and H200
    scripts/perf/gpu.sh --size cpu              # the same parts in miniature, on a CPU
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf import encode, features, train_step
from scripts.perf._bench import BenchRow, bench_parser, device_name, run_bench
from scripts.perf.report import markdown, read_rows
from src.common.cli import run_cli
from src.common.errors import one_line
from src.common.files import write_text

PARTS = ("steps", "encoders", "features", "longest")
CLIPS = {"full": 32, "cpu": 8, "tiny": 2}
SECONDS = 540
"""No further part is begun after this time."""


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument(
        "--size", choices=CLIPS, default="full", help="full: ALARM-CA; cpu: the miniature; tiny: less"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--clips", type=int, help="clips of an optimizer step (default: 32, cpu 8, tiny 2)")
    parser.add_argument("--positions", type=int, default=4096, help="most positions of a micro-batch of ours")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the chip (H100 and H200: 989)")
    parser.add_argument("--longest", type=int, default=3600, help="seconds of the longest clip that is tried")
    parser.add_argument("--device", help="cuda or cpu (default: what is there)")
    parser.add_argument("--out", type=Path, default=Path("outputs/perf_gpu"), help="folder (default: %(default)s)")
    parser.set_defaults(json=None)
    args = parser.parse_args()
    if args.json is None:
        sys.argv += ["--json", str(args.out / "gpu.json")]
    run_bench(parser, measure)
    rows = read_rows(args.json or args.out / "gpu.json")
    write_text(args.out / "gpu.md", markdown(rows))
    print(f"written: {args.json or args.out / 'gpu.json'}, {args.out / 'gpu.md'}")


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Rows of all parts."""
    import torch

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.clips = args.clips or CLIPS[args.size]
    parts = {
        "steps": lambda: step_rows(args),
        "encoders": lambda: encoder_rows(args),
        "features": lambda: feature_rows(args),
        "longest": lambda: [longest_clip(args)],
    }
    began, rows = time.monotonic(), []
    for name in args.only:
        if time.monotonic() - began > SECONDS:
            print(f"{name}: left out, {SECONDS} s are over", file=sys.stderr, flush=True)
            continue
        rows += attempt(name, parts[name])
    return rows


def attempt(name: str, work: Callable[[], Sequence[BenchRow]]) -> Sequence[BenchRow]:
    """Rows of a part; none, and a line that says why, where it fails."""
    import torch

    try:
        return work()
    except (RuntimeError, ImportError) as error:  # lack of memory, a compiler that is missing
        print(f"{name}: {one_line(error)}", file=sys.stderr, flush=True)
        return []
    finally:
        torch.cuda.empty_cache()


def feature_rows(args: argparse.Namespace) -> list[BenchRow]:
    """Features on the device, against one clip at a time on the CPU."""
    count, seconds = {"full": (16, 30.0), "cpu": (2, 5.0), "tiny": (1, 0.5)}[args.size]
    given = {"seconds": seconds, "clips": count, "rate": 44100, "threads": 1}
    return features.measure(argparse.Namespace(**given, device=args.device, rounds=args.rounds))


def encoder_rows(args: argparse.Namespace) -> list[BenchRow]:
    """The encoders in bfloat16 on clips of many lengths; with ``--size cpu`` one layer in float32."""
    full = args.size == "full"
    given = argparse.Namespace(
        seconds={"full": [8, 12, 20, 30, 10, 45, 5, 30], "cpu": [2, 4], "tiny": [0.1]}[args.size],
        layers=None if full else 1,
        dtype="bfloat16" if full else "float32",
        device=args.device,
        rounds=args.rounds,
    )
    names = encode.ENCODERS if args.size != "tiny" else ["sslam"]
    return [row for name in names for row in attempt(name, partial(encode.measure, name, given))]


def step_rows(args: argparse.Namespace) -> list[BenchRow]:
    """Training steps: the straightforward way, ours, and ours with one thing changed."""
    ours = train_step.our_way(args.positions)
    ways = {train_step.BASELINE: train_step.Way(), train_step.OURS: ours}
    changed = {"activations recomputed": replace(ours, checkpointing=True), "packed": replace(ours, packed=True)}
    if args.device == "cuda":
        changed["layers compiled"] = replace(ours, compiled=True)
    step = train_step.make_step(args.size, args.clips)
    few = step.take(range(min(2, args.clips)))

    def works(way: train_step.Way) -> list[BenchRow]:
        return [BenchRow("", "", train_step.time_way(way, args.size, few, args.device), None, "")]

    for name, way in changed.items():  # tried before they are measured with the others
        if attempt(name, partial(works, way)):
            ways[f"{train_step.OURS}, {name}"] = way
    return train_step.compare(ways, step, args, args.device)


def longest_clip(args: argparse.Namespace) -> BenchRow:
    """Seconds of the longest clip of which a step fits into the memory, doubled until one does not."""
    import torch

    found = {}
    for name, way in {
        "ours": replace(train_step.our_way(args.positions), checkpointing=True),
        "baseline": train_step.Way(),
    }.items():
        seconds, fits = min(30, args.longest), 0
        while seconds <= args.longest:
            step = train_step.one_clip(seconds)
            try:
                train_step.build(way, args.size, args.device)(step)
            except (torch.cuda.OutOfMemoryError, MemoryError):
                break
            finally:
                torch.cuda.empty_cache()
            fits, seconds = seconds, 2 * seconds
        found[name] = [float(fits)]
    title = f"longest clip that fits, of up to {args.longest} s tried"
    return BenchRow(title, "s of audio/step", found["ours"], found["baseline"] if min(found["baseline"]) else None,
                    device_name(args.device))  # fmt: skip


if __name__ == "__main__":
    run_cli(main, spins=True)
