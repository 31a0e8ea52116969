"""Bodies of requests: what is taken, and how mistakes are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from src.serving.clip_decoder import ApiError
from src.serving.schema import AssistantMessage, InputAudioPart, SystemMessage, parse_chat, text_of
from tests.serving.sounds import chat, input_audio


def refusal(body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value


def test_a_whole_request() -> None:
    turns = [
        {"role": "developer", "content": "you hear"},
        {"role": "user", "content": [{"type": "text", "text": "first?"}, input_audio(b"abc")]},
        {"role": "assistant", "content": "a kick", "reasoning_content": "hm"},
        {"role": "user", "content": "and then?"},
    ]
    body = {"model": "m", "messages": turns, "stop": ".", "temperature": 1, "stream": True, "max_tokens": 5}
    found = parse_chat(json.dumps({**body, "n": 1, "user": "x", "seed": None, "tools": []}).encode())
    system, user, assistant, last = found.messages
    assert isinstance(system, SystemMessage) and isinstance(assistant, AssistantMessage)
    assert text_of(system.content) == "you hear" and text_of(user.content) == "first?"
    assert isinstance(user.content[1], InputAudioPart) and text_of(last.content) == "and then?"
    assert (found.stop, found.temperature, found.total_tokens, found.seed) == (["."], 1.0, 5, None)


def test_the_new_name_of_max_tokens_counts() -> None:
    body = chat("hi", max_tokens=5, max_completion_tokens=7)
    assert parse_chat(json.dumps(body).encode()).total_tokens == 7


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"max_tokens": "a"}, "max_tokens", "integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 10**30}, "max_tokens", "less than"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"seed": True}, "seed", "integer"),
        ({"stop": ["a", 3]}, "stop[1]", "string"),
        ({"stop": [""]}, "stop[0]", "at least 1"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream_options": {"include_usage": True}}, None, "stream=true"),
        ({"n": 2}, "n", "not supported"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"prompt_embeds": "gASV"}, "prompt_embeds", "not supported"),
        ({"max_token": 2}, "max_token", "did you mean 'max_tokens'"),
        ({"model": 3}, "model", "string"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": [3]}, "messages[0]", "dictionary"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0]", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, None, "last message"),
    ],
)
def test_mistakes_are_told_with_their_place(fields: dict[str, Any], param: str | None, why: str) -> None:
    error = refusal({**chat("hi"), **fields})
    assert error.param == param and why in error.message


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": 3, "format": "wav"}}, ".input_audio.data"),
        ({"type": "input_audio", "input_audio": {"data": "a", "format": "exe"}}, ".input_audio.format"),
        ({"type": "input_audio", "input_audio": "abc"}, ".input_audio"),
        ({"type": "audio_url", "audio_url": "data:"}, ".audio_url"),
        ({"type": "image_url", "image_url": {"url": "x"}}, ""),
        ({"type": "prompt_embeds", "data": "gASV"}, ""),
        ({"type": "text", "text": None}, ".text"),
        (["text"], ""),
    ],
)
def test_mistakes_in_parts(part: Any, param: str) -> None:
    error = refusal({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]})
    assert error.param == f"messages[0].content[1]{param}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": NaN}',
        b'{"seed": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(body).code in ("invalid_json", "unknown_parameter")


def test_a_second_system_turn_is_refused() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
    assert "messages[1]" in refusal({"model": "m", "messages": turns}).message
