"""The engine over a real vLLM: embeddings in prompts, thinking budget, seeds. One vLLM for the whole file."""

from __future__ import annotations

import ast
import hashlib
import inspect
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from src.inference.config import EngineConfig, LlmSource
from src.inference.load import load_vllm
from src.inference.types import Request, Result, Sampling, Segment, prompt_length
from src.inference.vllm_backend import CPU_BLOCK
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
    config = EngineConfig(max_model_len=512, max_num_seqs=4, max_num_batched_tokens=512, kv_cache_gib=0.1)
    started = load_vllm(LlmSource(str(lively)), config)
    yield started
    started.close()


def make_requests(tokenizer: Any, count: int = 12) -> list[Request]:
    """Prompts of text alone, with one clip, and with two clips, of many lengths."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    requests = []
    for number in range(count):
        turn = turn_ids(tokenizer, "which sound is this?"[: rng.randint(1, 20)])
        clips = [torch.randn(rng.randint(1, 150), WIDTH, generator=generator) for _ in range(2)]
        segments: tuple[Segment, ...] = (turn.prefix_ids, turn.suffix_ids)
        if number % 3 == 1:
            segments = (turn.prefix_ids, clips[0], turn.suffix_ids)
        elif number % 3 == 2:
            segments = (turn.prefix_ids, clips[0], text_ids(tokenizer, "again:"), clips[1], turn.suffix_ids)
        requests.append(Request(str(number), segments, seed=number))
    return requests


def embed(llm: Any, segments: tuple[Segment, ...]) -> Tensor:
    table = llm.get_input_embeddings()
    return torch.cat([part if isinstance(part, Tensor) else table(torch.tensor(part)) for part in segments])[None]


def greedy(llm: Any, segments: tuple[Segment, ...], tokens: int) -> list[int]:
    """Tokens that transformers generates."""
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


def test_option_scores_equal_those_of_transformers(engine: Any, reference: tuple[Any, Any]) -> None:
    """Also where the prefix cache has the option itself: long options, asked for twice, sharing their beginning."""
    llm, tokenizer = reference
    long = "a very long option that fills more than one block of the cache " * 2
    options = tuple(text_ids(tokenizer, text) for text in ("a dog", f"{long}red", f"{long}blue"))
    requests = [Request(each.key, each.segments, options=options) for each in make_requests(tokenizer, 6)]
    sampling = Sampling(6, greedy=True, budget_closing=CLOSING)
    for _ in range(2):
        results = by_key(engine.run(iter(requests), sampling))
        for request in requests:
            written = list(results[request.key].token_ids)
            written = written[:-1] if written[-1] == tokenizer.eos_token_id else written
            before = (*request.segments, written + text_ids(tokenizer, CLOSING))
            assert "</think>" not in results[request.key].text
            for option, scores in zip(options, results[request.key].option_logprobs or (), strict=True):
                logits = llm(inputs_embeds=embed(llm, (*before, option))).logits[0, -len(option) - 1 : -1]
                expected = logits.log_softmax(-1).gather(-1, torch.tensor(option)[:, None])[:, 0]
                torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)


def test_a_continued_response_is_not_read_again(engine: Any, reference: tuple[Any, Any], monkeypatch: Any) -> None:
    """Full cache blocks of prompt and thoughts are found, with embeddings in the prompt."""
    from vllm import SamplingParams

    request = make_requests(reference[1], 2)[1]
    request = replace(request, segments=(*request.segments, [7] * 40))
    passes = []
    step = engine.backend._llm.llm_engine.step

    def recorded() -> Any:
        outputs = step()
        passes.extend(output for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(engine.backend._llm.llm_engine, "step", recorded)
    engine.backend._given = SamplingParams(temperature=0, ignore_eos=True)
    sampling = Sampling(4, max_thinking_tokens=75, budget_closing=CLOSING)
    try:
        (result,) = engine.run(iter([request]), sampling)
    finally:
        engine.backend._given = None
    first, second = passes
    computed = prompt_length(request.segments) + 75 - 1  # the last token of the first pass was never an input
    assert result.budget_hit and len(second.prompt_token_ids) > computed
    assert second.num_cached_tokens == computed // CPU_BLOCK * CPU_BLOCK > len(first.prompt_token_ids)


def test_cache_keys_tell_embeddings_apart() -> None:
    from src.inference.vllm_prefix_cache import embedding_keys

    rows, mask = torch.arange(24.0).view(6, 4), [True, False, False, True, True, True]

    def key(rows: Tensor, mask: list[bool] | None, begin: int = 0, end: int = 4) -> Any:
        request = SimpleNamespace(prompt_embeds=rows, prompt_is_token_ids=mask, _prompt_embeds_per_block_hashes={})
        return embedding_keys(request, begin, end)

    assert key(rows, mask, 3, 6) == key(rows, mask, 4, 8) == key(rows, mask, 8, 12) == []
    other_text = rows.clone()
    other_text[[0, 3]] += 1
    assert key(rows, mask) == key(other_text, mask) != []
    other_audio = rows.clone()
    other_audio[2, 3] += 1
    moved = torch.stack([rows[1], rows[2], *rows[2:]])
    before = [False, False, True, True, True, True]
    assert key(rows, mask, 1, 5) == key(moved, before)
    keys = [key(rows, mask), key(other_audio, mask), key(rows, None), key(moved, before)]
    assert len({str(each) for each in keys}) == len(keys)


def test_the_replaced_function_is_the_known_one() -> None:
    """vLLM's own cache keys of embeddings: when they change, look at src/inference/vllm_prefix_cache.py again."""
    from vllm.v1.core import kv_cache_utils

    from src.inference.vllm_prefix_cache import REPLACED, embedding_keys

    tree = ast.parse(inspect.getsource(kv_cache_utils))
    (own,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == REPLACED)
    assert hashlib.sha256(ast.unparse(own).encode()).hexdigest()[:16] == "c7e98928c627905c"
    assert getattr(kv_cache_utils, REPLACED) is embedding_keys
