"""Rows to prompts: order of the parts, ensembles, text oracle, no audio, bad rows."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from src.audio.waveform import Waveform
from src.common.paths import ASSETS
from src.inference.prompt_builder import PromptBuilder, RowInput, audio_requests, text_requests
from src.inference.types import RequestError, Segment
from src.model.llm import load_tokenizer
from src.prompts import load_prompts
from tests.generation.fakes import WIDTH, shown
from tests.prompts.fakes import CharTokenizer

PROMPTS = load_prompts("mini")
SYSTEM = "<|im_start|>system\nlisten.<|im_end|>\n"
HEADER = "<|im_end|>\n<|im_start|>assistant\n<think>\n"


def builder(*explicit: bool) -> PromptBuilder:
    return PromptBuilder(CharTokenizer(), PROMPTS, "listen.", explicit or (False,))


class FakeEnsemble:
    """Hears a clip as one frame for every 100 samples; cannot encode clips of 300 samples."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        self.batches.append(len(waveforms))
        lengths = [waveform.samples.shape[1] for waveform in waveforms]
        if 300 in lengths:
            raise RuntimeError("too odd")
        return [[torch.zeros(length // 100, WIDTH)] for length in lengths]


def clip(samples: int) -> Waveform:
    return Waveform(torch.zeros(1, samples), 16000)


def test_audio_comes_first_then_the_text() -> None:
    segments = builder().with_audio("what?", [torch.zeros(3, WIDTH)])
    assert shown(segments) == f"{SYSTEM}<|im_start|>user\n{{3}}what?{HEADER}"


def test_explicit_tags_stand_around_the_audio() -> None:
    segments = builder(True).with_audio("what?", [torch.zeros(3, WIDTH)])
    assert shown(segments) == f"{SYSTEM}<|im_start|>user\n<start_audio>{{3}}<end_audio>what?{HEADER}"


def test_ensemble_hears_the_clip_in_turn() -> None:
    segments = builder(False, True).with_audio("what?", [torch.zeros(3, WIDTH), torch.zeros(5, WIDTH)])
    assert shown(segments) == (
        f"{SYSTEM}<|im_start|>user\nyou hear the same audio 2 times. use all of them.\n"
        "hearing 1 of 2:\n{3}\nhearing 2 of 2:\n<start_audio>{5}<end_audio>\n"
        f"what?{HEADER}"
    )


def test_description_is_read_as_the_training_targets_were_made() -> None:
    (segment,) = builder().with_description("what?", "|a kick|")
    assert shown([segment]) == (
        f"<|im_start|>system\n{PROMPTS.self_generation_system}<|im_end|>\n"
        f"<|im_start|>user\n<start_audio>|a kick|<end_audio>\n\nwhat?{HEADER}"
    )


def test_without_audio_the_text_stands_alone() -> None:
    assert shown(builder().text_only("what?")) == f"{SYSTEM}<|im_start|>user\nwhat?{HEADER}"


def test_clips_are_encoded_in_batches_and_bad_ones_cost_one_row() -> None:
    items = [
        RowInput("0", "what?", clip(200), seed=7),
        RowInput("1", "what?", clip(300)),
        RowInput("2", "what?", {"bytes": b"no audio", "path": "broken.wav"}),
        RowInput("3", "what?"),
        RowInput("4", error=RequestError("missing_text", "the row has no text")),
        RowInput("5", "what?", clip(500)),
        RowInput("6", "what?", clip(0)),
        RowInput("7", "what?", {"path": "/nowhere.wav", "bytes": None}),
    ]
    ensemble = FakeEnsemble()
    made = audio_requests([items[:4], items[4:]], ensemble, builder())  # type: ignore[arg-type]
    requests = {request.key: request for request in made}
    assert sorted(requests) == list("01234567")
    assert ensemble.batches == [2, 1, 1, 1]
    assert "{2}what?" in shown(requests["0"].segments) and requests["0"].seed == 7
    assert "{5}what?" in shown(requests["5"].segments)
    errors = {key: request.error.reason for key, request in requests.items() if request.error}
    assert set(errors) == set("123467")
    assert "too odd" in errors["1"] and "broken.wav" in errors["2"] and errors["3"] == "the row has no audio"
    assert errors["4"] == "the row has no text" and "/nowhere.wav" in errors["7"]


@pytest.mark.parametrize("read", [True, False])
def test_text_requests_carry_errors_on(read: bool) -> None:
    items = [
        RowInput("0", "what?", description="|a kick|"),
        RowInput("1", "what?"),
        RowInput("2", error=RequestError("missing_text", "no text")),
    ]
    zero, one, two = text_requests(items, builder(), read)
    assert ("a kick" in shown(zero.segments)) == read
    assert (one.error and one.error.reason) == ("the row has no audio_description" if read else None)
    assert two.error and two.error.reason == "no text"


def ids_of(part: Segment) -> list[int | str]:
    return [f"{len(part)} frames"] if isinstance(part, Tensor) else list(part)


def test_token_ids_are_those_of_earlier_versions() -> None:
    """Ids with the miniature's tokenizer, as a digest that was recorded before prompts had one builder."""
    tokenizer = load_tokenizer(str(ASSETS / "mini/llm"))
    found = []
    for name, where in itertools.product(("mini", "full"), ("each", "around")):
        prompts = dataclasses.replace(load_prompts(name), ensemble_tags=where)
        for explicit, system in itertools.product(([False], [True], [True, False, True]), ("", "listen.\n well ")):
            made = PromptBuilder(tokenizer, prompts, system, explicit)
            clips = [torch.zeros(3 + number, 4) for number in range(len(explicit))]
            for content in ("what?", "\n a <think> b\n"):
                prompts_of_row = (made.with_audio(content, clips), made.text_only(content))
                for segments in (*prompts_of_row, made.with_description(content, "|a kick|")):
                    found.append([each for part in segments for each in ids_of(part)])
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    assert (len(found), digest[:16]) == (144, "216b2441af09cc33")
