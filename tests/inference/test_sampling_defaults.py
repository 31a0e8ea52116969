"""Sampling where a request gives none: the model's own, or one set of defaults in every backend."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.inference.sampling_defaults import FALLBACK, sampling_defaults
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Sampling
from src.inference.vllm_backend import _stated_sampling
from src.model.llm import generation_settings
from tests.support.tiny_models import tiny_llm

QWEN3_THINKING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (QWEN3_THINKING, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"eos_token_id": 2}, FALLBACK),  # SmolLM2, Phi-3
        ({"do_sample": True}, {}),  # gpt-oss: plain sampling
        ({"top_k": 64, "top_p": 0.95, "do_sample": True}, {"top_p": 0.95, "top_k": 64}),  # Gemma 3
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1, **FALLBACK}),
    ],
)
def test_a_generation_config_decides_and_its_absence_has_one_meaning(
    stated: dict[str, Any], expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert sampling_defaults(stated, "some/model") == expected
    [line] = caplog.messages
    assert line.startswith("sampling of some/model")
    assert ("these are the defaults" in line) == (expected.items() >= FALLBACK.items() and "do_sample" not in stated)


def options_of(llm: Any, sampling: Sampling) -> dict[str, Any]:
    """Sampling parameters that ``generate`` gets for a prompt."""
    backend = TransformersBackend(llm)
    backend.add("a", [[3, 4]], sampling, 5, None)
    return backend._waiting[0].options


def test_transformers_and_vllm_draw_alike(tmp_path: Any) -> None:
    llm = tiny_llm()
    for stated in ({}, {"do_sample": True}, {"do_sample": True, "temperature": 0.3, "top_k": 7}):
        llm.generation_config = type(llm.generation_config)(**stated)
        llm.save_pretrained(tmp_path)
        engine = SimpleNamespace(
            generation_config="auto",
            override_generation_config={},
            try_get_generation_config=lambda: generation_settings(str(tmp_path)),
        )
        in_vllm = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **sampling_defaults(_stated_sampling(engine), "x")}
        options = options_of(llm, Sampling(5))
        assert options["do_sample"] and {name: options[name] for name in in_vllm} == in_vllm


def test_given_settings_replace_the_defaults_one_by_one() -> None:
    llm = tiny_llm()
    options = options_of(llm, Sampling(5, temperature=1.0, top_k=-1))
    assert (options["temperature"], options["top_p"], options["top_k"]) == (1.0, FALLBACK["top_p"], 0)
    options = options_of(llm, Sampling(5, greedy=True))
    assert options["do_sample"] is False and options["temperature"] is None


def test_a_model_without_sampling_keys_no_longer_answers_greedily() -> None:
    llm = tiny_llm(seed=3)
    with torch.no_grad():
        llm.get_input_embeddings().weight.normal_(std=2.0)
    answers = set()
    for seed in range(6):
        backend = TransformersBackend(llm)
        backend.add("a", [[3, 4]], Sampling(8), 8, seed)
        tokens: list[int] = []
        while not (outputs := backend.step())[0].finish_reason:
            tokens += outputs[0].token_ids
        answers.add(tuple(tokens))
    assert len(answers) > 1
