"""Tokens to text as they come."""

from __future__ import annotations

import random

import pytest

from src.common.paths import ASSETS
from src.inference.response_stream import ResponseStream, TextStream, thought_tokens
from src.model.llm import load_tokenizer
from src.prompts.chat import text_ids
from src.prompts.reasoning import THINKING, Reasoning, split_response
from tests.prompts.fakes import CharTokenizer

TEXT = "hm, a < b.\n</think>\n\na kick. <b>\n ünïcode 🥁🎧 \n</b>"


def pieces(writing: ResponseStream, ids: list[int], sizes: list[int]) -> list[tuple[str, str]]:
    found = []
    for size in sizes:
        found += writing.feed(ids[:size])
        ids = ids[size:]
    return [*found, *writing.end(ids)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("real", [False, True])
def test_pieces_add_up_to_the_whole_text(real: bool, seed: int) -> None:
    tokenizer = load_tokenizer(str(ASSETS / "mini/llm")) if real else CharTokenizer()
    ids = text_ids(tokenizer, TEXT)
    rng = random.Random(seed)
    sizes = [1] * len(ids) if seed == 0 else [rng.randint(0, 6) for _ in range(20)]
    writing = ResponseStream(tokenizer, {3}, THINKING)
    found = pieces(writing, ids, sizes)
    split = split_response(tokenizer.decode(ids))
    assert (writing.thoughts, writing.answer) == (split.thoughts, split.answer)
    assert "".join(text for part, text in found if part == "answer") == split.answer
    assert all("\ufffd" not in text for _, text in found)


def test_a_broken_last_character_is_shown_at_the_end() -> None:
    tokenizer = load_tokenizer(str(ASSETS / "mini/llm"))
    ids = text_ids(tokenizer, "a🥁")[:-1]
    stream = TextStream(tokenizer)
    assert "".join(stream.feed([token]) for token in ids) == "a"
    assert stream.feed([], last=True).startswith("\ufffd")


@pytest.mark.parametrize("size", [1, 2, 100])
def test_stop_texts_end_the_answer_and_leave_the_thoughts(size: int) -> None:
    ids = list(map(ord, "END of thoughts</think>one EN two END three STOP"))
    writing = ResponseStream(CharTokenizer(), set(), THINKING, ["STOP", "END"])
    found = pieces(writing, ids, [size] * (len(ids) // size))
    assert writing.stopped and writing.answer == "one EN two " and writing.thoughts == "END of thoughts"
    assert "".join(text for part, text in found if part == "answer") == "one EN two "


def test_a_stop_text_that_is_not_finished_is_shown_at_the_end() -> None:
    writing = ResponseStream(CharTokenizer(), set(), Reasoning(), ["<end>"])
    assert writing.feed(list(map(ord, "a <en"))) == [("answer", "a ")]
    assert writing.end() == [("answer", "<en")] and writing.answer == "a <en" and not writing.stopped


def test_control_tokens_are_no_text() -> None:
    writing = ResponseStream(CharTokenizer(), {3}, Reasoning())
    assert writing.feed([ord("a"), 3]) + writing.end() == [("answer", "a")]


def test_tokens_of_thoughts_are_counted() -> None:
    assert thought_tokens([1, 2, 9, 4], [9]) == 3 and thought_tokens([1, 2], [9]) == 2
    assert thought_tokens([1, 8, 9, 4], [8, 9]) == 3 and thought_tokens([], [9]) == 0
