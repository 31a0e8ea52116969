"""The body of ``POST /v1/chat/completions``: what is taken, and what is refused with a reason.

Field names and meanings are OpenAI's (https://platform.openai.com/docs/api-reference/chat), ``audio_url`` and
``thinking_token_budget`` are vLLM's. Fields that change the answer and cannot be honoured are refused; fields that
only describe the call are taken and ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from src.serving.errors import ApiError

AudioFormat = Literal["wav", "mp3", "flac", "ogg"]
IGNORED = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "verbosity"}
IGNORED |= {"parallel_tool_calls", "reasoning_effort"}
ONLY: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "echo": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "audio": None,
    "prompt_embeds": None,
}
"""Fields that are known and have one value that can be honoured."""
TAGS = {"system", "developer", "user", "assistant", "text", "input_audio", "audio_url"}
MOST_MESSAGES, MOST_PARTS, MOST_STOPS = 256, 256, 16


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _whole_characters(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half a character (a lone surrogate)")
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class InputAudio(_Strict):
    """An encoded file as base64."""

    data: str
    format: AudioFormat


class Url(_Strict):
    """A ``data:`` URL, or the address of a file on a host that the server allows."""

    url: str


class TextPart(_Strict):
    """Text."""

    type: Literal["text"]
    text: Text


class InputAudioPart(_Strict):
    """A clip in the body."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrlPart(_Strict):
    """A clip by its address."""

    type: Literal["audio_url"]
    audio_url: Url


ClipPart = InputAudioPart | AudioUrlPart
Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[TextPart], Field(max_length=MOST_PARTS), BeforeValidator(_as_parts)]
Parts = Annotated[list[Part], Field(max_length=MOST_PARTS), BeforeValidator(_as_parts)]


class SystemMessage(_Strict):
    """The system turn, which is the first."""

    role: Literal["system", "developer"]
    content: Texts
    name: str | None = None


class UserMessage(_Strict):
    """A question, with clips."""

    role: Literal["user"]
    content: Parts
    name: str | None = None


class AssistantMessage(_Strict):
    """An earlier answer; its thoughts are not shown to the model again."""

    role: Literal["assistant"]
    content: Texts | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
Stop = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class StreamOptions(_Strict):
    """``include_usage`` sends a last chunk with the numbers of tokens."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A checked request. ``max_tokens`` bounds thoughts and answer together, as OpenAI's does."""

    model: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS), BeforeValidator(_as_list)] = []

    @property
    def most_tokens(self) -> int | None:
        """Bound of thoughts and answer together, under its new name or its old one."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _turns_in_order(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        late = [place for place, each in enumerate(self.messages) if isinstance(each, SystemMessage) and place]
        if late:
            raise ValueError(f"messages[{late[0]}]: a system message can only be the first")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self


def parse_chat(body: bytes) -> ChatRequest:
    """The request in ``body``. Raises :class:`ApiError` (400) naming what cannot be used."""
    try:
        raw = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", "invalid_json") from None
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}", "invalid_json") from None
    if not isinstance(raw, dict):
        raise ApiError(400, f"the body is {_kind(raw)}, expected an object", "invalid_json")
    return checked({name: value for name, value in raw.items() if not _ignored(name, value)})


def checked(fields: dict[str, Any]) -> ChatRequest:
    """A request of these fields. Raises :class:`ApiError` (400) with the first that cannot be used."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _told(error) from None


def text_of(parts: Sequence[Part] | None) -> str:
    """The text parts of a message, one a line."""
    return "\n".join(part.text for part in parts or () if isinstance(part, TextPart))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _ignored(name: str, value: Any) -> bool:
    """Whether a field is left out; refuses it if it is unknown or asks for what cannot be done."""
    if name in ChatRequest.model_fields:
        return value is None  # as if it was not given
    if name in IGNORED:
        return True
    if name in ONLY:
        if value is None or value == ONLY[name]:
            return True
        raise ApiError(400, f"{name}: not supported by this server; leave it out", "unsupported_parameter", name)
    close = difflib.get_close_matches(name[:64], list(ChatRequest.model_fields), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ApiError(400, f"{name[:64]!r}: unknown field{hint}", "unknown_parameter", name[:64])


def _told(error: ValidationError) -> ApiError:
    """The first mistake with its place, and how many there are."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    place, after_index = "", False
    for step in found[0]["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif not (after_index and step in TAGS):  # which alternative pydantic tried
            place += ("." if place else "") + str(step)
        after_index = isinstance(step, int)
    message = found[0]["msg"].removeprefix("Value error, ")[:300]
    more = f" (and {len(found) - 1} more mistakes)" if len(found) > 1 else ""
    return ApiError(400, f"{place}: {message}{more}" if place else message, param=place or None)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
