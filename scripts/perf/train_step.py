"""Clips per second and peak memory of a training step of ALARM-CA with random weights, each idea alone and together.

In:  nothing; clips are noise of 2 to 30 s (around 11 s), targets random tokens (around 350).
Out: a table; rows with --json. The baseline is the straightforward way: features clip by clip on the CPU, encoders in
float32 under autocast, every chunk of every clip in turn, all hidden states stacked, padded batches of four clips in
drawn order, torch's own dropout, logits at every position. Each further row changes one thing of the baseline; the
last changes all. How OpenMP threads wait is the same for all rows.

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
)
from src.common.cli import run_cli
from src.common.memory import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor

    from src.audio.waveform import Waveform
    from src.model.alarm import AlarmModel
    from src.model.splice import TokenizedTurn

CONFIGS = Path(__file__).resolve().parents[2] / "src" / "configs" / "model"
PUBLISHED_BATCH = 4
BASELINE, OURS = "straightforward", "all together"
"""Names of the two ends."""
SIZES: dict[str, dict[str, Any]] = {
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
SIZES["tiny"] = {"model": "mini_alarm_ca", "llm": {**SIZES["cpu"]["llm"], "num_hidden_layers": 1}, "vocabulary": 999}
VOCABULARY = 151_936
STEPS = 2
"""Timed together."""


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
    packed: bool = False
    kept_memory: bool = False
    cheap_dropout: bool = False


def our_way(positions: int) -> Way:
    """Everything together, in micro-batches of at most ``positions``."""
    return Way(True, True, True, True, positions, kept_memory=True, cheap_dropout=True)


@dataclass(frozen=True)
class Step:
    """Clips and turns of one optimizer step."""

    clips: list[Waveform]
    turns: list[TokenizedTurn]

    def take(self, rows: Any) -> Step:
        """Some of them."""
        return Step([self.clips[row] for row in rows], [self.turns[row] for row in rows])


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--clips", type=int, default=64, help="clips of an optimizer step")
    parser.add_argument("--positions", type=int, default=4096, help="most positions of a micro-batch of ours")
    parser.add_argument("--device", help="cuda or cpu (default: what is there)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the chip (H100 and H200: 989)")
    parser.add_argument("--compile", action="store_true", help="also ours with compiled layers")
    parser.add_argument("--only", choices=("all", "ends"), default="all", help="ends: only the baseline and ours")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Two rows a way (rate, memory), and the share of the chip's peak for the baseline and ours."""
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    ours = our_way(args.positions)
    ways = {BASELINE: Way()}
    if args.only == "all":
        ways |= {
            "features of a batch together, on the device": Way(features_together=True),
            "needed states and chunks only": Way(needed_states=True),
            "frozen encoders held in bfloat16": Way(held_weights=True),
            "loss at targets only, in chunks": Way(target_logits=True),
            "micro-batches by size": Way(positions=args.positions),
            **(
                {"freed memory kept": Way(kept_memory=True), "random numbers of 16 bits": Way(cheap_dropout=True)}
                if device == "cpu"
                else {}
            ),
        }
    ways[OURS] = ours
    ways[f"{OURS}, activations recomputed"] = replace(ours, checkpointing=True)
    ways[f"{OURS}, packed"] = replace(ours, packed=True)
    if args.compile:
        ways[f"{OURS}, layers compiled"] = replace(ours, compiled=True)
    return compare(ways, make_step(args.size, args.clips), args, device)


def compare(ways: Mapping[str, Way], step: Step, args: argparse.Namespace, device: str) -> list[BenchRow]:
    """Rows of the ways, of which :data:`BASELINE` and :data:`OURS` must be among them."""
    from src.model.precision import computes_bfloat16

    where = f"{device_name(device)}, {'bfloat16' if computes_bfloat16(device) else 'float32'}"
    # on a CPU a process each: what a way leaves in the allocator must not help or harm the next
    run = partial(in_a_process, time_way, preload=("torch", "transformers")) if device == "cpu" else time_way
    found = alternate({name: partial(run, way, args.size, step, device) for name, way in ways.items()}, args.rounds)
    rates, memory = ({name: [each[part] for each in found[name]] for name in ways} for part in (0, 1))
    rows = []
    for name in ways:
        rows.append(BenchRow(name, "clips/s", rates[name], rates[BASELINE], where))
        rows.append(BenchRow(f"{name}, peak memory", "GB", memory[name], memory[BASELINE], where))
    operations = count_operations(ways[OURS], args.size, step, device)
    if device == "cuda":
        share = (
            [100 * rate * operations / (args.peak_tflops * 1e12) for rate in rates[way]] for way in (OURS, BASELINE)
        )
        rows.append(BenchRow(f"{OURS}, share of the bf16 peak", "%", *share, where))
    rows.append(BenchRow("needed arithmetic", "TFLOP a clip", [operations / 1e12], None, where))
    return rows


def vocabulary(size: str) -> int:
    """Token ids of the LLM."""
    return int(SIZES[size].get("vocabulary", VOCABULARY))


def make_step(size: str, count: int) -> Step:
    """Clips of 2 to 30 s, around 11; targets of 100 to 612 tokens, around 350; prompts of about 40."""
    import numpy as np
    import torch

    from src.audio.waveform import Waveform
    from src.model.splice import TokenizedTurn

    draw = np.random.default_rng(0)
    seconds = np.clip(draw.lognormal(2.25, 0.55, count), 2, 30)
    targets = np.clip(draw.normal(350, 120, count), 100, 612).astype(int)

    def tokens(number: int) -> list[int]:
        return draw.integers(0, vocabulary(size), number).tolist()

    clips = [Waveform(0.1 * torch.randn(1, int(16000 * length)), 16000) for length in seconds]
    return Step(
        clips, [TokenizedTurn(tokens(3), tokens(int(draw.integers(20, 60))), tokens(number)) for number in targets]
    )


def one_clip(seconds: int) -> Step:
    """A step of one clip of this length."""
    import torch

    from src.audio.waveform import Waveform
    from src.model.splice import TokenizedTurn

    clip = Waveform(0.1 * torch.randn(1, 16000 * seconds), 16000)
    return Step([clip], [TokenizedTurn([1, 2, 3], list(range(40)), list(range(350)))])


def time_way(way: Way, size: str, step: Step, device: str) -> tuple[float, float]:
    """Clips per second and peak memory in GB of :data:`STEPS` steps of a fresh model, after one step before them.

    A training's first step is slower: memory is new, and layers meet their shapes for the first time.
    """
    import torch

    if way.kept_memory and device == "cpu":
        keep_freed_memory()
    run = build(way, size, device)
    run(step)
    watch = PeakMemory(device)
    began = time.perf_counter()
    for _ in range(STEPS):
        run(step)
    if device == "cuda":
        torch.cuda.synchronize()
    rate, peak = STEPS * len(step.clips) / (time.perf_counter() - began), watch.read()
    del run
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    print(f"{way}: {rate:.3g} clips/s, {peak:.3g} GB", file=sys.stderr, flush=True)
    return rate, peak


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

    from src.model import dropout
    from src.model.audio_embedder import build_feature_extractor
    from src.model.precision import cast_frozen_weights, computes_bfloat16

    bf16 = computes_bfloat16(device)
    dropout.DRAW_ON_CPU = way.cheap_dropout
    model = make_model(size, device, way.packed)
    if way.held_weights and bf16:
        cast_frozen_weights(model.audio_embedder.audio_encoder)
    if way.checkpointing:
        model.gradient_checkpointing_enable()
    if way.compiled:
        model.compile_layers()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    extractor = build_feature_extractor(model.audio_embedder.config, device)

    def run(step: Step) -> None:
        targets = sum(len(turn.target_ids or ()) for turn in step.turns)
        for rows in cut(way, step):
            part = step.take(rows)
            if way.features_together:
                features = extractor(part.clips)
            else:
                features = features_one_by_one(model.audio_embedder.config, part.clips)
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
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
            25 * clip.duration + len(turn.prefix_ids) + len(turn.suffix_ids) + len(turn.target_ids or ()) + 2
            for clip, turn in zip(step.clips, step.turns, strict=True)
        ]
    )
    order = np.argsort(lengths)
    return split_by_positions(order, lengths[order], way.positions, 1, count, way.packed)


def loss_of(way: Way, model: AlarmModel, features: Mapping[str, Any], turns: list[TokenizedTurn]) -> Tensor:
    """Summed loss of a micro-batch."""
    audio_embedder = model.audio_embedder
    if not way.needed_states:
        states, lengths = all_states(model, features)
        streams, lengths = audio_embedder.audio_adapter(states, lengths)
        fused, lengths = audio_embedder.audio_fusion(streams, lengths)
        audio = [item[: max(1, length)] for item, length in zip(fused, lengths.tolist(), strict=True)]
    else:
        audio = audio_embedder(features)
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
    for name, encoder in model.audio_embedder.audio_encoder.encoders.items():
        batch = features[name].to(model.audio_embedder.device)
        frames, stacks = batch.mask.shape[1], []
        with torch.no_grad():
            for begin in range(0, frames, encoder.chunk_frames):
                part = slice(begin, begin + encoder.chunk_frames)
                chunk, mask = batch.features[:, part], batch.mask[:, part].bool()
                stacks.append(torch.stack([state.float() for state in encoder.states(chunk, mask)]))
            layers = list(model.audio_embedder.config.layers(name))
            states[name] = torch.cat(stacks, dim=2)[layers]
        lengths[name] = encoder.calc_length(batch.lengths).cpu()
    return states, lengths


def features_one_by_one(config: Any, clips: list[Waveform]) -> dict[str, Any]:
    """Features of each clip by itself on the CPU, padded to a batch afterwards."""
    import torch

    from src.audio.features import EncoderFeatures
    from src.model.audio_embedder import build_feature_extractor

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


def make_model(size: str, device: str, packed: bool = False) -> AlarmModel:
    """ALARM-CA with random weights: adapters frozen, fusion trained, the LLM in bfloat16 where the device has it."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from src.common.config import bind_dataclass
    from src.model.alarm import AlarmModel
    from src.model.audio_embedder import build_audio_embedder
    from src.model.config import AudioEmbedderConfig
    from src.model.precision import computes_bfloat16

    torch.manual_seed(0)
    shape = SIZES[size]["llm"]
    llm_config = Qwen3Config(vocab_size=vocabulary(size), tie_word_embeddings=True, **shape)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16 if computes_bfloat16(device) else torch.float32)
        llm = Qwen3ForCausalLM(llm_config)
        torch.set_default_dtype(torch.float32)
        config = bind_dataclass(AudioEmbedderConfig, plain_config(SIZES[size]["model"]), "model.config")
        audio_embedder = build_audio_embedder(config, shape["hidden_size"], encoder_weights=False)
    audio_embedder.freeze_adapters()
    return AlarmModel(audio_embedder.to(device), llm, max_length=None, packing=packed).train()


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
    run_cli(main, spins=True)
