"""Requests (prompts of token ids and embeddings), sampling settings, and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Segment = Sequence[int] | Tensor
"""A part of a prompt: token ids, or embeddings ``(tokens, llm_dim)``."""

FinishReason = Literal["stop", "length", "error"]

RowStatus = Literal[
    "ok",
    "missing_text",
    "missing_audio",
    "empty_audio",
    "unreadable_audio",
    "unencodable_audio",
    "bad_prompt",
    "too_long",
    "refused",
    "unavailable",
]
"""Whether a row was answered, or why not; ``refused`` comes from the engine. Stored in shards and data sets.

``unavailable``: an endpoint gave no usable answer in all attempts; a run that is started again asks the row again.
"""


@dataclass(frozen=True)
class RequestError:
    """Why there is no response: its kind, and the reason in words."""

    status: RowStatus
    reason: str


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt: its ``segments`` in order, and a ``key`` that names the result.

    ``seed`` makes a sampled answer repeatable whatever else runs at the same time. A request with ``error`` could not
    be prepared (say, its audio is unreadable); the engine passes the error on as the result. ``options`` are token
    ids of texts that are scored as answers after the response's thoughts. ``messages`` are the conversation for a
    chat endpoint, in place of ``segments``.
    """

    key: str
    segments: tuple[Segment, ...] = ()
    seed: int | None = None
    error: RequestError | None = None
    options: tuple[Sequence[int], ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TokenUsage:
    """Tokens that a server counted: of the prompt, and of the response with its reasoning."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Result:
    """The response to one request.

    ``text`` contains the thoughts (without the ``<think>`` that the prompt ended with), a closing sentence if the
    thinking budget ran out (``budget_hit``), and the answer; no end-of-turn token. ``token_ids`` are its tokens, with
    the closing sentence and the end-of-turn token. ``seconds`` is the time from the submission to the end. ``error``
    is the reason why there is no response, ``status`` its kind. ``option_logprobs`` are the log-probabilities of the
    tokens of each option, ``None`` if they were not asked for or there is no room for an option in the context.
    ``usage`` is what a chat endpoint counted; its results have no ``token_ids``.
    """

    key: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    budget_hit: bool = False
    seconds: float = 0.0
    error: str | None = None
    status: RowStatus = "ok"
    option_logprobs: tuple[tuple[float, ...], ...] | None = None
    usage: TokenUsage | None = None

    @classmethod
    def failed(cls, key: str, error: RequestError) -> Result:
        """The result of a request that was not run."""
        return cls(key, finish_reason="error", error=error.reason, status=error.status)

    @property
    def num_tokens(self) -> int:
        """Number of response tokens."""
        return len(self.token_ids) if self.usage is None else self.usage.completion_tokens


@dataclass(frozen=True)
class Sampling:
    """Sampling settings and bounds of responses.

    ``max_tokens`` bounds a pass. With ``max_thinking_tokens >= 0`` the first pass is bounded by it; a response that
    reaches this bound is continued, by up to ``max_tokens`` more, after ``budget_closing`` if it was still
    thinking. ``max_total_tokens`` bounds all passes together, the closing included. ``temperature``, ``top_p`` and
    ``top_k`` are the model's own (generation config) where ``None``; ``greedy`` overrides them all. With ``streamed``
    the backend reports tokens as they are written, otherwise a pass once, at its end.
    """

    max_tokens: int = 8192
    max_thinking_tokens: int = -1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    greedy: bool = False
    budget_closing: str = "\n</think>\n\n"
    max_total_tokens: int | None = None
    streamed: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected at least 1")

    def overrides(self) -> dict[str, Any]:
        """Those of ``temperature``, ``top_p`` and ``top_k`` that replace the model's own settings."""
        if self.greedy:
            return {"temperature": 0.0}
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {name: value for name, value in given.items() if value is not None}


def prompt_length(segments: Sequence[Segment]) -> int:
    """Number of tokens and embedding rows."""
    return sum(len(segment) for segment in segments)


def validate_prompt(segments: Sequence[Segment], width: int, vocabulary: int, context: int) -> RequestError | None:
    """Why these segments must not reach the engine; ``None`` if they may.

    ``context`` is the most tokens of prompt and response together.
    """
    # vLLM does not survive bad prompts: a wrong width or token id stops the engine, embeddings that are not finite
    # change the results of other requests
    for segment in segments:
        if isinstance(segment, Tensor):
            if segment.ndim != 2 or segment.shape[1] != width or not segment.is_floating_point():
                shape = "x".join(map(str, segment.shape))
                expected = f"expected frames x {width}, floating point"
                return RequestError("bad_prompt", f"embeddings of shape {shape} ({segment.dtype}), {expected}")
            if not bool(torch.isfinite(segment).all()):
                return RequestError("bad_prompt", "embeddings are not finite (NaN or infinity)")
        elif len(segment) and not (min(segment) >= 0 and max(segment) < vocabulary):
            return RequestError("bad_prompt", f"token id outside of the vocabulary of {vocabulary}")
    length = prompt_length(segments)
    if length == 0:
        return RequestError("bad_prompt", "empty prompt")
    if length >= context:
        reason = f"prompt of {length} tokens does not fit the context of {context} (model.max_model_len)"
        return RequestError("too_long", reason)
    return None
