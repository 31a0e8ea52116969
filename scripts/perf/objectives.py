#!/usr/bin/env python
"""Time and peak memory of a training step's loss by objective: cross-entropy, and two ways to distil.

In: an LLM with random weights and a vocabulary of 151,936 (bfloat16 on a GPU, float32 on a CPU), clips as random
embeddings, descriptions and targets of random tokens; --size as in train_step.py. Out: a table; rows with --json.
Every case runs in a process of its own; a step is splicing, loss and gradients for the clips' embeddings. Memory is
the peak of the process (of the GPU), and the part that the step adds. The baseline of distillation is cross-entropy;
the last rows compare with the plain way: a copy of the LLM as teacher, logits of all target positions, softmax and
KL divergence in float32.

    python scripts/perf/objectives.py --rows 8 --json objectives.json
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import (
    BenchRow,
    PeakMemory,
    alternate,
    bench_parser,
    device_name,
    in_a_process,
    run_bench,
    status_gb,
)
from src.common.cli import run_cli

if TYPE_CHECKING:
    from torch import Tensor

    from src.model.alarm import AlarmModel

CASES: dict[str, dict[str, Any] | None] = {
    "ce": None,
    "kl": {},
    "kl, temperature 2, half cross-entropy": {"temperature": 2.0, "ce_weight": 0.5},
    "kl, reverse": {"direction": "reverse"},
    "kl, top 64": {"top_k": 64},
    "kl, teacher cached": {"cache_mb": 1024},
}
"""Options of distillation by name of the case; cross-entropy has none."""
TWO_MODELS = "kl, two models and all logits"


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--size", choices=("full", "cpu", "tiny"), default="cpu")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--targets", type=int, default=350, help="target tokens of a row")
    parser.add_argument("--frames", type=int, default=275, help="audio embeddings of a row")
    parser.add_argument("--description", type=int, default=80, help="tokens of a description")
    parser.add_argument("--only", nargs="*", choices=[*CASES, TWO_MODELS], help="these cases next to ce and kl")
    parser.add_argument("--device", help="cuda or cpu (default: what is there)")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Three rows a case: seconds of a step, peak memory, and the part of it that the step adds."""
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = device_name(device)
    names = [name for name in (*CASES, TWO_MODELS) if args.only is None or name in ("ce", "kl", *args.only)]
    ways = {
        name: partial(in_a_process, run_case, name, args, device, preload=("torch", "transformers")) for name in names
    }
    found = alternate(ways, args.rounds)
    rows = []
    for name in names:
        ours, baseline = (name, "ce") if name != TWO_MODELS else ("kl", name)
        for part, (what, unit) in enumerate((("step", "s"), ("peak memory", "GB"), ("memory of the step", "GB"))):
            title = name if name != TWO_MODELS else "kl, against two models and all logits"
            values, others = ([each[part] for each in found[way]] for way in (ours, baseline))
            rows.append(BenchRow(f"{title}: {what}", unit, values, others, where))
    return rows


def run_case(name: str, args: argparse.Namespace, device: str) -> tuple[float, float, float]:
    """Seconds of a step, peak memory and what the step adds to it, in GB."""
    import torch

    from scripts.perf.train_step import make_model

    model = make_model(args.size, device)
    if device == "cpu":  # few CPUs multiply in bfloat16
        model.llm.float()
    step = make_step(name, model, args, device)
    before = memory_now(device)
    step()  # fills caches
    watch = PeakMemory(device)
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - began, watch.read()
    return seconds, peak, max(peak - before, 1e-6)


def memory_now(device: str) -> float:
    """Memory that the process has now, in GB: allocated on a GPU, resident on a CPU."""
    import torch

    return torch.cuda.memory_allocated() / 1e9 if device == "cuda" else status_gb("VmRSS")


def make_step(name: str, model: AlarmModel, args: argparse.Namespace, device: str) -> Any:
    """A function that computes loss and gradients of one batch."""
    import copy

    import torch

    from scripts.perf.train_step import vocabulary
    from src.model.distillation import Distillation, DistillationConfig
    from src.model.splice import TokenizedTurn

    torch.manual_seed(0)

    def tokens(number: int) -> list[int]:
        return torch.randint(0, vocabulary(args.size), (number,)).tolist()

    turns = [TokenizedTurn(tokens(3), tokens(40), tokens(args.targets)) for _ in range(args.rows)]
    read = [[*turn.prefix_ids, *tokens(args.description), *turn.suffix_ids] for turn in turns]
    width = model.llm.config.hidden_size
    audio = [torch.randn(args.frames, width, device=device).mul_(0.02).requires_grad_() for _ in turns]
    options = CASES.get(name)
    if options is not None:
        model.objective = Distillation(DistillationConfig(**options))
    teacher = copy.deepcopy(model.llm) if name == TWO_MODELS else None

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            if teacher is None:
                batch = {"turns": turns, "descriptions": read}
                loss = model.objective(model, model.splice_audio(turns, audio), batch).total
            else:
                loss = plain_loss(model, teacher, turns, read, audio)
        torch.autograd.grad(loss / (args.rows * args.targets), audio)

    return step


def plain_loss(
    model: AlarmModel, teacher: Any, turns: list[Any], read: list[list[int]], audio: list[Tensor]
) -> Tensor:
    """Summed KL divergence from a second model, over the logits of all target positions in float32."""
    import torch
    import torch.nn.functional as F

    count = len(turns[0].target_ids)
    spliced = model.splice_audio(turns, audio)
    own = model.llm(inputs_embeds=spliced.inputs_embeds, use_cache=False).logits[:, -count - 1 : -1].float()
    ids = [[*prompt, *turn.target_ids] for prompt, turn in zip(read, turns, strict=True)]
    with torch.no_grad():
        wanted = teacher(torch.tensor(ids, device=own.device), use_cache=False).logits[:, -count - 1 : -1].float()
    return F.kl_div(own.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="sum")


if __name__ == "__main__":
    run_cli(main)
