"""Runs requests on a backend: submits them, continues them at their thinking budget, collects or aborts them.

A request that reaches its thinking budget is submitted again with its tokens so far (most of it comes from vLLM's
prefix cache), while all others go on: no request waits for a second pass of the others.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from src.common.log import get_logger
from src.common.seeds import row_seed
from src.inference.types import (
    FinishReason,
    Request,
    RequestError,
    Result,
    Sampling,
    Segment,
    prompt_length,
    validate_prompt,
)
from src.prompts.chat import following_ids
from src.prompts.find_reasoning import find_reasoning, hidden_tokens

log = get_logger(__name__)
OnTokens = Callable[[list[int]], None]


@dataclass(frozen=True)
class StepOutput:
    """New tokens of a submitted prompt since its last report; ``finish_reason`` ``None``: it goes on.

    Only prompts with ``Sampling.streamed`` must report before their end. With the finish reason "error", ``error``
    says why there is no response. ``logprobs`` are those of a scored prompt.
    """

    key: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    error: str | None = None
    logprobs: tuple[float, ...] | None = None


class Backend(Protocol):
    """Decodes tokens: vLLM, a vLLM server, transformers.

    ``width`` is that of its embeddings, ``vocabulary`` the number of its token ids, ``context`` the most tokens of
    prompt and response together; ``shares_cores``: it computes in this process.
    """

    shares_cores: bool
    width: int
    vocabulary: int
    context: int

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Submit a prompt under a unique key."""

    def score(self, key: str, segments: Sequence[Segment], target_ids: Sequence[int]) -> None:
        """Submit a prompt and a given response; the only report has the log-probability of each of its tokens."""

    def step(self) -> list[StepOutput]:
        """Decode one more token of the submitted prompts; return those that have finished or report tokens."""

    def abort(self, keys: Sequence[str]) -> None:
        """Drop submitted prompts."""

    def close(self) -> None:
        """Free the memory; unusable afterwards."""


@dataclass
class _Running:
    request: Request
    sampling: Sampling
    on_tokens: OnTokens | None
    started: float
    tokens: list[int] = field(default_factory=list)
    passes: int = 0
    budget_hit: bool = False
    finish_reason: FinishReason = "stop"
    option_logprobs: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def write(self, tokens: list[int]) -> None:
        """Append to the response."""
        self.tokens += tokens
        if self.on_tokens is not None and tokens:
            self.on_tokens(tokens)


class Scheduler:
    """Requests that run on a backend. Not thread-safe: one thread submits, steps and aborts.

    Attributes:
        hidden: control tokens that are left out of texts.
        reasoning: how the language model reasons.
    """

    def __init__(self, backend: Backend, tokenizer: Any) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.hidden = hidden_tokens(tokenizer)
        self.reasoning = find_reasoning(tokenizer)
        self._running: dict[str, _Running] = {}
        self._options: dict[str, int] = {}
        """Keys of prompts that score an option: number of the option."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._running)

    def submit(self, request: Request, sampling: Sampling, on_tokens: OnTokens | None = None) -> Result | None:
        """Start a request; returns a result if it cannot be run.

        ``on_tokens`` is called with new tokens of the response, from within :meth:`step` and this call.
        """
        backend = self.backend
        error = request.error or validate_prompt(request.segments, backend.width, backend.vocabulary, backend.context)
        if error is not None:
            return Result.failed(request.key, error)
        if on_tokens is not None:
            sampling = replace(sampling, streamed=True)
        state = _Running(request, sampling, on_tokens, time.monotonic())
        budget = sampling.max_thinking_tokens
        try:
            if budget == 0:
                closing = self._closing(state)
                state.budget_hit = closing is not None
                state.write(closing or [])
            self._submit(state, budget if budget > 0 else sampling.max_tokens)
        except Exception as raised:  # noqa: BLE001 - one prompt that is refused must not end the others
            log.debug("request %s was refused", request.key, exc_info=True)
            return Result.failed(request.key, RequestError("refused", f"refused by the engine: {raised}"))
        return None

    def step(self) -> list[Result]:
        """One step of the backend; returns the results of the requests that have finished."""
        results = []
        for output in self.backend.step():
            state = self._running.get(output.key)
            if state is None:
                continue  # aborted
            state.write(output.token_ids)
            if output.finish_reason is None:
                continue
            del self._running[output.key]
            option = self._options.pop(output.key, None)
            if option is not None:
                state.option_logprobs[option] = output.logprobs or ()
            if output.error is not None:
                self.abort(state.request.key)
                results.append(Result.failed(state.request.key, RequestError("refused", output.error)))
            elif option is not None:
                if len(state.option_logprobs) == len(state.request.options):
                    results.append(self._result(state))
            elif not self._continue(state, output.finish_reason):
                state.finish_reason = output.finish_reason
                if not self._score_options(state):
                    results.append(self._result(state))
        return results

    def _result(self, state: _Running) -> Result:
        scores = state.option_logprobs
        return Result(
            key=state.request.key,
            text=self.text(state.tokens),
            token_ids=tuple(state.tokens),
            finish_reason=state.finish_reason,
            budget_hit=state.budget_hit,
            seconds=round(time.monotonic() - state.started, 3),
            option_logprobs=tuple(scores[number] for number in range(len(scores))) if scores else None,
        )

    def abort(self, key: str) -> None:
        """Drop the request of this key, if it runs."""
        self._drop([own for own, state in self._running.items() if state.request.key == key])

    def clear(self) -> None:
        """Drop all requests."""
        self._drop(list(self._running))

    def text(self, tokens: Sequence[int]) -> str:
        """Text of a response's tokens: without control tokens, with the think tags."""
        shown = [token for token in tokens if token not in self.hidden]
        return self.tokenizer.decode(shown, skip_special_tokens=False) if shown else ""

    def _drop(self, keys: list[str]) -> None:
        for key in keys:
            del self._running[key]
            self._options.pop(key, None)
        if keys:
            self.backend.abort(keys)

    def _continue(self, state: _Running, reason: FinishReason) -> bool:
        """Submit a second pass if the first one was cut at the thinking budget and there is room for it."""
        if reason != "length" or state.passes != 1 or state.sampling.max_thinking_tokens <= 0:
            return False
        closing = self._closing(state)
        more = len(closing or [])
        length = prompt_length(state.request.segments) + len(state.tokens) + more
        if length >= self.backend.context or _tokens_left(state, more) < 1:
            return False
        state.budget_hit = closing is not None
        state.write(closing or [])
        self._submit(state, state.sampling.max_tokens)
        return True

    def _score_options(self, state: _Running) -> bool:
        """Submit the request's options as answers behind the response's thoughts; False without options or room.

        A response that ends inside its thoughts has them closed as at the end of a thinking budget.
        """
        options = state.request.options
        thoughts = self._thoughts(state) if options else []
        segments = (*state.request.segments, thoughts) if thoughts else state.request.segments
        room = self.backend.context - prompt_length(segments) - 1
        if not options or not all(options) or max(map(len, options)) > room:
            return False
        for number, option in enumerate(options):
            self._serial += 1
            key = f"{self._serial}:{state.request.key}"
            self.backend.score(key, segments, option)
            self._options[key], self._running[key] = number, state
        return True

    def _thoughts(self, state: _Running) -> list[int]:
        """Tokens of the response up to where its answer begins; none for a model that does not think."""
        written = list(state.tokens)
        while written and written[-1] in self.hidden:  # the end of the turn
            written.pop()
        closing = self._closing(state)
        if closing is not None:
            return written + closing
        mark = self.reasoning.mark_before_answer(self.text(written))
        if not mark:
            return []
        end = bisect_left(range(len(written)), True, key=lambda n: mark in self.text(written[:n]))
        while end < len(written) and not self.text(written[end : end + 1]).strip():
            end += 1
        return written[:end]

    def _closing(self, state: _Running) -> list[int] | None:
        """Tokens that end the thoughts; ``None`` after they have ended, or if the model does not think."""
        closing = self.reasoning.close(self.text(state.tokens), state.sampling.budget_closing)
        return None if closing is None else following_ids(self.tokenizer, closing)

    def _submit(self, state: _Running, max_tokens: int) -> None:
        """Submit the prompt with the response so far."""
        request = state.request
        segments = (*request.segments, state.tokens) if state.tokens else request.segments
        room = min(self.backend.context - prompt_length(segments), max(1, _tokens_left(state)))
        seed = request.seed
        if seed is not None and state.passes:
            # vLLM would repeat the draws of the first pass with its seed: they count from each submission
            seed = row_seed(seed, f"pass {state.passes}")
        self._serial += 1
        key = f"{self._serial}:{request.key}"
        self.backend.add(key, segments, state.sampling, min(max_tokens, room), seed)
        state.passes += 1
        self._running[key] = state


def _tokens_left(state: _Running, more: int = 0) -> int:
    """Remaining token budget after ``more`` further tokens."""
    most = state.sampling.max_total_tokens
    return 2**31 if most is None else most - len(state.tokens) - more
