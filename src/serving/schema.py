"""Schema of ``POST /v1/chat/completions``.

Field names and meanings are OpenAI's (https://platform.openai.com/docs/api-reference/chat), ``audio_url`` and
``thinking_token_budget`` are vLLM's. Unsupported fields that would change the answer are refused; fields that only
describe the call are accepted and ignored.
"""

from __future__ import annotations

import difflib
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

from src.serving.clip_decoder import ApiError
from src.serving.intake import parse_object

AudioFormat = Literal["wav", "mp3", "flac", "ogg"]
IGNORED = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "verbosity"}
IGNORED |= {"parallel_tool_calls", "reasoning_effort"}
FIXED_VALUES: dict[str, Any] = {
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
"""Known fields that are supported with one value only."""
UNION_TAGS = {"system", "developer", "user", "assistant", "text", "input_audio", "audio_url"}
MAX_MESSAGES, MAX_PARTS, MAX_STOPS = 256, 256, 16


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _refuse_surrogates(text: str) -> str:
    # JSON may escape half of a UTF-16 pair ("\\ud800"; RFC 8259, 8.2); Python keeps it, and encoding it would raise
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("contains half a character (a lone surrogate)")
    return text


ValidText = Annotated[str, AfterValidator(_refuse_surrogates)]


class InputAudio(_Strict):
    """An encoded audio file as base64."""

    data: str
    format: AudioFormat


class Url(_Strict):
    """A ``data:`` URL, or the address of a file on an allowed host."""

    url: str


class TextPart(_Strict):
    """A text."""

    type: Literal["text"]
    text: ValidText


class InputAudioPart(_Strict):
    """A clip in the request body."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrlPart(_Strict):
    """A clip by URL; the middleware writes every clip so, with an identity of its samples as ``uuid``."""

    type: Literal["audio_url"]
    audio_url: Url
    uuid: str | None = None


ClipPart = InputAudioPart | AudioUrlPart
ContentPart = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[TextPart], Field(max_length=MAX_PARTS), BeforeValidator(_as_parts)]
Parts = Annotated[list[ContentPart], Field(max_length=MAX_PARTS), BeforeValidator(_as_parts)]


class SystemMessage(_Strict):
    """The system message, which must be the first."""

    role: Literal["system", "developer"]
    content: Texts
    name: str | None = None


class UserMessage(_Strict):
    """A question, with or without clips."""

    role: Literal["user"]
    content: Parts
    name: str | None = None


class AssistantMessage(_Strict):
    """An earlier answer; its reasoning is not part of later prompts."""

    role: Literal["assistant"]
    content: Texts | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
Stop = Annotated[ValidText, StringConstraints(min_length=1, max_length=256)]
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]


class StreamOptions(_Strict):
    """``include_usage`` adds a last chunk with token counts."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A valid request. ``max_tokens`` bounds reasoning and answer together, as OpenAI's does."""

    model: ValidText
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] = []

    @property
    def total_tokens(self) -> int | None:
        """Bound of reasoning and answer together, from the current field or from its deprecated name."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _check_order(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        late = [place for place, each in enumerate(self.messages) if isinstance(each, SystemMessage) and place]
        if late:
            raise ValueError(f"messages[{late[0]}]: a system message can only be the first")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self


def parse_chat(body: bytes) -> ChatRequest:
    """Parse and validate a body. Raises :class:`ApiError` (400) that names the first invalid field."""
    raw = parse_object(body)
    return validate_chat({name: value for name, value in raw.items() if not _ignored(name, value)})


def validate_chat(fields: dict[str, Any]) -> ChatRequest:
    """Validate the fields of a request. Raises :class:`ApiError` (400) that names the first invalid one."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _first_mistake(error) from None


def text_of(parts: Sequence[ContentPart] | None) -> str:
    """Join the text parts of a message by line ends."""
    return "\n".join(part.text for part in parts or () if isinstance(part, TextPart))


def _ignored(name: str, value: Any) -> bool:
    """Whether to drop a field. Raises :class:`ApiError` if it is unknown or has an unsupported value."""
    if name in ChatRequest.model_fields:
        return value is None  # null counts as not given
    if name in IGNORED:
        return True
    if name in FIXED_VALUES:
        if value is None or value == FIXED_VALUES[name]:
            return True
        raise ApiError(400, f"{name}: not supported by this server; leave it out", "unsupported_parameter", name)
    close = difflib.get_close_matches(name[:64], list(ChatRequest.model_fields), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ApiError(400, f"{name[:64]!r}: unknown field{hint}", "unknown_parameter", name[:64])


def _first_mistake(error: ValidationError) -> ApiError:
    """The first mistake with its place, and the number of the others."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    place, after_index = "", False
    for step in found[0]["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif not (after_index and step in UNION_TAGS):  # the alternative of the union that pydantic tried
            place += ("." if place else "") + str(step)
        after_index = isinstance(step, int)
    message = found[0]["msg"].removeprefix("Value error, ")[:300]
    more = f" (and {len(found) - 1} more mistakes)" if len(found) > 1 else ""
    return ApiError(400, f"{place}: {message}{more}" if place else message, param=place or None)
