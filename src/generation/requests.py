"""What goes into an engine and what comes out: prompts of token ids and embeddings, sampling settings, results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
]
"""What became of a row: answered, or why not; ``refused`` is the engine's own doing."""


@dataclass(frozen=True)
class Fault:
    """Why there is no response: the kind, for counting, and the reason in words."""

    status: RowStatus
    reason: str


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt: its ``segments`` in order of time, and a ``key`` that names the result.

    ``seed`` makes a sampled answer repeatable whatever else runs beside it. A request with ``fault`` could not be
    prepared (say, its audio is unreadable); the engine passes it on as the result.
    """

    key: str
    segments: tuple[Segment, ...] = ()
    seed: int | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Result:
    """The response to one request.

    ``text`` holds all that was written: the thoughts (without the ``<think>`` that the prompt ended with), a closing
    sentence if the thinking budget ran out (``budget_hit``), and the answer; no end-of-turn token. ``token_ids`` are
    its tokens, with the closing sentence and the end-of-turn token. ``seconds`` is the time from the engine's taking
    the request to its end. ``error`` is the reason why there is no response, ``status`` its kind.
    """

    key: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    budget_hit: bool = False
    seconds: float = 0.0
    error: str | None = None
    status: RowStatus = "ok"

    @classmethod
    def of_fault(cls, key: str, fault: Fault) -> Result:
        """The result of a request that was not run."""
        return cls(key, finish_reason="error", error=fault.reason, status=fault.status)

    @property
    def num_tokens(self) -> int:
        """Number of response tokens."""
        return len(self.token_ids)


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    ``max_tokens`` bounds a pass. With ``max_thinking_tokens >= 0`` the first pass is bounded by it; a response that
    reaches this bound is continued, by up to ``max_tokens`` more, after ``budget_closing`` if it was still
    thinking. ``max_total_tokens`` bounds all passes together, the closing included. ``temperature``, ``top_p`` and
    ``top_k`` are the model's own (generation config) where ``None``; ``greedy`` overrides them all. ``streamed``
    lets the core report tokens as they are written.
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


def prompt_length(segments: Sequence[Segment]) -> int:
    """Number of tokens and embedding rows."""
    return sum(len(segment) for segment in segments)


def find_fault(segments: Sequence[Segment], width: int, vocabulary: int, context: int) -> Fault | None:
    """Why these segments must not reach the engine, or ``None``.

    Checked here because the engine does not survive it: embeddings that are not finite spoil the next request, a
    wrong width or token id stops the engine. ``context`` is the longest prompt and response together.
    """
    for segment in segments:
        if isinstance(segment, Tensor):
            if segment.ndim != 2 or segment.shape[1] != width or not segment.is_floating_point():
                shape = "x".join(map(str, segment.shape))
                expected = f"expected frames x {width}, floating point"
                return Fault("bad_prompt", f"embeddings of shape {shape} ({segment.dtype}), {expected}")
            if not bool(torch.isfinite(segment).all()):
                return Fault("bad_prompt", "embeddings are not finite (NaN or infinity)")
        elif len(segment) and not (min(segment) >= 0 and max(segment) < vocabulary):
            return Fault("bad_prompt", f"token id outside of the vocabulary of {vocabulary}")
    length = prompt_length(segments)
    if length == 0:
        return Fault("bad_prompt", "empty prompt")
    if length >= context:
        reason = f"prompt of {length} tokens does not fit the context of {context} (model.max_model_len)"
        return Fault("too_long", reason)
    return None
