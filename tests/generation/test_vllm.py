"""The engine over a real vLLM: embeddings in prompts, thinking budget, seeds. One vLLM for the whole file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.generation.config import EngineConfig
from src.generation.requests import Request, Result, Sampling, Segment
from src.model.llm import load_llm
from src.prompts.chat import text_ids, turn_ids
from tests.support.tiny_llm import save_lively_llm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
WIDTH = 192
CLOSING = "|so|</think>\n"


@pytest.fixture(scope="module")
def lively(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose greedy answers differ from prompt to prompt."""
    return save_lively_llm(llm, tmp_path_factory.mktemp("lively") / "lively-llm")


@pytest.fixture(scope="module")
def reference(lively: Path) -> tuple[Any, Any]:
    """The same model in transformers."""
    return load_llm(str(lively), dtype=torch.float32)


@pytest.fixture(scope="module")
def engine(lively: Path) -> Iterator[Any]:
    from src.generation.vllm_core import VllmEngine

    config = EngineConfig(max_model_len=512, max_num_seqs=4, max_num_batched_tokens=512, kv_cache_gib=0.1)
    started = VllmEngine(str(lively), config)
    yield started
    started.close()


def make_requests(tokenizer: Any, count: int = 12) -> list[Request]:
    """Prompts of text alone, with one clip, and with two clips, of many lengths."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    requests = []
    for number in range(count):
        turn = turn_ids(tokenizer, "which sound is this?"[: rng.randint(1, 20)])
        clips = [torch.randn(rng.randint(1, 150), WIDTH, generator=generator) for _ in range(2)]
        segments: tuple[Segment, ...] = (turn.start, turn.main)
        if number % 3 == 1:
            segments = (turn.start, clips[0], turn.main)
        elif number % 3 == 2:
            segments = (turn.start, clips[0], text_ids(tokenizer, "again:"), clips[1], turn.main)
        requests.append(Request(str(number), segments, seed=number))
    return requests


def embed(llm: Any, segments: tuple[Segment, ...]) -> Tensor:
    table = llm.get_input_embeddings()
    return torch.cat([part if isinstance(part, Tensor) else table(torch.tensor(part)) for part in segments])[None]


def greedy(llm: Any, segments: tuple[Segment, ...], tokens: int) -> list[int]:
    """What transformers generates."""
    prompt = embed(llm, segments)
    mask = torch.ones(prompt.shape[:2], dtype=torch.int64)
    options = {"do_sample": False, "max_new_tokens": tokens}
    return llm.generate(inputs_embeds=prompt, attention_mask=mask, **options)[0].tolist()


def by_key(results: Iterator[Result]) -> dict[str, Result]:
    return {result.key: result for result in results}


def test_greedy_answers_equal_those_of_transformers(engine: Any, reference: tuple[Any, Any]) -> None:
    llm, tokenizer = reference
    requests = make_requests(tokenizer)
    results = by_key(engine.run(iter(requests), Sampling(40, greedy=True)))
    expected = {request.key: greedy(llm, request.segments, 40) for request in requests}
    assert {key: list(result.token_ids) for key, result in results.items()} == expected
    assert len(set(map(tuple, expected.values()))) > 8  # the model does not say the same to everything


def test_budget_equals_two_passes_of_transformers(engine: Any, reference: tuple[Any, Any]) -> None:
    llm, tokenizer = reference
    requests = make_requests(tokenizer, 6)
    sampling = Sampling(20, max_thinking_tokens=9, greedy=True, budget_closing=CLOSING)
    results = by_key(engine.run(iter(requests), sampling))
    for request in requests:
        first = greedy(llm, request.segments, 9)
        result = results[request.key]
        assert result.budget_hit == (tokenizer.eos_token_id not in first)
        expected = first
        if result.budget_hit:
            written = first + text_ids(tokenizer, CLOSING)
            expected = written + greedy(llm, (*request.segments, written), 20)
            assert CLOSING in result.text
        assert list(result.token_ids) == expected
    hits = [result.budget_hit for result in results.values()]
    assert any(hits) and not all(hits)


def test_seeded_answers_do_not_depend_on_what_runs_beside_them(engine: Any, reference: tuple[Any, Any]) -> None:
    requests = make_requests(reference[1], 6)
    sampling = Sampling(20, max_thinking_tokens=6, temperature=1.0, budget_closing=CLOSING)
    together = by_key(engine.run(iter(requests), sampling))
    for request in reversed(requests):
        (alone,) = engine.run(iter([request]), sampling)
        assert alone.token_ids == together[request.key].token_ids
    (other,) = engine.run(iter([Request("0", requests[0].segments, seed=99)]), sampling)
    assert other.token_ids != together["0"].token_ids


def test_bad_embeddings_do_not_touch_their_neighbours(engine: Any, reference: tuple[Any, Any]) -> None:
    llm, tokenizer = reference
    good = make_requests(tokenizer, 3)
    bad = [
        Request("nan", (torch.full((5, WIDTH), float("nan")), [5])),
        Request("width", (torch.zeros(5, WIDTH + 1), [5])),
        Request("long", (torch.zeros(600, WIDTH), [5])),
    ]
    mixed = [request for pair in zip(bad, good, strict=True) for request in pair]
    results = by_key(engine.run(iter(mixed), Sampling(20, greedy=True)))
    assert all(results[request.key].error for request in bad)
    for request in good:
        assert list(results[request.key].token_ids) == greedy(llm, request.segments, 20)
