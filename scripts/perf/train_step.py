"""Clips per second and peak memory of a training step of ALARM-CA with random weights, each idea alone and together.

In:  nothing; clips are noise of 2 to 30 s (around 11 s), targets random tokens (around 350).
Out: a table; rows with --json. The baseline is the straightforward way: features clip by clip on the CPU, encoders in
float32 under autocast, every chunk of every clip in turn, all hidden states stacked, padded batches of four clips in
drawn order, logits at every position. Each further row changes one thing of the baseline; the last changes all.

    python scripts/perf/train_step.py --size full --json train_step.json     # one GPU
    python scripts/perf/train_step.py --size cpu --clips 16                  # miniature encoders, a small LLM
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

if TYPE_CHECKING:
    from torch import Tensor

    from src.audio.waveform import Waveform
    from src.model.alarm import AlarmModel
    from src.model.splice import Turn

CONFIGS = Path(__file__).resolve().parents[2] / "src" / "configs" / "model"
PUBLISHED_BATCH = 4
SIZES = {
    "full": {
        "model": "alarm_ca",
        "llm": {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    },
    "cpu": {
        "model": "mini_alarm_ca",
        "llm": {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
        },
    },
}


@dataclass(frozen=True)
class Way:
    """How a step is done; the defaults are the straightforward way."""

    features_together: bool = False
    needed_states: bool = False
    held_weights: bool = False
    target_logits: bool = False
    positions: int | None = None
    checkpointing: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Step:
    """Clips and turns of one optimizer step."""

    clips: list[Waveform]
    turns: list[Turn]

    def take(self, rows: Any) -> Step:
        """Some of them."""
        return Step([self.clips[row] for row in rows], [self.turns[row] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--clips", type=int, default=64, help="clips of an optimizer step")
    parser.add_argument("--positions", type=int, default=4096, help="most positions of a micro-batch of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", help="cuda or cpu (default: what is there)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the chip (H100 and H200: 989)")
    parser.add_argument("--compile", action="store_true", help="also ours with compiled layers")
    parser.add_argument("--only", choices=("all", "ends"), default="all", help="ends: only the baseline and ours")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = measure(args)
    print(bench_table(rows))
    if args.json:
        write_rows(args.json, rows)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Two rows a way (rate, memory), and the share of the chip's peak for the baseline and ours."""
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    ours = Way(True, True, True, True, args.positions)
    ways = {"straightforward": Way()}
    if args.only == "all":
        ways |= {
            "features of a batch together, on the device": Way(features_together=True),
            "needed states and chunks only": Way(needed_states=True),
            "frozen encoders held in bfloat16": Way(held_weights=True),
            "loss at targets only, in chunks": Way(target_logits=True),
            "micro-batches by size": Way(positions=args.positions),
        }
    ways["all together"] = ours
    ways["all together, activations recomputed"] = replace(ours, checkpointing=True)
    if args.compile:
        ways["all together, layers compiled"] = replace(ours, compiled=True)
    step = make_step(args.clips)
    rows, baseline = [], (0.0, 0.0)
    for name, way in ways.items():
        rate, memory = time_way(way, args.size, step, device, args.repeats)
        baseline = (rate, memory) if way == Way() else baseline
        rows.append(BenchRow(name, "clips/s", rate, baseline[0], where))
        rows.append(BenchRow(f"{name}, peak memory", "GB", memory, baseline[1], where))
        print(f"{name}: {rate:.3g} clips/s, {memory:.3g} GB", file=sys.stderr, flush=True)
    operations = count_operations(ours, args.size, step, device)
    rates = [row.ours for row in rows if row.name in ("all together", "straightforward")]
    if device == "cuda":
        share = [100 * rate * operations / (args.peak_tflops * 1e12) for rate in rates]
        rows.append(BenchRow("share of the bf16 peak, all together", "%/step", share[1], share[0], where))
    rows.append(BenchRow("needed arithmetic", "TFLOP a clip", operations / 1e12, operations / 1e12, where))
    return rows


def make_step(count: int) -> Step:
    """Clips of 2 to 30 s, around 11; targets of 100 to 612 tokens, around 350; prompts of about 40."""
    import numpy as np
    import torch

    from src.audio.waveform import Waveform
    from src.model.splice import Turn

    draw = np.random.default_rng(0)
    seconds = np.clip(draw.lognormal(2.25, 0.55, count), 2, 30)
    targets = np.clip(draw.normal(350, 120, count), 100, 612).astype(int)

    def tokens(number: int) -> list[int]:
        return draw.integers(0, 151_000, number).tolist()

    clips = [Waveform(0.1 * torch.randn(1, int(16000 * length)), 16000) for length in seconds]
    return Step(clips, [Turn(tokens(3), tokens(int(draw.integers(20, 60))), tokens(number)) for number in targets])


def time_way(way: Way, size: str, step: Step, device: str, repeats: int) -> tuple[float, float]:
    """Clips per second (best of ``repeats`` steps after one to warm up) and peak memory in GB."""
    import torch

    run = build(way, size, device)
    run(step)
    watch = PeakMemory(device)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run(step)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    peak = watch.read()
    del run
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return len(step.clips) / best, peak


class PeakMemory:
    """Peak memory from now on: allocated on a GPU, resident on a CPU."""

    def __init__(self, device: str) -> None:
        import torch

        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float:
        """In GB."""
        import torch

        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 1e9
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e6


def count_operations(way: Way, size: str, step: Step, device: str) -> float:
    """Multiply-adds, times two, of one clip on average, counted over a step without recomputation."""
    from torch.utils.flop_counter import FlopCounterMode

    run = build(way, size, device)
    with FlopCounterMode(display=False) as counter:
        run(step)
    return counter.get_total_flops() / len(step.clips)


def build(way: Way, size: str, device: str) -> Callable[[Step], None]:
    """A function that does one optimizer step, with a fresh model behind it."""
    import torch

    from src.model.build import build_feature_extractor
    from src.model.precision import hold_as_autocast

    model = make_model(size, device)
    if way.held_weights:
        hold_as_autocast(model.front_end.audio_encoder)
    if way.checkpointing:
        model.gradient_checkpointing_enable()
    if way.compiled:
        model.compile_layers()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    extractor = build_feature_extractor(model.front_end.config, device)

    def run(step: Step) -> None:
        targets = sum(len(turn.outputs or ()) for turn in step.turns)
        for rows in cut(way, step):
            part = step.take(rows)
            if way.features_together:
                features = extractor(part.clips)
            else:
                features = features_one_by_one(model.front_end.config, part.clips)
            with torch.autocast(device, torch.bfloat16):
                loss = loss_of(way, model, features, part.turns) / targets
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def cut(way: Way, step: Step) -> list[Any]:
    """Rows of each micro-batch."""
    import numpy as np

    from src.dataset.sampler import split_by_positions

    count = len(step.clips)
    if way.positions is None:
        return [range(start, min(start + PUBLISHED_BATCH, count)) for start in range(0, count, PUBLISHED_BATCH)]
    lengths = np.array(
        [
            25 * clip.duration + len(turn.start) + len(turn.main) + len(turn.outputs or ()) + 2
            for clip, turn in zip(step.clips, step.turns, strict=True)
        ]
    )
    order = np.argsort(lengths)
    return split_by_positions(order, lengths[order], way.positions, 1, count)


def loss_of(way: Way, model: AlarmModel, features: Mapping[str, Any], turns: list[Turn]) -> Tensor:
    """Summed loss of a micro-batch."""
    front_end = model.front_end
    if not way.needed_states:
        states, lengths = all_states(model, features)
        streams, lengths = front_end.audio_adapter(states, lengths)
        fused, lengths = front_end.audio_fusion(streams, lengths)
        audio = [item[: max(1, length)] for item, length in zip(fused, lengths.tolist(), strict=True)]
    else:
        audio = front_end(features)
    spliced = model.splice_audio(turns, audio)
    if way.target_logits:
        return model.target_loss(spliced)[0]
    output = model.llm(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask,
        labels=spliced.labels,
        use_cache=False,
    )
    return output.loss * (spliced.labels != -100).sum()


def all_states(model: AlarmModel, features: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every chunk of the padded batch, one after another; all states stacked in float32, then the needed ones."""
    import torch

    states, lengths = {}, {}
    for name, encoder in model.front_end.audio_encoder.encoders.items():
        batch = features[name].to(model.front_end.device)
        frames, stacks = batch.mask.shape[1], []
        with torch.no_grad():
            for begin in range(0, frames, encoder.chunk_frames):
                part = slice(begin, begin + encoder.chunk_frames)
                chunk, mask = batch.features[:, part], batch.mask[:, part].bool()
                stacks.append(torch.stack([state.float() for state in encoder.states(chunk, mask)]))
            layers = list(model.front_end.config.layers(name))
            states[name] = torch.cat(stacks, dim=2)[layers]
        lengths[name] = encoder.calc_length(batch.lengths).cpu()
    return states, lengths


def features_one_by_one(config: Any, clips: list[Waveform]) -> dict[str, Any]:
    """Features of each clip by itself on the CPU, padded to a batch afterwards."""
    import torch

    from src.audio.features import EncoderFeatures
    from src.model.build import build_feature_extractor

    extractor = build_feature_extractor(config)
    alone = [extractor([clip]) for clip in clips]
    padded = {}
    for name in alone[0]:
        items = [clip[name] for clip in alone]
        features, mask = (
            torch.nn.utils.rnn.pad_sequence([getattr(item, part)[0] for item in items], batch_first=True)
            for part in ("features", "mask")
        )
        padded[name] = EncoderFeatures(features, mask, torch.cat([item.lengths for item in items]))
    return padded


def make_model(size: str, device: str) -> AlarmModel:
    """ALARM-CA with random weights: adapters frozen, fusion trained, the LLM in bfloat16."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from src.common.config import bind_dataclass
    from src.model.alarm import AlarmModel
    from src.model.build import build_front_end
    from src.model.config import FrontEndConfig

    torch.manual_seed(0)
    shape: dict[str, Any] = SIZES[size]["llm"]  # type: ignore[assignment]
    llm_config = Qwen3Config(vocab_size=151_936, tie_word_embeddings=True, **shape)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        llm = Qwen3ForCausalLM(llm_config)
        torch.set_default_dtype(torch.float32)
        config = bind_dataclass(FrontEndConfig, plain_config(str(SIZES[size]["model"])), "model.config")
        front_end = build_front_end(config, shape["hidden_size"], encoder_weights=False)
    front_end.freeze_adapters()
    return AlarmModel(front_end.to(device), llm).train()


def plain_config(name: str) -> dict[str, Any]:
    """A model configuration put together from its YAML files, without Hydra."""
    import yaml

    def read(path: Path) -> dict[str, Any]:
        return yaml.safe_load(path.read_text())

    top = read(CONFIGS / f"{name}.yaml")
    config: dict[str, Any] = dict(top["config"])
    for entry in top["defaults"]:
        if isinstance(entry, Mapping):
            [(target, chosen)] = entry.items()
            group, place = target.split("@")
            *path, last = place.removeprefix("config.").split(".")
            holder = config
            for key in path:
                holder = holder.setdefault(key, {})
            holder[last] = read(CONFIGS / group / f"{chosen}.yaml")
    return config


if __name__ == "__main__":
    run_cli(main)
