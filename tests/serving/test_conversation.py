"""Conversations to prompts: one clip in one turn as offline, several clips, several turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.paths import ASSETS
from src.inference.prompt_builder import PromptBuilder
from src.model.llm import load_tokenizer
from src.prompts import load_prompts
from src.serving.conversation import Conversations, clip_parts
from src.serving.schema import ChatRequest
from tests.generation.fakes import shown
from tests.prompts.fakes import CharTokenizer
from tests.serving.sounds import chat, input_audio

PROMPTS = load_prompts("mini")
CLIP = input_audio(b"abc")


def tokenizers() -> list[Any]:
    return [CharTokenizer(), load_tokenizer(str(ASSETS / "mini/llm"))]


def flat(segments: Any) -> list[Any]:
    """Ids, and embeddings as lists of rows, whatever the stretches are."""
    return [
        item for segment in segments for item in (segment.tolist() if isinstance(segment, Tensor) else list(segment))
    ]


@pytest.mark.parametrize("explicit", [[False], [True], [False, False], [True, False, True]])
@pytest.mark.parametrize("which", [0, 1])
def test_one_clip_in_one_turn_is_the_offline_prompt(which: int, explicit: list[bool]) -> None:
    tokenizer = tokenizers()[which]
    heard = [torch.randn(3 + number, 4) for number in range(len(explicit))]
    question = "which sound comes first?\n and  then? </think> "
    expected = PromptBuilder(tokenizer, PROMPTS, PROMPTS.generation_system, explicit).with_audio(question, heard)
    conversations = Conversations(tokenizer, PROMPTS, explicit)
    for parts in ([CLIP, question], [question, CLIP]):  # it is heard first wherever it stands
        asked = ChatRequest.model_validate(chat(*parts))
        assert flat(conversations.segments(asked.messages, [heard])) == flat(expected)


@pytest.mark.parametrize("which", [0, 1])
def test_text_alone_is_the_offline_prompt(which: int) -> None:
    tokenizer = tokenizers()[which]
    expected = PromptBuilder(tokenizer, PROMPTS, PROMPTS.generation_system).text_only("hello")
    asked = ChatRequest.model_validate(chat("hello"))
    assert flat(Conversations(tokenizer, PROMPTS, [False]).segments(asked.messages, [])) == flat(expected)


def test_several_clips_stand_where_they_are_written() -> None:
    asked = ChatRequest.model_validate(chat("one:", CLIP, "two:", "three:", CLIP, "which?"))
    asked.messages[0].name = "me"
    segments = Conversations(CharTokenizer(), PROMPTS, [False]).segments(
        asked.messages, [[torch.zeros(2, 4)], [torch.zeros(5, 4)]]
    )
    assert "user\none:{2}two:\nthree:{5}which?<|im_end|>" in shown(segments)


def test_turns_keep_their_clips_and_forget_their_thoughts() -> None:
    turns = [
        {"role": "system", "content": "hear well"},
        {"role": "user", "content": [{"type": "text", "text": "first?"}, CLIP]},
        {"role": "assistant", "content": "a kick", "reasoning_content": "hm"},
        {"role": "user", "content": [CLIP, {"type": "text", "text": "and this?"}]},
    ]
    asked = ChatRequest.model_validate({"model": "m", "messages": turns})
    assert [where for where, _ in clip_parts(asked)] == ["messages[1].content[1]", "messages[3].content[0]"]
    heard = [[torch.zeros(2, 4)], [torch.zeros(5, 4)]]
    assert shown(Conversations(CharTokenizer(), PROMPTS, [False]).segments(asked.messages, heard)) == (
        "<|im_start|>system\nhear well<|im_end|>\n<|im_start|>user\n{2}first?<|im_end|>\n"
        "<|im_start|>assistant\na kick<|im_end|>\n<|im_start|>user\n{5}and this?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


def test_an_empty_system_text_leaves_the_turn_out() -> None:
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
    asked = ChatRequest.model_validate({"model": "m", "messages": turns})
    assert shown(Conversations(CharTokenizer(), PROMPTS, [False]).segments(asked.messages, [])).startswith(
        "<|im_start|>user\nhi"
    )


def test_marks_in_the_text_of_a_client_are_text() -> None:
    asked = ChatRequest.model_validate(chat("\ue0000\ue001 \ue000/\ue001", CLIP))
    segments = Conversations(CharTokenizer(), PROMPTS, [False]).segments(asked.messages, [[torch.zeros(2, 4)]])
    assert "user\n{2}\ue0000\ue001 \ue000/\ue001<|im_end|>" in shown(segments)
