"""Answers validated requests with one engine; both the HTTP routes and the demo page use it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.inference.engine import Engine
from src.inference.response_stream import ResponseStream, thought_tokens
from src.inference.types import Request, Result, Sampling, Segment, prompt_length, validate_prompt
from src.prompts import Prompts
from src.prompts.chat import text_ids
from src.prompts.find_reasoning import find_reasoning, hidden_tokens
from src.prompts.stream_splitter import ResponsePart
from src.serving.async_engine import AsyncEngine, RequestHandle
from src.serving.audio_batcher import AudioBatcher
from src.serving.clip_decoder import CLIPS, ApiError
from src.serving.config import ServeConfig
from src.serving.conversation import Conversations, clip_parts
from src.serving.schema import AudioUrlPart, ChatRequest, TextPart

if TYPE_CHECKING:
    from src.inference.ensemble import EmbedderEnsemble

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Histogram buckets."""
MAX_CHARACTERS_PER_TOKEN = 64
"""Longer texts than this per token of the context are refused before they are tokenised."""
CLIENT_ERRORS = {"too_long": "context_length_exceeded", "bad_prompt": "bad_audio", "unencodable_audio": "bad_audio"}


class Metrics:
    """Prometheus metrics of one server, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        status = ["model", "status"]
        self.requests = Counter("alarm_requests", "Chat requests by model and HTTP status", status, registry=here)
        self.admitted = Gauge("alarm_requests_admitted", "Requests that are worked on", registry=here)
        self.running = Gauge("alarm_requests_running", "Requests in the engine", registry=here)
        self.waiting = Gauge("alarm_requests_waiting", "Requests that wait for the engine", registry=here)
        self.prompt_tokens = Counter("alarm_prompt_tokens", "Tokens and embedding rows of prompts", registry=here)
        self.completion_tokens = Counter("alarm_completion_tokens", "Tokens of responses", registry=here)
        self.reasoning_tokens = Counter("alarm_reasoning_tokens", "Those of thoughts among them", registry=here)
        self.budget_hits = Counter("alarm_thinking_budget_hits", "Thoughts closed at their budget", registry=here)
        self.batches = Histogram("alarm_encode_batch_clips", "Clips encoded together", buckets=BATCHES, registry=here)
        self.prepared = self._seconds("alarm_prepare_seconds", "Decoding and encoding of clips")
        self.first_token = self._seconds("alarm_first_token_seconds", "To the first text of a response")
        self.seconds = self._seconds("alarm_request_seconds", "To the end of a response")

    def _seconds(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, also those of the middleware and of the process."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)


@dataclass(frozen=True)
class Delta:
    """A piece of a response."""

    part: ResponsePart
    text: str


@dataclass(frozen=True)
class Finished:
    """A complete response; ``completion_tokens`` include ``reasoning_tokens``."""

    thoughts: str
    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    budget_hit: bool


@dataclass(frozen=True)
class PreparedChat:
    """A request whose clips are encoded and whose prompt is built."""

    request: Request
    sampling: Sampling
    stops: tuple[str, ...]
    began: float


class Service:
    """Answers for several models over one engine. Create it on an event loop.

    ``ensembles`` and ``prompts`` are by model name, the default model first.
    """

    def __init__(
        self,
        engine: Engine,
        ensembles: Mapping[str, EmbedderEnsemble],
        prompts: Mapping[str, Prompts],
        config: ServeConfig,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.limits = config.limits
        self.models = list(ensembles)
        self.prompts = prompts
        self._engine, self._config = engine, config
        tokenizer = engine.tokenizer
        self._conversations = {
            name: Conversations(tokenizer, prompts[name], each.explicit_tags) for name, each in ensembles.items()
        }
        self._hidden, self._reasoning = hidden_tokens(tokenizer), find_reasoning(tokenizer)
        self._close_ids = text_ids(tokenizer, self._reasoning.format.closing)
        self._batcher = AudioBatcher(ensembles, config.batch_size, on_batch=self._on_batch, may_wait=self._is_busy)
        # One thread keeps long prompts off the event loop; several at once could fail in the tokenizer ("Already
        # borrowed", https://github.com/huggingface/tokenizers/issues/537).
        self._texts = ThreadPoolExecutor(1, "texts")
        self._async_engine = AsyncEngine(engine, self._on_step)
        self._numbers = itertools.count()
        self._admitted = self._submitted = 0

    @property
    def admitted(self) -> int:
        """Number of admitted requests."""
        return self._admitted

    @property
    def failure(self) -> str | None:
        """Reason why no request can be answered any more."""
        return self._async_engine.failure or self._batcher.failure

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request for as long as it is worked on; the middleware bounds their number."""
        self._admitted += 1
        self.metrics.admitted.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= 1
            self.metrics.admitted.set(self._admitted)

    async def prepare(self, chat: ChatRequest) -> PreparedChat:
        """Encode the clips and build the prompt.

        Raises :class:`ApiError` for an unknown model, for invalid clips, and for a prompt longer than the context.
        """
        began = time.monotonic()
        if self.failure is not None:
            raise ApiError(503, self.failure, "engine_failed")
        if chat.model not in self._conversations:
            known = ", ".join(self.models)
            raise ApiError(404, f"no model {chat.model[:100]!r}; known: {known}", "model_not_found", "model")
        parts = [part for message in chat.messages for part in message.content or ()]
        characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        context = self._engine.backend.context
        if characters > MAX_CHARACTERS_PER_TOKEN * context:
            reason = f"{characters} characters of text do not fit the context of {context} tokens"
            raise ApiError(400, reason, "context_length_exceeded", "messages")
        futures = [self._batcher.embed(chat.model, clip, identity) for clip, identity in _clips(chat)]
        try:
            embedded = [await asyncio.wrap_future(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # those behind one that failed, or all if the client left; no effect on finished ones
        loop = asyncio.get_running_loop()
        segments = await loop.run_in_executor(self._texts, self._build_prompt, chat, embedded)
        self.metrics.prepared.observe(time.monotonic() - began)
        seed = self._config.model.seed if chat.seed is None else chat.seed
        request = Request(f"chat-{next(self._numbers)}", segments, seed)
        return PreparedChat(request, self._sampling(chat), tuple(chat.stop), began)

    async def answer(self, prepared: PreparedChat, streamed: bool) -> AsyncGenerator[Delta | Finished, None]:
        """Yield pieces of the response while it is generated, if ``streamed``, and finally the complete response.

        Leaving the iteration early drops the request. Raises :class:`ApiError` if the engine fails.
        """
        stream = ResponseStream(self._engine.tokenizer, self._hidden, self._reasoning, prepared.stops)
        handle = self._async_engine.submit(prepared.request, prepared.sampling, streamed or bool(prepared.stops))
        ids: list[int] = []
        result: Result | None = None
        try:
            while result is None and not stream.stopped:
                event = await handle.events.get()
                if isinstance(event, Result):
                    result = event
                    pieces = stream.end(self._rest(event, ids))
                    ids = list(event.token_ids)
                else:
                    pieces = stream.feed(event)
                    ids += event
                for part, text in pieces:
                    if not stream.sent:
                        stream.sent = True
                        self.metrics.first_token.observe(time.monotonic() - prepared.began)
                    yield Delta(part, text)
        finally:
            if result is None:
                self._async_engine.abort(handle)
        yield self._finished(prepared, handle, stream, ids, result)

    async def close(self) -> None:
        """Finish running requests and end the threads; the engine stays open."""
        await self._async_engine.close()
        self._batcher.close()
        self._texts.shutdown(wait=False, cancel_futures=True)

    def _build_prompt(self, chat: ChatRequest, embedded: list[Any]) -> tuple[Segment, ...]:
        try:
            segments = self._conversations[chat.model].segments(chat.messages, embedded)
        except UserError as error:  # for example, some templates require alternating roles
            raise ApiError(400, str(error), "bad_conversation", "messages") from error
        backend = self._engine.backend
        fault = validate_prompt(segments, backend.width, backend.vocabulary, backend.context)
        if fault is not None:
            raise ApiError(400, fault.reason, CLIENT_ERRORS[fault.status], "messages")
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
            max_total_tokens=chat.total_tokens,
        )

    def _rest(self, result: Result, ids: list[int]) -> list[int]:
        """Tokens of a result that were not streamed before. Raises :class:`ApiError` if the request failed."""
        if result.error is not None:
            if result.status in CLIENT_ERRORS:
                raise ApiError(400, result.error, CLIENT_ERRORS[result.status], "messages")
            raise ApiError(502 if self._config.llm_url else 500, result.error, "engine_failed")
        return list(result.token_ids[len(ids) :])

    def _finished(
        self,
        prepared: PreparedChat,
        handle: RequestHandle,
        stream: ResponseStream,
        ids: list[int],
        result: Result | None,
    ) -> Finished:
        took = time.monotonic() - prepared.began
        finished = Finished(
            thoughts=stream.thoughts,
            answer=stream.answer,
            finish_reason="length" if result is not None and result.finish_reason == "length" else "stop",
            prompt_tokens=prompt_length(handle.request.segments),
            completion_tokens=len(ids),
            reasoning_tokens=thought_tokens(ids, self._close_ids) if stream.thoughts else 0,
            budget_hit=result is not None and result.budget_hit,
        )
        metrics = self.metrics
        metrics.seconds.observe(took)
        metrics.prompt_tokens.inc(finished.prompt_tokens)
        metrics.completion_tokens.inc(finished.completion_tokens)
        metrics.reasoning_tokens.inc(finished.reasoning_tokens)
        metrics.budget_hits.inc(finished.budget_hit)
        return finished

    def _on_batch(self, clips: int) -> AbstractContextManager[None]:
        self.metrics.batches.observe(clips)
        return self._engine.encoding()

    def _on_step(self, running: int, waiting: int) -> None:
        self.metrics.running.set(running)
        self.metrics.waiting.set(waiting)
        self._submitted = running + waiting

    def _is_busy(self) -> bool:
        """Whether the engine has another batch of requests besides those that it decodes now."""
        return self._submitted > self._config.model.max_num_seq + self._config.batch_size


def _clips(chat: ChatRequest) -> Iterator[tuple[Waveform, str]]:
    """Clips of a request, which the middleware has decoded, and their identities. Raises :class:`ApiError`."""
    for where, part in clip_parts(chat):
        clip = CLIPS.get(part.audio_url.url) if isinstance(part, AudioUrlPart) else None
        if clip is None or part.uuid is None:
            raise ApiError(400, f"{where}: the clip was not decoded", "bad_audio", where)
        yield Waveform(torch.from_numpy(clip.samples), clip.rate), part.uuid
