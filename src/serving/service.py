"""One request from its checked body to the pieces of its answer; the page and the HTTP routes call this alone."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from src.audio.budget import Allowance
from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.generation.engine import Engine
from src.generation.flight import hidden_tokens
from src.generation.requests import Request, Result, Sampling, Segment, find_fault, prompt_length
from src.prompts import Prompts
from src.prompts.chat import opens_thoughts, text_ids
from src.prompts.parts import Part
from src.prompts.thoughts import CLOSE_THOUGHTS
from src.serving.bridge import Bridge, Ticket
from src.serving.clips import read_clip
from src.serving.config import ServeConfig
from src.serving.conversation import Conversations, clip_parts
from src.serving.errors import ApiError
from src.serving.listener import Listener
from src.serving.metrics import Metrics
from src.serving.remote_clips import fetched
from src.serving.schema import ChatRequest, TextPart
from src.serving.writing import Writing, thought_tokens

CHARACTERS_A_TOKEN = 64
"""More characters than these for each token of the context cannot fit, and are not even tokenised."""
CLIENT_FAULTS = {"too_long": "context_length_exceeded", "bad_prompt": "bad_audio", "unencodable_audio": "bad_audio"}


@dataclass(frozen=True)
class Delta:
    """A piece of a response."""

    part: Part
    text: str


@dataclass(frozen=True)
class Finished:
    """The whole response; ``reasoning_tokens`` are among ``completion_tokens``."""

    thoughts: str
    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    budget_hit: bool


@dataclass(frozen=True)
class Prepared:
    """A request whose clips have been heard."""

    request: Request
    sampling: Sampling
    stops: tuple[str, ...]
    began: float


class Service:
    """Models that answer. ``ears`` and ``prompts`` are by served name, the default model first; made on an event
    loop."""

    def __init__(
        self,
        engine: Engine,
        ears: Mapping[str, Any],
        prompts: Mapping[str, Prompts],
        config: ServeConfig,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.limits = config.limits
        self.models = list(ears)
        self.prompts = prompts
        self._engine, self._config = engine, config
        tokenizer = engine.tokenizer
        self._conversations = {
            name: Conversations(tokenizer, prompts[name], each.explicit_tags) for name, each in ears.items()
        }
        self._hidden, self._inside = hidden_tokens(tokenizer), opens_thoughts(tokenizer)
        self._close_ids = text_ids(tokenizer, CLOSE_THOUGHTS)
        self._listener = Listener(ears, config.batch_size, on_batch=metrics.batches.observe)
        self._decoders = ThreadPoolExecutor(self.limits.decoders, "decoder")
        self._texts = ThreadPoolExecutor(1, "texts")
        self._bridge = Bridge(engine, self._on_step)
        self._numbers = itertools.count()
        self._admitted = 0
        self._durations: deque[float] = deque([1.0], maxlen=64)

    @property
    def admitted(self) -> int:
        """Requests that are worked on."""
        return self._admitted

    @property
    def failure(self) -> str | None:
        """Why nothing can be answered any more."""
        return self._bridge.failure or self._listener.failure

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one request. Raises :class:`ApiError` (429) if all are taken, with the time to come back."""
        if self._admitted >= self.limits.concurrent:
            wait = min(60, math.ceil(sum(self._durations) / len(self._durations) / 2))
            reason = f"{self.limits.concurrent} requests are being answered; try again in {wait} s"
            raise ApiError(429, reason, "too_many_requests", headers={"Retry-After": str(wait)})
        self._admitted += 1
        self.metrics.admitted.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= 1
            self.metrics.admitted.set(self._admitted)

    async def prepare(self, chat: ChatRequest) -> Prepared:
        """Decode and encode the clips and write the prompt.

        Raises :class:`ApiError` for a model that is not served, for clips that cannot be used, and for a prompt that
        does not fit the context.
        """
        began = time.monotonic()
        if self.failure is not None:
            raise ApiError(503, self.failure, "engine_failed")
        if chat.model not in self._conversations:
            known = ", ".join(self.models)
            raise ApiError(404, f"no model {chat.model[:100]!r}; known: {known}", "model_not_found", "model")
        self._check_sizes(chat)
        clips = await self._decode(chat)
        self.metrics.audio_seconds.inc(sum(clip.duration for clip in clips))
        futures = [self._listener.hear(chat.model, clip) for clip in clips]
        try:
            heard = [await asyncio.wrap_future(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # without effect on what is done
        segments = await self._run(self._texts, self._write, chat, heard)
        self.metrics.prepared.observe(time.monotonic() - began)
        seed = self._config.model.seed if chat.seed is None else chat.seed
        request = Request(f"chat-{next(self._numbers)}", segments, seed)
        return Prepared(request, self._sampling(chat), tuple(chat.stop), began)

    async def answer(self, prepared: Prepared, streamed: bool) -> AsyncGenerator[Delta | Finished, None]:
        """Pieces of the response as they are written, if it is streamed, and at last all of it.

        Leaving the iteration early drops the request. Raises :class:`ApiError` if the engine fails.
        """
        writing = Writing(self._engine.tokenizer, self._hidden, self._inside, prepared.stops)
        ticket = self._bridge.submit(prepared.request, prepared.sampling, streamed or bool(prepared.stops))
        ids: list[int] = []
        result: Result | None = None
        try:
            while result is None and not writing.stopped:
                event = await ticket.events.get()
                if isinstance(event, Result):
                    result = event
                    pieces = writing.end(self._rest(event, ids))
                    ids = list(event.token_ids)
                else:
                    pieces = writing.feed(event)
                    ids += event
                for part, text in pieces:
                    self._first_text(prepared, writing)
                    yield Delta(part, text)
        finally:
            if result is None:
                self._bridge.abort(ticket)
        yield self._finished(prepared, ticket, writing, ids, result)

    async def close(self) -> None:
        """Finish what runs, and end the threads; the engine stays open."""
        await self._bridge.close()
        self._listener.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._texts.shutdown(wait=False, cancel_futures=True)

    def _check_sizes(self, chat: ChatRequest) -> None:
        parts = [part for message in chat.messages for part in message.content or ()]
        clips = sum(not isinstance(part, TextPart) for part in parts)
        if clips > self.limits.clips:
            reason = f"{clips} clips in one request, this server takes up to {self.limits.clips}"
            raise ApiError(400, reason, "too_many_clips", "messages")
        characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        context = self._engine.core.context
        if characters > CHARACTERS_A_TOKEN * context:
            reason = f"{characters} characters of text do not fit the context of {context} tokens"
            raise ApiError(400, reason, "context_length_exceeded", "messages")

    async def _decode(self, chat: ChatRequest) -> list[Waveform]:
        placed = clip_parts(chat)
        parts = [(where, await fetched(part, self.limits, where)) for where, part in placed]
        together = Allowance(self.limits.request_samples)
        tasks = [self._run(self._decoders, read_clip, part, self.limits, where, together) for where, part in parts]
        return list(await asyncio.gather(*tasks))

    def _write(self, chat: ChatRequest, heard: list[Any]) -> tuple[Segment, ...]:
        try:
            segments = self._conversations[chat.model].segments(chat.messages, heard)
        except UserError as error:  # some templates take no conversation that does not alternate, for example
            raise ApiError(400, str(error), "bad_conversation", "messages") from error
        core = self._engine.core
        fault = find_fault(segments, core.width, core.vocabulary, core.context)
        if fault is not None:
            raise ApiError(400, fault.reason, CLIENT_FAULTS[fault.status], "messages")
        return segments

    def _sampling(self, chat: ChatRequest) -> Sampling:
        model, budget = self._config.model, chat.thinking_token_budget
        return Sampling(
            max_tokens=model.max_tokens,
            max_thinking_tokens=model.max_thinking_tokens if budget is None else budget,
            temperature=chat.temperature,
            top_p=chat.top_p,
            top_k=chat.top_k,
            greedy=self._config.greedy if chat.temperature is None else chat.temperature == 0,
            budget_closing=self.prompts[chat.model].budget_closing,
            max_total_tokens=chat.most_tokens,
        )

    def _rest(self, result: Result, ids: list[int]) -> list[int]:
        """The tokens of a result that were not told before it. Raises :class:`ApiError` if it is none."""
        if result.error is not None:
            if result.status in CLIENT_FAULTS:
                raise ApiError(400, result.error, CLIENT_FAULTS[result.status], "messages")
            raise ApiError(502 if self._config.llm_url else 500, result.error, "engine_failed")
        return list(result.token_ids[len(ids) :])

    def _first_text(self, prepared: Prepared, writing: Writing) -> None:
        if not writing.told:
            writing.told = True
            self.metrics.first_token.observe(time.monotonic() - prepared.began)

    def _finished(
        self, prepared: Prepared, ticket: Ticket, writing: Writing, ids: list[int], result: Result | None
    ) -> Finished:
        took = time.monotonic() - prepared.began
        self._durations.append(took)
        thought = thought_tokens(ids, self._close_ids) if writing.thoughts else 0
        made = Finished(
            thoughts=writing.thoughts,
            answer=writing.answer,
            finish_reason="length" if result is not None and result.finish_reason == "length" else "stop",
            prompt_tokens=prompt_length(ticket.request.segments),
            completion_tokens=len(ids),
            reasoning_tokens=thought,
            budget_hit=result is not None and result.budget_hit,
        )
        metrics = self.metrics
        metrics.seconds.observe(took)
        metrics.prompt_tokens.inc(made.prompt_tokens)
        metrics.completion_tokens.inc(made.completion_tokens)
        metrics.reasoning_tokens.inc(made.reasoning_tokens)
        metrics.budget_hits.inc(made.budget_hit)
        return made

    def _on_step(self, running: int, waiting: int) -> None:
        self.metrics.running.set(running)
        self.metrics.waiting.set(waiting)

    async def _run(self, pool: ThreadPoolExecutor, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *args)
