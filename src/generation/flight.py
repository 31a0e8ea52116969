"""Requests in flight over a core: submitted, continued at the thinking budget, finished, dropped.

A request whose thinking budget runs out is continued by itself (its prompt and the tokens so far are submitted again,
most of it from the prefix cache), while all others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from src.common.log import get_logger
from src.common.seeds import row_seed
from src.generation.requests import Fault, FinishReason, Request, Result, Sampling, Segment, find_fault, prompt_length
from src.prompts.chat import opens_thoughts, text_ids
from src.prompts.thoughts import CLOSE_THOUGHTS, OPEN_THOUGHTS

log = get_logger(__name__)
OnTokens = Callable[[list[int]], None]


@dataclass(frozen=True)
class Pass:
    """Tokens that a pass of the core wrote since its last report, and how it ended; ``None``: it goes on.

    Passes report once, at their end, but for those with ``Sampling.streamed``. ``error`` says why there is no
    response, with the finish reason "error".
    """

    key: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    error: str | None = None


class Core(Protocol):
    """What decodes tokens: vLLM, or a script in tests."""

    width: int
    vocabulary: int
    context: int

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Submit a prompt under a unique key."""

    def step(self) -> list[Pass]:
        """Decode one more token of everything submitted; return what has finished by it, or is reported on."""

    def abort(self, keys: Sequence[str]) -> None:
        """Drop submitted prompts."""

    def close(self) -> None:
        """Give memory back; unusable afterwards."""


@dataclass
class _Running:
    request: Request
    sampling: Sampling
    on_tokens: OnTokens | None
    started: float
    tokens: list[int] = field(default_factory=list)
    passes: int = 0
    budget_hit: bool = False


class Flight:
    """What is in flight; not thread-safe: one thread submits, steps and aborts."""

    def __init__(self, core: Core, tokenizer: Any) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self.hidden = hidden_tokens(tokenizer)
        self._thinks = opens_thoughts(tokenizer)
        self._running: dict[str, _Running] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._running)

    def submit(self, request: Request, sampling: Sampling, on_tokens: OnTokens | None = None) -> Result | None:
        """Start a request; a result if it cannot be run.

        ``on_tokens`` gets the tokens of the response as they are written, from within :meth:`step` and this call.
        """
        core = self.core
        fault = request.fault or find_fault(request.segments, core.width, core.vocabulary, core.context)
        if fault is not None:
            return Result.of_fault(request.key, fault)
        if on_tokens is not None:
            sampling = replace(sampling, streamed=True)
        state = _Running(request, sampling, on_tokens, time.monotonic())
        try:
            self._running[self._start(state)] = state
        except Exception as error:  # noqa: BLE001 - one prompt that is refused must not end the others
            log.debug("request %s was refused", request.key, exc_info=True)
            return Result.of_fault(request.key, Fault("refused", f"refused by the engine: {error}"))
        return None

    def step(self) -> list[Result]:
        """One step of the core; the results of what has finished by it."""
        results = []
        for done in self.core.step():
            state = self._running.get(done.key)
            if state is None:
                continue
            self._write(state, done.token_ids)
            if done.finish_reason is None:
                continue
            del self._running[done.key]
            if done.error is not None:
                results.append(Result.of_fault(state.request.key, Fault("refused", done.error)))
                continue
            key = self._continue(state, done.finish_reason)
            if key is None:
                results.append(self._result(state, done.finish_reason))
            else:
                self._running[key] = state
        return results

    def abort(self, key: str) -> None:
        """Drop the request of this key, if it is in flight."""
        self._drop([own for own, state in self._running.items() if state.request.key == key])

    def clear(self) -> None:
        """Drop everything."""
        self._drop(list(self._running))

    def text(self, tokens: Sequence[int]) -> str:
        """Text of a response's tokens: without control tokens, with the think tags."""
        shown = [token for token in tokens if token not in self.hidden]
        return self.tokenizer.decode(shown, skip_special_tokens=False) if shown else ""

    def _drop(self, keys: list[str]) -> None:
        for key in keys:
            del self._running[key]
        if keys:
            self.core.abort(keys)

    def _write(self, state: _Running, tokens: list[int]) -> None:
        state.tokens += tokens
        if state.on_tokens is not None and tokens:
            state.on_tokens(tokens)

    def _start(self, state: _Running) -> str:
        """First pass; with a budget of 0 the thoughts are closed at once."""
        budget = state.sampling.max_thinking_tokens
        if budget < 0:
            return self._submit(state, state.sampling.max_tokens)
        if budget > 0:
            return self._submit(state, budget)
        self._write(state, self._closing(state))
        return self._submit(state, state.sampling.max_tokens)

    def _continue(self, state: _Running, reason: FinishReason) -> str | None:
        """Submit a second pass if the first one ended at the thinking budget; return its key."""
        first_of_two = state.passes == 1 and state.sampling.max_thinking_tokens > 0
        if reason != "length" or not first_of_two:
            return None
        hit, closing = state.budget_hit, self._closing(state)
        length = len(state.tokens) + len(closing)
        if prompt_length(state.request.segments) + length >= self.core.context or _left(state, len(closing)) < 1:
            state.budget_hit = hit
            return None
        self._write(state, closing)
        return self._submit(state, state.sampling.max_tokens)

    def _closing(self, state: _Running) -> list[int]:
        """Tokens that end the thoughts; none if they are ended, or there are none."""
        text = self.text(state.tokens)
        thinking = CLOSE_THOUGHTS not in text and (self._thinks or text.lstrip().startswith(OPEN_THOUGHTS))
        state.budget_hit = state.budget_hit or thinking
        return text_ids(self.tokenizer, state.sampling.budget_closing) if thinking else []

    def _submit(self, state: _Running, max_tokens: int) -> str:
        request = state.request
        segments = (*request.segments, state.tokens) if state.tokens else request.segments
        room = min(self.core.context - prompt_length(segments), max(1, _left(state)))
        seed = request.seed
        if seed is not None and state.passes:  # a pass must not repeat the draws of the one before
            seed = row_seed(seed, f"pass {state.passes}")
        self._serial += 1
        key = f"{self._serial}:{request.key}"
        self.core.add(key, segments, state.sampling, min(max_tokens, room), seed)
        state.passes += 1
        return key

    def _result(self, state: _Running, finish_reason: FinishReason) -> Result:
        return Result(
            key=state.request.key,
            text=self.text(state.tokens),
            token_ids=tuple(state.tokens),
            finish_reason=finish_reason,
            budget_hit=state.budget_hit,
            seconds=round(time.monotonic() - state.started, 3),
        )


def hidden_tokens(tokenizer: Any) -> set[int]:
    """Control tokens that are no part of a response's text; the think tags are."""
    tags = [text_ids(tokenizer, tag) for tag in (OPEN_THOUGHTS, CLOSE_THOUGHTS)]
    special = set(getattr(tokenizer, "all_special_ids", ()))
    return special - {ids[0] for ids in tags if len(ids) == 1}


def _left(state: _Running, more: int = 0) -> int:
    """Tokens that may still be written once ``more`` are."""
    most = state.sampling.max_total_tokens
    return 2**31 if most is None else most - len(state.tokens) - more
