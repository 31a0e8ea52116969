"""LoRA over a real vLLM, on the miniature's language model: beside it and merged, both answer as peft does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src.common.config import compose
from src.common.errors import UserError
from src.generation.config import read_run_config
from src.generation.job import Job, prepare
from src.generation.task_types import FREE
from src.inference.config import EngineConfig, LlmSource
from src.inference.load import load_vllm
from src.inference.types import Request, Sampling, Segment
from src.inference.vllm_lora import LoraMode, lora_options, prepared_llm
from src.model.checkpoints import open_checkpoint, save_checkpoint
from src.model.llm import load_llm
from src.model.lora import LoraConfig, add_lora
from src.prompts.chat import chat_ids, text_ids
from tests.generation.conftest import free_rows, save_set
from tests.inference.test_vllm_backend import by_key, greedy
from tests.model.test_lora import stir
from tests.support.tiny_models import mini_audio_embedder, model_config

LLM = "assets/mini/llm"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose LoRA changes what the language model says."""
    return saved(tmp_path_factory.mktemp("lora") / "run", 6)


def saved(folder: Path, rank: int) -> Path:
    llm, _ = load_llm(LLM)
    config = LoraConfig(r=rank)
    add_lora(llm, config, LLM)
    stir(llm, scale=0.2)
    model = dataclasses.replace(model_config("mini_whisper"), lora=config)
    return save_checkpoint(folder, mini_audio_embedder("mini_whisper"), model, llm=llm)


@pytest.fixture(scope="module")
def with_peft(checkpoint: Path) -> tuple[Any, Any]:
    """The language model with the checkpoint's LoRA, by peft alone."""
    from peft import PeftModel

    llm, tokenizer = load_llm(LLM, dtype=torch.float32)
    return PeftModel.from_pretrained(llm, str(open_checkpoint(checkpoint).lora_folder)), tokenizer


def prompts(tokenizer: Any, width: int) -> list[Request]:
    """Text alone, and text around embeddings of different lengths; some longer than a block of the cache."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for number, frames in enumerate((0, 7, 31, 90, 200, 3)):
        text: tuple[Segment, ...] = (chat_ids(tokenizer, None, "which sound comes first?"),)
        clip = torch.randn(frames, width, generator=generator) * 0.1
        found.append(Request(str(number), (*text, clip, text_ids(tokenizer, "what is it?")) if frames else text))
    return found


@pytest.fixture(scope="module", params=["request", "merge"])
def engine(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[Any]:
    mode: LoraMode = request.param
    source = LlmSource(LLM, None, open_checkpoint(checkpoint).lora_folder)
    with prepared_llm(source, mode) as prepared:
        assert (prepared.lora is None) == (mode == "merge")
    started = load_vllm(source, EngineConfig(max_model_len=512, max_num_seqs=4, kv_cache_gib=0.2, lora=mode))
    yield started
    started.close()


@pytest.mark.vllm
@pytest.mark.slow
def test_greedy_answers_equal_those_of_peft(engine: Any, with_peft: tuple[Any, Any]) -> None:
    llm, tokenizer = with_peft
    requests = prompts(tokenizer, llm.config.hidden_size)
    results = by_key(engine.run(iter(requests), Sampling(24, greedy=True)))
    expected = {request.key: greedy(llm, request.segments, 24) for request in requests}
    assert {key: list(result.token_ids) for key, result in results.items()} == expected
    with llm.disable_adapter():
        without = {request.key: greedy(llm, request.segments, 24) for request in requests}
    assert sum(without[key] != answer for key, answer in expected.items()) > 3


def test_only_the_layers_of_the_lora_are_prepared(checkpoint: Path) -> None:
    options = lora_options(checkpoint / "lora")
    assert options["max_lora_rank"] == 8 and "embed_tokens" not in options["lora_target_modules"]
    assert set(options["lora_target_modules"]) >= {"q_proj", "down_proj"}


@pytest.mark.parametrize("on_gpu", [True, False])
def test_beside_the_model_on_a_gpu_and_merged_on_a_cpu(
    checkpoint: Path, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    folder = checkpoint / "lora"
    with prepared_llm(LlmSource(LLM, "main", folder), "auto") as prepared:
        assert prepared == LlmSource(LLM, "main", folder) or not on_gpu
        assert (prepared.lora is None and (Path(prepared.name) / "config.json").is_file()) or on_gpu
    assert on_gpu or not Path(prepared.name).exists()
    with prepared_llm(LlmSource(LLM), "merge") as unchanged:
        assert unchanged == LlmSource(LLM)


def test_a_rank_without_room_in_vllm_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    folder = saved(tmp_path / "wide", 513) / "lora"
    source = LlmSource(LLM, None, folder)
    with prepared_llm(source, "auto") as prepared:
        assert prepared.lora is None
    with (
        pytest.raises(UserError, match=r"rank 513, vLLM takes up to 512; give engine\.lora=merge"),
        prepared_llm(source, "request"),
    ):
        pass
    with pytest.raises(UserError, match="rank 513: vLLM takes up to 512"):  # for get_response, which makes no copy
        lora_options(folder)


def test_lora_decides_results_and_an_ensemble_has_one(checkpoint: Path, tmp_path: Path, data_root: Path) -> None:
    save_set("set", {"test": free_rows(2)})
    other = saved(tmp_path / "other", 4)

    def job(*names: Path, mode: str = "auto") -> Job:
        listed = ",".join(map(str, names))
        given = ["dataset.name=set", "prompts=mini", f"checkpoint_name=[{listed}]", f"engine.lora={mode}"]
        return prepare(read_run_config(compose("generate", given)), FREE)

    assert job(checkpoint).llm.lora == job(checkpoint, checkpoint).llm.lora == checkpoint / "lora"
    settings = [job(checkpoint).settings(), job(checkpoint, mode="merge").settings(), job(other).settings()]
    assert settings[0]["lora"] == "auto" and settings[1]["lora"] == "merge"
    assert settings[0]["checkpoints"] != settings[2]["checkpoints"]
    with pytest.raises(UserError, match="its members' LoRA differ"):
        job(checkpoint, other)
