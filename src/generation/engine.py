"""The step loop: requests enter as soon as there is room, results leave as they finish, in any order.

Nothing waits for a batch. A request whose thinking budget runs out is continued by itself (its prompt and the tokens
so far are submitted again, most of it from the prefix cache), while all others go on.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from src.common.log import get_logger
from src.common.seeds import row_seed
from src.generation.prefetch import Prefetcher
from src.generation.requests import Fault, FinishReason, Request, Result, Sampling, Segment, find_fault, prompt_length
from src.prompts.chat import opens_thoughts, text_ids
from src.prompts.thoughts import CLOSE_THOUGHTS, OPEN_THOUGHTS

log = get_logger(__name__)


@dataclass(frozen=True)
class Pass:
    """A finished pass of the core: the tokens it wrote and whether it stopped by itself."""

    key: str
    token_ids: list[int]
    finish_reason: FinishReason


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
        """Decode one more token of everything submitted; return what has finished by it."""

    def abort(self, keys: Sequence[str]) -> None:
        """Drop submitted prompts."""

    def close(self) -> None:
        """Give memory back; unusable afterwards."""


@dataclass
class _Running:
    request: Request
    started: float
    tokens: list[int] = field(default_factory=list)
    passes: int = 0
    budget_hit: bool = False


class Engine:
    """Runs requests through a core.

    ``max_in_flight`` prompts are submitted at a time; some more of them than the core decodes at once keep it busy.
    ``ahead`` requests are prepared beyond these.
    """

    def __init__(self, core: Core, tokenizer: Any, max_in_flight: int = 64, ahead: int = 32) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self._max_in_flight = max_in_flight
        self._ahead = ahead
        self._thinks = opens_thoughts(tokenizer)
        close = text_ids(tokenizer, CLOSE_THOUGHTS)
        special = set(getattr(tokenizer, "all_special_ids", ()))
        self._hidden = special - set(close if len(close) == 1 else ())
        self._serial = 0

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Generator[Result, None, None]:
        """Results in the order in which they finish, one for each request.

        ``requests`` is iterated in another thread, so that preparing (encoding audio) and decoding overlap. A
        request that cannot be run gives a result with ``error``. Leaving the iteration early drops what is in flight.
        """
        feed = Prefetcher(requests, self._ahead)
        running: dict[str, _Running] = {}
        try:
            while not feed.ended or running:
                yield from self._admit(feed, running, sampling)
                if not running:
                    continue
                for done in self.core.step():
                    state = running.pop(done.key, None)
                    if state is None:
                        continue
                    key = self._continue(state, done, sampling)
                    if key is None:
                        yield self._result(state, done.finish_reason)
                    else:
                        running[key] = state
        finally:
            feed.close()
            if running:
                self.core.abort(list(running))

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time, submitted or prepared."""
        return self._max_in_flight + self._ahead

    def close(self) -> None:
        """Close the core; the engine cannot be used afterwards."""
        self.core.close()

    def _admit(self, feed: Prefetcher[Request], running: dict[str, _Running], sampling: Sampling) -> Iterator[Result]:
        """Submit what is ready while there is room; wait for a request only if there is nothing else to do."""
        while len(running) < self._max_in_flight:
            request = feed.take(wait=not running)
            if request is None:
                return
            fault = request.fault or find_fault(
                request.segments, self.core.width, self.core.vocabulary, self.core.context
            )
            if fault is not None:
                yield Result.of_fault(request.key, fault)
                continue
            state = _Running(request, time.monotonic())
            try:
                running[self._start(state, sampling)] = state
            except Exception as error:  # noqa: BLE001 - one prompt that is refused must not end the run
                log.debug("request %s was refused", request.key, exc_info=True)
                yield Result.of_fault(request.key, Fault("refused", f"refused by the engine: {error}"))

    def _start(self, state: _Running, sampling: Sampling) -> str:
        """First pass; with a budget of 0 the thoughts are closed at once."""
        if sampling.max_thinking_tokens < 0:
            return self._submit(state, sampling, sampling.max_tokens)
        if sampling.max_thinking_tokens > 0:
            return self._submit(state, sampling, sampling.max_thinking_tokens)
        self._close_thoughts(state, sampling)
        return self._submit(state, sampling, sampling.max_tokens)

    def _continue(self, state: _Running, done: Pass, sampling: Sampling) -> str | None:
        """Submit a second pass if the first one ended at the thinking budget; return its key."""
        state.tokens += done.token_ids
        first_of_two = state.passes == 1 and sampling.max_thinking_tokens > 0
        if done.finish_reason != "length" or not first_of_two:
            return None
        before = len(state.tokens), state.budget_hit
        self._close_thoughts(state, sampling)
        if prompt_length(state.request.segments) + len(state.tokens) >= self.core.context:
            del state.tokens[before[0] :]
            state.budget_hit = before[1]
            return None
        return self._submit(state, sampling, sampling.max_tokens)

    def _close_thoughts(self, state: _Running, sampling: Sampling) -> None:
        text = self._text(state.tokens)
        thinking = CLOSE_THOUGHTS not in text and (self._thinks or text.lstrip().startswith(OPEN_THOUGHTS))
        if thinking:
            state.tokens += text_ids(self.tokenizer, sampling.budget_closing)
            state.budget_hit = True

    def _submit(self, state: _Running, sampling: Sampling, max_tokens: int) -> str:
        request = state.request
        segments = (*request.segments, state.tokens) if state.tokens else request.segments
        room = self.core.context - prompt_length(segments)
        seed = request.seed
        if seed is not None and state.passes:  # a pass must not repeat the draws of the one before
            seed = row_seed(seed, f"pass {state.passes}")
        self._serial += 1
        key = f"{self._serial}:{request.key}"
        self.core.add(key, segments, sampling, min(max_tokens, room), seed)
        state.passes += 1
        return key

    def _result(self, state: _Running, finish_reason: FinishReason) -> Result:
        return Result(
            key=state.request.key,
            text=self._text(state.tokens),
            token_ids=tuple(state.tokens),
            finish_reason=finish_reason,
            budget_hit=state.budget_hit,
            seconds=round(time.monotonic() - state.started, 3),
        )

    def _text(self, tokens: list[int]) -> str:
        shown = [token for token in tokens if token not in self._hidden]
        return self.tokenizer.decode(shown, skip_special_tokens=False) if shown else ""
