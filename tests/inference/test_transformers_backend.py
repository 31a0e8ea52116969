"""transformers' generate as a backend: the same tokens as generate itself, whichever requests wait next to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.paths import ASSETS
from src.common.seeds import row_seed
from src.inference.engine import Engine
from src.inference.scheduler import Scheduler
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Request, Result, Sampling, Segment
from src.model.llm import load_llm
from src.prompts.chat import text_ids, turn_ids

CLOSING = " stop.</think>\n"


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """The miniature's language model; it samples by default, as its generation config says."""
    model, tokenizer = load_llm(str(ASSETS / "mini/llm"), torch.float32)
    model.generation_config.temperature = 1.5  # so that seeds matter
    return model, tokenizer


def make_requests(tokenizer: Any, width: int, count: int = 5) -> list[Request]:
    """Prompts of text, and of text around a clip."""
    generator, found = torch.Generator().manual_seed(1), []
    for number in range(count):
        turn = turn_ids(tokenizer, f"sound {number}?")
        clip = torch.randn(5 + 3 * number, width, generator=generator) * 0.1
        segments: tuple[Segment, ...] = (
            (turn.prefix_ids, clip, turn.suffix_ids) if number % 2 else (turn.prefix_ids, turn.suffix_ids)
        )
        found.append(Request(str(number), segments, seed=number))
    return found


def generate(model: Any, segments: tuple[Segment, ...], tokens: int, **options: Any) -> list[int]:
    """New ids by ``generate`` alone."""
    table = model.get_input_embeddings()
    parts = [part if isinstance(part, Tensor) else table(torch.tensor(part)) for part in segments]
    embeddings = torch.cat(parts)[None]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.int64)
    ids: Tensor = model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=tokens, **options)
    return [int(token) for token in ids[0]]


def run(model: Any, tokenizer: Any, requests: list[Request], sampling: Sampling) -> dict[str, Result]:
    results = list(Engine(TransformersBackend(model), tokenizer).run(iter(requests), sampling))
    assert len(results) == len(requests)
    return {result.key: result for result in results}


def test_greedy_ids_equal_those_of_generate(reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    requests = make_requests(tokenizer, model.config.hidden_size)
    results = run(model, tokenizer, requests, Sampling(20, greedy=True))
    for request in requests:
        result, expected = results[request.key], generate(model, request.segments, 20, do_sample=False)
        assert list(result.token_ids) == expected
        assert result.finish_reason == ("length" if expected[-1] != tokenizer.eos_token_id else "stop")


def test_seeded_samples_equal_those_of_generate_with_the_models_own_settings(reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    requests = make_requests(tokenizer, model.config.hidden_size)
    state = torch.get_rng_state()
    results = run(model, tokenizer, requests, Sampling(12))
    assert torch.equal(state, torch.get_rng_state())  # a seed of one request does not change the others' draws
    for request in requests:
        torch.manual_seed(request.seed or 0)
        assert list(results[request.key].token_ids) == generate(model, request.segments, 12)
    assert len({result.token_ids for result in results.values()}) > 2
    given = run(model, tokenizer, requests[:1], Sampling(12, temperature=0.5, top_p=0.9, top_k=-1))["0"]
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}
    assert list(given.token_ids) == generate(model, requests[0].segments, 12, **options)


def test_the_thinking_budget_is_two_passes_of_generate(reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    requests = make_requests(tokenizer, model.config.hidden_size, 3)
    sampling = Sampling(10, max_thinking_tokens=4, budget_closing=CLOSING)
    results = run(model, tokenizer, requests, sampling)
    for request in requests:
        torch.manual_seed(request.seed or 0)
        expected = generate(model, request.segments, 4)
        if expected[-1] != tokenizer.eos_token_id:
            expected += text_ids(tokenizer, CLOSING)
            torch.manual_seed(row_seed(request.seed or 0, "pass 1"))
            expected += generate(model, (*request.segments, expected), 10)
        assert list(results[request.key].token_ids) == expected


def test_tokens_are_reported_one_by_one_and_an_aborted_request_makes_room(reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    model_input = make_requests(tokenizer, model.config.hidden_size, 3)
    scheduler = Scheduler(TransformersBackend(model), tokenizer)
    written: dict[str, list[list[int]]] = {request.key: [] for request in model_input}
    sampling = Sampling(200, greedy=True)
    for request in model_input:
        assert scheduler.submit(request, sampling, written[request.key].append) is None
    while not written["0"]:
        assert not scheduler.step()
    scheduler.abort("0")
    scheduler.abort("1")  # it waits
    results: list[Result] = []
    while scheduler:
        results += scheduler.step()
    assert [result.key for result in results] == ["2"] and not written["1"]
    assert all(len(tokens) == 1 for tokens in written["2"])
    assert [token for tokens in written["2"] for token in tokens] == list(results[0].token_ids)
    assert list(results[0].token_ids) == generate(model, model_input[2].segments, 200, do_sample=False)


def test_an_exception_of_generate_is_raised(reference: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = reference

    def broken(**options: Any) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="the device is lost"):
        run(model, tokenizer, make_requests(tokenizer, model.config.hidden_size, 2), Sampling(5))


def test_option_scores_equal_those_of_a_plain_forward_pass(reference: tuple[Any, Any]) -> None:
    """Prompts of ids and with a clip; the plain pass is the model's own loss, token by token."""
    model, tokenizer = reference
    options = tuple(text_ids(tokenizer, text) for text in ("a dog", "the long low tone", "no"))
    requests = [
        Request(each.key, each.segments, each.seed, options=options)
        for each in make_requests(tokenizer, model.config.hidden_size, 2)
    ]
    results = run(model, tokenizer, requests, Sampling(8, greedy=True, budget_closing=CLOSING))
    table = model.get_input_embeddings()
    for request in requests:
        result = results[request.key]
        assert "</think>" not in result.text  # so that its thoughts are closed before an option
        thoughts = [token for token in result.token_ids if token != tokenizer.eos_token_id]
        before = (*request.segments, [*thoughts, *text_ids(tokenizer, CLOSING)])
        for option, scores in zip(options, result.option_logprobs or (), strict=True):
            parts = [part if isinstance(part, Tensor) else table(torch.tensor(part)) for part in (*before, option)]
            embeddings = torch.cat(parts)[None]
            labels = torch.full(embeddings.shape[:2], -100)
            labels[0, -len(option) :] = torch.tensor(option)
            mean = model(inputs_embeds=embeddings, labels=labels).loss.item()
            assert sum(scores) / len(scores) == pytest.approx(-mean, rel=1e-4)
            assert len(scores) == len(option)
