"""The ``openai`` package, unmodified, against the server over a real vLLM; answers equal the offline engine's."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from src.inference.prompt_builder import PromptBuilder, RowInput, audio_requests, in_batches
from src.inference.types import Result, Sampling
from src.prompts.reasoning import split_response
from src.serving.start import Loaded, make_app
from tests.serving.client import listening
from tests.serving.conftest import tiny_config
from tests.serving.sounds import encoded

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
MODELS = ["one", "two", "ensemble"]


def cases() -> list[tuple[bytes, str]]:
    """Clips of many lengths and pitches, with questions."""
    rng = random.Random(0)
    return [
        (encoded("wav", rng.uniform(0.3, 3.0), pitch=rng.randint(100, 3000)), f"what is number {number}?")
        for number in range(10)
    ]


def offline(loaded: Loaded, model: str, budget: int = 12) -> list[Result]:
    """Answers of a run over a data set."""
    ensembles = loaded.ensembles[model]
    prompts = loaded.prompts[model]
    builder = PromptBuilder(loaded.engine.tokenizer, prompts, prompts.generation_system, ensembles.explicit_tags)
    items = [RowInput(str(number), question, clip) for number, (clip, question) in enumerate(cases())]
    sampling = Sampling(24, budget, greedy=True, budget_closing=prompts.budget_closing)
    results = {
        each.key: each
        for each in loaded.engine.run(audio_requests(in_batches(items, 4), ensembles, builder), sampling)
    }
    return [results[item.key] for item in items]


@pytest.fixture(scope="module")
def expected(loaded: Loaded) -> dict[str, list[Result]]:
    return {model: offline(loaded, model) for model in MODELS}


@pytest.fixture(scope="module")
def client(loaded: Loaded, expected: Any, checkpoints: dict[str, Path]) -> Iterator[OpenAI]:
    app = make_app(loaded, tiny_config(checkpoints, "api_key=sesame"))
    with listening(app) as (address, _):
        yield OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0)


def messages(clip: bytes, question: str) -> Any:
    audio = {"type": "input_audio", "input_audio": {"data": b64encode(clip).decode(), "format": "wav"}}
    return [{"role": "user", "content": [{"type": "text", "text": question}, audio]}]


def whole(client: OpenAI, model: str, clip: bytes, question: str, **options: Any) -> tuple[str, str, int]:
    made = client.chat.completions.create(model=model, messages=messages(clip, question), temperature=0, **options)
    message: Any = made.choices[0].message
    assert made.usage is not None
    return message.reasoning_content or "", message.content or "", made.usage.completion_tokens


def streamed(client: OpenAI, model: str, clip: bytes, question: str) -> tuple[str, str, int]:
    parts, tokens = {"reasoning_content": "", "content": ""}, 0
    for chunk in client.chat.completions.create(
        model=model,
        messages=messages(clip, question),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        for name in parts:
            parts[name] += (chunk.choices and getattr(chunk.choices[0].delta, name, None)) or ""
        tokens += chunk.usage.completion_tokens if chunk.usage else 0
    return parts["reasoning_content"], parts["content"], tokens


@pytest.mark.parametrize("how", [whole, streamed])
@pytest.mark.parametrize("model", MODELS)
def test_answers_equal_those_of_the_offline_engine(
    client: OpenAI, expected: dict[str, list[Result]], model: str, how: Any
) -> None:
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda case: how(client, model, *case), cases()))
    for (thoughts, answer, tokens), result in zip(found, expected[model], strict=True):
        split = split_response(result.text)
        assert (thoughts, answer, tokens) == (split.thoughts, split.answer, result.num_tokens)
    assert len({answer for _, answer, _ in found}) > 5  # the model does not say the same to everything


def test_a_request_can_have_another_budget(client: OpenAI, loaded: Loaded) -> None:
    clip, question = cases()[0]
    made = whole(client, "one", clip, question, extra_body={"thinking_token_budget": 0})
    assert made[0] == loaded.prompts["one"].budget_closing.partition("</think>")[0].strip() and made[1]
    assert whole(client, "one", clip, question, max_tokens=5)[2] == 5


def test_seeds_repeat_a_sampled_answer(client: OpenAI) -> None:
    clip, question = cases()[0]

    def sampled(seed: int) -> str:
        made = client.chat.completions.create(
            model="one", messages=messages(clip, question), temperature=1.0, seed=seed
        )
        return made.model_dump_json(include={"choices"})

    assert sampled(1) == sampled(1) != sampled(2)


def test_errors_are_those_of_the_package(client: OpenAI) -> None:
    clip, question = cases()[0]
    assert [model.id for model in client.models.list()] == MODELS
    with pytest.raises(NotFoundError, match="known: one, two, ensemble"):
        whole(client, "gpt", clip, question)
    with pytest.raises(BadRequestError, match="cannot be read as audio"):
        whole(client, "one", b"nothing", question)
    with pytest.raises(BadRequestError, match="context of 768"):
        whole(client, "one", clip, "x" * 2000)
    with pytest.raises(AuthenticationError):
        whole(client.with_options(api_key="wrong"), "one", clip, question)
