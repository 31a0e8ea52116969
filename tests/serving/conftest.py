"""A tiny language model with two checkpoints for it, and a server's models over vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.common.config import compose
from src.model.checkpoints import save_checkpoint
from src.serving.config import ServeConfig, read_serve_config
from src.serving.start import Loaded, load
from tests.support.tiny_llm import save_lively_llm, save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two audio embedders with random weights for one lively language model, and of that."""
    folder = tmp_path_factory.mktemp("served")
    llm = save_lively_llm(save_tiny_llm(folder / "tiny-llm"), folder / "lively-llm")
    config = model_config("mini_whisper", f"model.llm={llm}")
    made = {"llm": llm}
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        audio_embedder = mini_audio_embedder("mini_whisper").requires_grad_(False)
        made[name] = save_checkpoint(folder / name, audio_embedder, config)
    return made


def tiny_config(checkpoints: dict[str, Path], *more: str) -> ServeConfig:
    """Settings of a server over both checkpoints."""
    names = f"checkpoint_name=[{checkpoints['one']},{checkpoints['two']}]"
    small = ["model.max_model_len=768", "model.max_num_seq=8", "model.max_num_batched_tokens=768"]
    small += ["engine.kv_cache_gib=0.2", "model.max_tokens=24", "model.max_thinking_tokens=12", "prompts=mini"]
    return read_serve_config(compose("serve", [names, *small, *more]))


@pytest.fixture(scope="module")
def loaded(checkpoints: dict[str, Path]) -> Iterator[Loaded]:
    """Both checkpoints and their ensemble over one vLLM in this process."""
    made = load(tiny_config(checkpoints))
    yield made
    made.engine.close()
