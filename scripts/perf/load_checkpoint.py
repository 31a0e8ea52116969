"""Seconds and memory for loading a published-form checkpoint of true ALARM-CA size for inference.

In:  nothing; with --folder the checkpoint of random weights is written there once (about 15 GB) and kept.
Out: a table; rows with --json. Every load is a fresh process. Ours reads the audio embedder (bfloat16) and the input
embeddings; the baseline reads every tensor of every file into a dictionary and then takes those.

    python scripts/perf/load_checkpoint.py --folder /tmp/alarm_ca_random --json load.json
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, in_a_process, run_bench, status_gb
from src.common.cli import run_cli

if TYPE_CHECKING:
    from torch import Tensor


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where the random checkpoint is kept (default: thrown away)")
    parser.add_argument("--model", default="alarm_ca", help="model configuration")
    parser.add_argument("--llm-layers", type=int, default=36, help="layers of the LLM in the checkpoint")
    parser.add_argument("--vocabulary", type=int, default=151936, help="tokens of the LLM in the checkpoint")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Both ways over the checkpoint, which is written if it is not there."""
    folder = args.folder or Path(tempfile.mkdtemp(prefix="alarm_checkpoint_"))
    try:
        if not (folder / "model.safetensors.index.json").is_file():
            write_random(folder, args.model, args.llm_layers, args.vocabulary)
        return compare(folder, args)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


def compare(folder: Path, args: argparse.Namespace) -> list[BenchRow]:
    """Each load in a process of its own."""
    import torch

    from src.model.checkpoints import open_checkpoint
    from src.model.export import import_published
    from src.model.tensor_files import WEIGHTS_FILE

    preload = ("torch", "transformers", "safetensors.torch")
    ways = {way: partial(in_a_process, load_once, way, folder, preload=preload) for way in ("ours", "baseline")}
    found = alternate(ways, args.rounds)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    with tempfile.TemporaryDirectory() as out:
        smaller = import_published(open_checkpoint(folder), out, torch.bfloat16) / WEIGHTS_FILE
        converted = smaller.stat().st_size / 1e9
    title = f"{args.model}, {size:.1f} GB"
    rows = [BenchRow(f"{title}: our form in bfloat16, against the complete model", "GB", [converted], [size], "disk")]
    return rows + [
        BenchRow(f"load {title}: {what}", unit, *([each[key] for each in found[way]] for way in ways), "cpu")
        for what, unit, key in (("time", "s", "seconds"), ("peak memory", "GB", "peak_gb"))
    ]


def load_once(way: str, folder: Path) -> dict[str, float]:
    """Load the audio embedder and the embeddings; seconds after the imports, and the process's peak memory."""
    import torch
    from safetensors.torch import load_file

    from src.model.checkpoints import load_audio_embedder
    from src.model.llm import load_input_embeddings

    began = time.perf_counter()
    if way == "ours":
        kept = load_audio_embedder(folder, dtype=torch.bfloat16, encoder_dtype=torch.bfloat16).audio_embedder
        table = load_input_embeddings(str(folder), dtype=torch.bfloat16)
        assert kept is not None and table is not None
    else:
        everything = {
            name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()
        }
        wanted = ("model.audio_", "model.embed_tokens")
        taken = {name: value.to(torch.bfloat16) for name, value in everything.items() if name.startswith(wanted)}
        assert taken
    return {"seconds": time.perf_counter() - began, "peak_gb": status_gb("VmHWM")}


def write_random(folder: Path, model: str, llm_layers: int, vocabulary: int) -> None:
    """A checkpoint of the published form with random weights and no configuration of ours."""
    from src.model.export import write_shards

    folder.mkdir(parents=True, exist_ok=True)
    write_shards(random_tensors(model, llm_layers, vocabulary), folder)


def random_tensors(model: str, llm_layers: int, vocabulary: int) -> Iterator[tuple[str, Tensor]]:
    """Names and shapes of Qwen3-4B (bfloat16) and of the audio embedder (float32), values cheap to make."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from src.model import published
    from src.model.encoders.load import build_encoder

    config = published.model_config(model)
    llm = Qwen3Config(
        hidden_size=2560, num_hidden_layers=llm_layers, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=vocabulary, tie_word_embeddings=True,
    )  # fmt: skip
    pool = torch.randn(2**24) * 0.02
    with torch.device("meta"):
        states = {"": Qwen3ForCausalLM(llm).state_dict()}
        for name, spec in config.config.encoders.items():
            states[f"{published.ENCODER_PREFIX}{name}."] = build_encoder(name, spec).state_dict()
    shapes = {published.PREFIX + name: shape for name, shape in published.trained_shapes(config).items()}
    for prefix, state in states.items():
        for name, tensor in state.items():
            if prefix or name != "lm_head.weight":
                integral = not tensor.is_floating_point()
                dtype = tensor.dtype if integral else (torch.float32 if prefix else torch.bfloat16)
                yield prefix + name, _filled(pool, tuple(tensor.shape)).to(dtype)
    for name, shape in shapes.items():
        yield name, _filled(pool, shape).abs() if "running_var" in name else _filled(pool, shape)


def _filled(pool: Tensor, shape: tuple[int, ...]) -> Tensor:
    import torch

    count = torch.Size(shape).numel()
    return pool.repeat(-(-count // len(pool)))[:count].reshape(shape).clone()


if __name__ == "__main__":
    run_cli(main)
