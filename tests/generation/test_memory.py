"""Outside vLLM no process holds the language model: what is read of its weights, and what is left in memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from src.common.paths import REPO_ROOT
from src.model.checkpoints import open_checkpoint, save_checkpoint
from src.model.export import export_published
from tests.generation.conftest import free_rows, save_set
from tests.support.tiny_models import mini_audio_embedder, model_config

LLM = "assets/mini/llm"
PROBE = """
import gc, json, sys, torch
from src.common.config import compose
from src.generation import worker
from src.generation.config import read_run_config
from src.generation.job import prepare
from src.generation.task_types import FREE
from src.model.llm import load_llm
from src.model.wrapped_llms.qwen3 import Qwen3AudioWrappedFeatureExtractor
from tests.generation.test_memory import digest
from tests.generation.workers import start_scripted

worker.load_vllm = lambda *args: start_scripted_engine(*args)
def start_scripted_engine(*args):
    from src.inference.engine import Engine
    from tests.generation.fakes import ScriptedBackend
    from tests.prompts.fakes import CharTokenizer
    return Engine(ScriptedBackend(lambda prompt: "a", width=192), CharTokenizer())
read = []
import src.model.tensor_files as tensor_files
opened = tensor_files.TensorFiles.read
def reading(self, names, dtype=None):
    read.extend(names)
    return opened(self, names, dtype)
tensor_files.TensorFiles.read = reading
overrides = ["dataset.name=sounds", "prompts=mini", f"checkpoint_name={sys.argv[1]}"]
job = prepare(read_run_config(compose("generate", overrides)), FREE)
job.settings()
models = worker.start_models(job)
list(worker.answer_rows(job, models, [job.pending({})]))
extractor = Qwen3AudioWrappedFeatureExtractor({"llm": job.llm.name}, sys.argv[1], None)
kept = load_llm(job.llm.name) if sys.argv[2] == "control" else None
held = {digest(each) for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.ndim == 2}
print("RESULT" + json.dumps({"read": sorted(set(read)), "held": sorted(held)}))
"""


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, Path]:
    """Our form, and the published one, which holds the language model."""
    config = model_config("mini_whisper")
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_whisper"), config)
    return {"ours": ours, "whole": export_published(open_checkpoint(ours), tmp_path / "whole")}


def digest(value: torch.Tensor) -> str:
    """Of the values, in float32."""
    return hashlib.sha256(value.detach().float().contiguous().numpy().tobytes()).hexdigest()


def layers() -> dict[str, str]:
    """Digests of the matrices in the language model's layers, by name."""
    with safe_open(str(REPO_ROOT / LLM / "model.safetensors"), framework="pt") as file:
        inside = [name for name in file.keys() if ".layers." in name]  # noqa: SIM118 - the file is no mapping
        found = {name: file.get_tensor(name) for name in inside}
    return {name: digest(value) for name, value in found.items() if value.ndim == 2}


def probe(checkpoint: Path, how: str) -> dict[str, set[str]]:
    """Names of tensors that a worker reads, and digests of those that it holds while it answers."""
    command = [sys.executable, "-c", PROBE, str(checkpoint), how]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: set(values) for name, values in json.loads(done.stdout.split("RESULT")[1]).items()}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ours", "whole"])
def test_layers_of_the_language_model_are_never_read(
    checkpoints: dict[str, Path], form: str, data_root: Path
) -> None:
    save_set("sounds", {"train": free_rows(3)})
    found, inside = probe(checkpoints[form], "as it is"), layers()
    assert inside and found["read"] and found["held"]
    assert not {name for name in found["read"] if name in inside}
    assert not found["held"] & set(inside.values())


@pytest.mark.slow
def test_the_probe_would_see_them(checkpoints: dict[str, Path], data_root: Path) -> None:
    save_set("sounds", {"train": free_rows(3)})
    assert probe(checkpoints["ours"], "control")["held"] >= set(layers().values())
