r"""Rows and tokens per second of generation, with answers of long-tailed lengths and a thinking budget.

In:  nothing; clips are noise, the lengths of thoughts and answers are drawn (log-normal) and enforced, so that every
way decodes the same tokens. Out: a table; rows with --json.
Ours: clips are encoded ahead while the engine decodes, requests enter one by one, each is continued by itself at its
budget.
Baseline "barrier": 8 clips are encoded, 8 first passes decoded to the last one's end, then the unfinished ones again.
Baseline "raw": vLLM alone on token prompts of the same lengths, one pass for each row, all submitted at once.

    python scripts/perf/generate.py --json generate.json     # the miniature, on any machine
    python scripts/perf/generate.py --checkpoint Blinorot/ALARM-CA --llm Qwen/Qwen3-4B-Thinking-2507 \
        --budget 1024 --median 700 --context 16384 --seconds 2 30
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, device_name, rates, run_bench
from src.common.cli import run_cli

if TYPE_CHECKING:
    from src.inference.engine import Engine
    from src.inference.ensemble import EmbedderEnsemble
    from src.inference.prompt_builder import RowInput
    from src.inference.types import Segment

MODEL = "mini_alarm_ca"
BATCH = 8
"""Rows of a batch of the published generator."""


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--seconds", type=float, nargs=2, default=[1.0, 4.0], help="shortest and longest clip")
    parser.add_argument("--checkpoint", nargs="*", default=[], help=f"default: {MODEL} with random adapters")
    parser.add_argument("--llm", default="assets/mini/llm")
    parser.add_argument("--median", type=int, default=60, help="tokens of thoughts; answers have a quarter of it")
    parser.add_argument("--sigma", type=float, default=1.0, help="of the logarithm: how long the tail is")
    parser.add_argument("--budget", type=int, default=96, help="thinking budget")
    parser.add_argument("--sequences", type=int, default=32, help="decoded at the same time")
    parser.add_argument("--batch", type=int, default=32, help="clips that ours encodes together, as in generate.yaml")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    run_bench(parser, measure)


@dataclass
class Setup:
    """Objects that all ways share."""

    engine: Engine
    ensemble: EmbedderEnsemble
    builder: Any
    items: list[RowInput]
    sampling: Any
    batch: int
    """Clips that ours encodes together."""
    plan: dict[str, tuple[int, int]]
    """Tokens of thoughts and of answer of each row."""


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """All ways, after one unmeasured round of a few rows."""
    setup = prepare(args)
    few = setup.items[:BATCH]
    encoded = {item.key: segments for item, segments in zip(setup.items, encode(setup, setup.items), strict=True)}
    for way in (ours, barrier):
        timed(setup, partial(way, setup, few))
    lengths = written(setup)
    ways = {
        "ours": lambda: ours(setup, setup.items),
        "encoded": lambda: ours(setup, setup.items, encoded),
        "barrier": lambda: barrier(setup, setup.items),
        "barrier, encoded": lambda: barrier(setup, setup.items, encoded),
        "raw": lambda: raw(setup, encoded, lengths),
    }
    spent = alternate({name: partial(timed, setup, way) for name, way in ways.items()}, args.rounds)
    device, tokens = device_name(), sum(lengths.values())

    def row(name: str, one: str, other: str, count: int = tokens, unit: str = "tokens/s") -> BenchRow:
        return BenchRow(name, unit, rates(count, spent[one]), rates(count, spent[other]), device)

    return [
        row("against barrier", "ours", "barrier", len(setup.items), "rows/s"),
        row("against barrier", "ours", "barrier"),
        row("against barrier, encoded before", "encoded", "barrier, encoded"),
        row("against raw vLLM", "ours", "raw"),
        row("against raw vLLM, encoded before", "encoded", "raw"),
    ]


def prepare(args: argparse.Namespace) -> Setup:
    """Engine with enforced lengths, audio embedder, rows."""
    import torch

    from src.audio.waveform import Waveform
    from src.inference.config import EngineConfig
    from src.inference.engine import Engine
    from src.inference.prompt_builder import PromptBuilder, RowInput
    from src.inference.types import Sampling
    from src.model.llm import load_tokenizer
    from src.prompts import load_prompts

    rng = random.Random(args.seed)
    draw = lambda median: max(1, round(rng.lognormvariate(0, args.sigma) * median))  # noqa: E731
    plan = {str(row): (draw(args.median), draw(args.median / 4)) for row in range(args.clips)}
    config = EngineConfig(
        max_model_len=args.context, max_num_seqs=args.sequences, max_num_batched_tokens=args.context
    )
    backend = planned_backend(args.llm, config, plan)
    tokenizer = load_tokenizer(args.llm)
    prompts = load_prompts("mini" if "mini" in args.llm else "full")
    ensemble = open_ensemble(args)
    items = []
    for key in plan:
        samples = round(16000 * rng.uniform(*args.seconds))
        clip = Waveform(torch.randn(1, samples, generator=torch.Generator().manual_seed(int(key))) * 0.1, 16000)
        items.append(RowInput(key, "what do you hear?", clip))
    most = max(max(pair) for pair in plan.values())
    return Setup(
        engine=Engine(backend, tokenizer, 2 * args.sequences, args.sequences),
        ensemble=ensemble,
        builder=PromptBuilder(tokenizer, prompts, prompts.generation_system, ensemble.explicit_tags),
        items=items,
        batch=args.batch,
        sampling=Sampling(2 * most, args.budget, budget_closing=prompts.budget_closing),
        plan=plan,
    )


def open_ensemble(args: argparse.Namespace) -> EmbedderEnsemble:
    """Audio embedders of the checkpoints, else the miniature's encoders with random adapters and fusion."""
    from src.inference.config import ModelSettings
    from src.inference.ensemble import EmbedderEnsemble
    from src.inference.load import inference_device, load_ensemble
    from src.model.audio_embedder import build_audio_embedder, build_feature_extractor
    from src.model.checkpoints import LoadedEmbedder
    from src.model.published import model_config

    if args.checkpoint:
        return load_ensemble(args.checkpoint, ModelSettings())
    config = model_config(MODEL)
    audio_embedder = build_audio_embedder(config.config, config.llm_embedding_dim or 0).requires_grad_(False).eval()
    device = inference_device()
    extractor = build_feature_extractor(config.config, device)
    return EmbedderEnsemble([LoadedEmbedder(audio_embedder.to(device), extractor, config, MODEL)])


def planned_backend(llm: str, config: Any, plan: dict[str, tuple[int, int]]) -> Any:
    """vLLM that writes exactly as many tokens as planned, whatever they are."""
    from vllm import SamplingParams

    from src.inference.config import LlmSource
    from src.inference.scheduler import StepOutput
    from src.inference.vllm_backend import VllmBackend

    class PlannedBackend(VllmBackend):
        """A row that is cut by a bound goes on with its next part when it is submitted again."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._given = SamplingParams(temperature=0, ignore_eos=True)
            self.passes: dict[str, int] = {}
            self._ends: dict[str, bool] = {}

        def add(self, key: str, segments: Any, sampling: Any, max_tokens: int, seed: int | None) -> None:
            row = key.split(":")[-1]
            thoughts, answer = plan[row]
            count = thoughts + answer
            if self.passes.get(row):
                count = answer if thoughts >= sampling.max_thinking_tokens else count - sampling.max_thinking_tokens
            self.passes[row] = self.passes.get(row, 0) + 1
            self._ends[key] = count <= max_tokens
            super().add(key, segments, sampling, min(count, max_tokens), seed)

        def step(self) -> list[StepOutput]:
            return [
                StepOutput(done.key, done.token_ids, "stop" if self._ends.pop(done.key) else "length")
                for done in super().step()
            ]

    return PlannedBackend.start(LlmSource(llm), config, None)


def written(setup: Setup) -> dict[str, int]:
    """Tokens that each row writes, the closing of its thoughts not counted."""
    budget = setup.sampling.max_thinking_tokens
    return {
        key: (min(thoughts, budget) if thoughts >= budget else thoughts) + answer
        for key, (thoughts, answer) in setup.plan.items()
    }


def timed(setup: Setup, work: Callable[[], None]) -> float:
    """Seconds, with an empty prefix cache."""
    setup.engine.backend._llm.reset_prefix_cache()  # type: ignore[attr-defined]
    setup.engine.backend.passes.clear()  # type: ignore[attr-defined]
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(setup: Setup, items: list[RowInput], encoded: dict[str, tuple[Segment, ...]] | None = None) -> None:
    """The engine as runs use it; with ``encoded`` prompts the audio embedder has nothing to do."""
    from src.inference.prompt_builder import audio_requests, in_batches
    from src.inference.types import Request

    if encoded is None:
        requests = audio_requests(in_batches(items, setup.batch), setup.ensemble, setup.builder)
    else:
        requests = (Request(item.key, encoded[item.key]) for item in items)
    for result in setup.engine.run(requests, setup.sampling):
        assert result.error is None, result.error


def encode(setup: Setup, items: list[RowInput]) -> list[tuple[Segment, ...]]:
    """Prompts of the items."""
    found = []
    for begin in range(0, len(items), BATCH):
        part = items[begin : begin + BATCH]
        heard = setup.ensemble.encode([item.audio for item in part])
        found += [setup.builder.with_audio(item.content, clips) for item, clips in zip(part, heard, strict=True)]
    return found


def barrier(setup: Setup, items: list[RowInput], encoded: dict[str, tuple[Segment, ...]] | None = None) -> None:
    """8 at a time, in two passes, each waiting for its last row."""
    backend, sampling = setup.engine.backend, setup.sampling
    closing = setup.engine.tokenizer(sampling.budget_closing, add_special_tokens=False)["input_ids"]
    for begin in range(0, len(items), BATCH):
        part = items[begin : begin + BATCH]
        made = encode(setup, part) if encoded is None else [encoded[item.key] for item in part]
        prompts = dict(zip((item.key for item in part), made, strict=True))
        for key, segments in prompts.items():
            backend.add(f"first:{key}", segments, sampling, sampling.max_thinking_tokens, None)
        unfinished = [done for done in drain(backend, len(prompts)) if done.finish_reason == "length"]
        for done in unfinished:
            key = done.key.split(":")[1]
            again = (*prompts[key], [*done.token_ids, *closing])
            backend.add(f"second:{key}", again, sampling, sampling.max_tokens, None)
        drain(backend, len(unfinished))


def drain(backend: Any, count: int) -> list[Any]:
    """Step until ``count`` requests are finished."""
    finished: list[Any] = []
    while len(finished) < count:
        finished += backend.step()
    return finished


def raw(setup: Setup, encoded: dict[str, tuple[Segment, ...]], lengths: dict[str, int]) -> None:
    """``LLM.generate`` on ids; where there was audio, ids drawn at random stand."""
    from torch import Tensor
    from vllm import SamplingParams

    rng = random.Random(1)
    prompts, params = [], []
    for key, segments in encoded.items():
        ids: list[int] = []
        for segment in segments:
            ids += [rng.randrange(300) for _ in segment] if isinstance(segment, Tensor) else list(segment)
        prompts.append({"prompt_token_ids": ids})
        params.append(SamplingParams(temperature=0, ignore_eos=True, max_tokens=lengths[key], detokenize=False))
    setup.engine.backend._llm.generate(prompts, params, use_tqdm=False)  # type: ignore[attr-defined]


if __name__ == "__main__":
    run_cli(main)
