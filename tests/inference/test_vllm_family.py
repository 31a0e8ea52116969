"""A family that scales its input embeddings (Gemma) over a real vLLM: clips keep the scale of their training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.inference.config import EngineConfig, LlmSource
from src.inference.engine import Engine
from src.inference.load import load_vllm
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Request, Result, Sampling
from src.model.llm import load_llm
from src.prompts.chat import text_ids, turn_ids
from tests.support.llm_families import WIDTH, save_family
from tests.support.tiny_llm import save_tiny_llm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_gemma_answers_and_scores_as_in_transformers(tmp_path: Path) -> None:
    folder = save_family("gemma3_text", save_tiny_llm(tmp_path / "llm"), tmp_path / "gemma")
    llm, tokenizer = load_llm(str(folder), torch.float32)
    turn, option = turn_ids(tokenizer, "which sound?"), text_ids(tokenizer, "a dog")
    clip = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    requests = [
        Request("text", (turn.prefix_ids, turn.suffix_ids), options=(option,)),
        Request("clip", (turn.prefix_ids, clip, turn.suffix_ids), options=(option,)),
    ]

    def run(engine: Engine) -> dict[str, Result]:
        return {result.key: result for result in engine.run(iter(requests), Sampling(20, greedy=True))}

    expected = run(Engine(TransformersBackend(llm), tokenizer))
    config = EngineConfig(max_model_len=512, max_num_seqs=4, max_num_batched_tokens=512, kv_cache_gib=0.1)
    engine = load_vllm(LlmSource(str(folder)), config)
    try:
        results = run(engine)
    finally:
        engine.close()
    assert expected["text"].option_logprobs != expected["clip"].option_logprobs
    for key, result in results.items():
        assert result.token_ids == expected[key].token_ids
        scores, wanted = (torch.tensor(each.option_logprobs) for each in (result, expected[key]))
        torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-3)
