"""Seconds and memory for loading a published-form checkpoint of true ALARM-CA size for inference.

In:  nothing; with --folder the checkpoint of random weights is written there once (about 15 GB) and kept.
Out: a table; rows with --json. Every load is a fresh process. Ours reads the front end (bfloat16) and the input
embeddings; the baseline reads every tensor of every file into a dictionary and then takes those.

    python scripts/perf/load_checkpoint.py --folder /tmp/alarm_ca_random --json load.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

if TYPE_CHECKING:
    from torch import Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the random checkpoint is kept (default: thrown away)")
    parser.add_argument("--model", default="alarm_ca", help="model configuration")
    parser.add_argument("--llm-layers", type=int, default=36, help="layers of the LLM in the checkpoint")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--load", choices=("ours", "baseline"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load_once(args.load, args.folder)))
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="alarm_checkpoint_"))
    try:
        if not (folder / "model.safetensors.index.json").is_file():
            write_random(folder, args.model, args.llm_layers)
        rows = compare(folder)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    print(bench_table(rows))
    if args.json:
        write_rows(args.json, rows)


def compare(folder: Path) -> list[BenchRow]:
    """Both ways, each in a process of its own; ours first, so that a cold file cache costs ours."""
    import torch

    from src.model.checkpoints import open_checkpoint
    from src.model.export import import_published
    from src.model.tensor_files import WEIGHTS_FILE

    seen = {}
    for way in ("ours", "baseline"):
        command = [sys.executable, __file__, "--folder", str(folder), "--load", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seen[way] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    ours, base = seen["ours"], seen["baseline"]
    if ours is None:
        raise SystemExit("loading failed; run with --load ours to see why")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    with tempfile.TemporaryDirectory() as out:
        smaller = import_published(open_checkpoint(folder), out, torch.bfloat16) / WEIGHTS_FILE
        converted = smaller.stat().st_size / 1e9
    rows = [BenchRow(f"{folder.name}: our form in bfloat16, against the whole model", "GB", converted, size, "disk")]
    return rows + [
        BenchRow(f"load {folder.name}, {size:.1f} GB: {what}", unit, ours[key], base and base[key], "cpu")
        for what, unit, key in (("time", "s", "seconds"), ("peak memory", "GB", "peak_gb"))
    ]


def load_once(way: str, folder: Path) -> dict[str, float]:
    """Load the front end and the embeddings; seconds after the imports, and the process's peak memory."""
    import resource

    import torch
    from safetensors.torch import load_file

    from src.model.checkpoints import load_front_end
    from src.model.llm import load_input_embeddings

    began = time.perf_counter()
    if way == "ours":
        kept = load_front_end(folder, dtype=torch.bfloat16, encoder_dtype=torch.bfloat16).front_end
        table = load_input_embeddings(str(folder), dtype=torch.bfloat16)
        assert kept is not None and table is not None
    else:
        everything = {
            name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()
        }
        wanted = ("model.audio_", "model.embed_tokens")
        taken = {name: value.to(torch.bfloat16) for name, value in everything.items() if name.startswith(wanted)}
        assert taken
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def write_random(folder: Path, model: str, llm_layers: int) -> None:
    """A checkpoint of the published form with random weights and no configuration of ours."""
    from src.model.export import write_shards

    folder.mkdir(parents=True, exist_ok=True)
    write_shards(random_tensors(model, llm_layers), folder)


def random_tensors(model: str, llm_layers: int) -> Iterator[tuple[str, Tensor]]:
    """Names and shapes of Qwen3-4B (bfloat16) and of the front end (float32), values cheap to make."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from src.model import published
    from src.model.encoders.build import build_encoder

    config = published.model_config(model)
    llm = Qwen3Config(
        hidden_size=2560, num_hidden_layers=llm_layers, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151936, tie_word_embeddings=True,
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
