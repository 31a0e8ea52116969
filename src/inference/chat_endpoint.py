"""A chat endpoint in OpenAI's format in place of an engine: conversations with clips go out, results come back."""

from __future__ import annotations

import io
import json
import os
import queue
import threading
import time
import wave
from base64 import b64encode
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from src.audio.decode import cell_source
from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.retry import RetryPolicy, retrying, status_of
from src.inference.config import ClipFormat, EndpointConfig
from src.inference.http_backend import refusal_text
from src.inference.prefetch import Prefetcher
from src.inference.prompt_builder import NO_DESCRIPTION, RowInput, decode_row
from src.inference.types import Request, RequestError, Result, Sampling, TokenUsage
from src.prompts import Prompts
from src.prompts.messages import self_generation_messages
from src.prompts.reasoning import CLOSE_THOUGHTS, Reasoning

log = get_logger(__name__)
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between attempts where the server does not ask for more."""
STEP_SECONDS = 0.05
"""Longest wait for a result while a place is free."""
_BROKEN_OFF = ("abort", "error")
"""Finish reasons of vLLM for responses that it did not bring to an end (``vllm.v1.engine.FinishReason``)."""
_WRONG_SETTINGS = {
    **dict.fromkeys((301, 302, 303, 307, 308, 405), "engine.base_url"),
    401: "engine.api_key_env",
    402: "the account",
    404: "engine.base_url and engine.model",
}
"""Refusals that every row would meet, and what to check. 403 is none: OpenRouter refuses single texts with it
(https://openrouter.ai/docs/api/reference/errors-and-debugging)."""


def chat_requests(
    rows: Iterable[RowInput], prompts: Prompts, system: str, audio_input: str, formats: Iterable[ClipFormat]
) -> Iterator[Request]:
    """Conversations of rows: the system text, the clip, the user's text, as the prompts of our own models.

    Clips are decoded here in any case, so that a bad one has the status that it has in any other run.
    """
    accepted = tuple(formats)
    for row in rows:
        if row.error is not None:
            yield Request(row.key, error=row.error)
        elif audio_input == "description":
            if not row.description:
                yield Request(row.key, error=NO_DESCRIPTION)
                continue
            messages = self_generation_messages(prompts, row.description, row.content)
            yield Request(row.key, seed=row.seed, messages=tuple(each for each in messages if each["content"]))
        else:
            user: dict[str, Any] = {"role": "user", "content": row.content}
            if audio_input != "none":
                clip = decode_row(row)
                if isinstance(clip, RequestError):
                    yield Request(row.key, error=clip)
                    continue
                data, name = encode_clip(row, clip, accepted)
                audio = {"type": "input_audio", "input_audio": {"data": b64encode(data).decode(), "format": name}}
                user["content"] = [audio, {"type": "text", "text": row.content}]
            messages_with_system = ({"role": "system", "content": system}, user) if system else (user,)
            yield Request(row.key, seed=row.seed, messages=messages_with_system)


def encode_clip(row: RowInput, clip: Waveform, formats: Collection[ClipFormat]) -> tuple[bytes, str]:
    """The row's file if its format is among ``formats``, else ``clip`` as 16-bit mono WAV; and the format's name."""
    if row.change is None and isinstance(row.audio, Mapping) and row.audio.get("array") is None:
        source, _ = cell_source(row.audio)
        content = source.read_bytes() if isinstance(source, Path) else source
        found = file_format(content)
        if found is not None and found in formats:
            return content, found
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(clip.sample_rate)
        # the scale by which 16-bit files are decoded: their samples come back unchanged
        file.writeframes(np.clip(np.rint(clip.mono.numpy() * 32768.0), -32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue(), "wav"


def file_format(content: bytes) -> ClipFormat | None:
    """Format of an audio file by its first bytes; ``None`` for others than WAV, MP3, FLAC and Ogg."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "wav"
    if content[:3] == b"ID3" or (len(content) > 1 and content[0] == 0xFF and content[1] & 0xE6 == 0xE2):
        # a tag, or the first bits of a frame: synchronisation, and layer III (https://id3.org/mp3Frame)
        return "mp3"
    return {b"fLaC": "flac", b"OggS": "ogg"}.get(content[:4])  # type: ignore[return-value]


class _BadAnswerError(ConnectionError):
    """An answer with status 200 that cannot be used; it is asked for again like a broken connection."""


class ChatEndpoint:
    """Runs requests with ``messages`` on the endpoint, ``concurrency`` at a time; the same calls as an engine.

    Raises :class:`UserError` if the variable with the key is not set. ``reasoning`` is the format in which reasoning
    that the server reports apart (``reasoning_content``, ``reasoning``) is put before the answer.
    """

    def __init__(self, config: EndpointConfig, reasoning: Reasoning) -> None:
        key = os.environ.get(config.api_key_env or "")
        if config.api_key_env and not key:
            raise UserError(
                f"engine.api_key_env={config.api_key_env}: this environment variable is not set; put the key into it"
            )
        self.config, self._reasoning = config, reasoning
        self._policy = RetryPolicy(config.attempts, FIRST_WAIT, LONGEST_WAIT)
        self._interval = 0.0 if config.requests_per_minute is None else 60.0 / config.requests_per_minute
        self._next_start, self._lock = 0.0, threading.Lock()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # each thread has at most one request: none waits for a connection of the pool
            timeout=httpx.Timeout(10.0, read=config.timeout, write=config.timeout, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency),
        )
        self._stop = threading.Event()

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time, submitted or prepared."""
        return 2 * self.config.concurrency

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Generator[Result, None, None]:
        """Results in the order in which they finish, one for each request.

        A row without a usable answer after all attempts has the status ``unavailable``. Raises :class:`UserError` for
        refusals that every row would meet, and when no answer came for many rows in a row.
        """
        places = self.config.concurrency
        feed = Prefetcher(requests, places)
        work: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        # daemon threads: one that waits for a slow server does not keep an interrupted process alive
        for _ in range(places):
            threading.Thread(target=self._serve, args=(work, done, sampling), name="endpoint", daemon=True).start()
        running = unanswered = 0
        try:
            while not feed.ended or running:
                while running < places:
                    request = feed.take(wait=not running)
                    if request is None:
                        break
                    if request.error is not None:
                        yield Result.failed(request.key, request.error)
                        continue
                    work.put(request)
                    running += 1
                if not running:
                    continue
                try:
                    found = done.get(timeout=STEP_SECONDS if running < places and not feed.ended else None)
                except queue.Empty:
                    continue
                running -= 1
                if isinstance(found, BaseException):
                    raise found
                yield found
                unanswered = unanswered + 1 if found.status == "unavailable" else 0
                # an outage: more failures than requests were open when it began
                if unanswered >= max(20, 2 * places):
                    raise UserError(
                        f"engine.base_url={self.config.base_url}: no usable answer for {unanswered} rows one after "
                        f"another, the last: {found.error} Rows that are done are kept."
                    )
        finally:
            feed.close()
            for _ in range(places):
                work.put(None)

    def close(self) -> None:
        """End all attempts; unusable afterwards."""
        self._stop.set()
        self._client.close()

    def _serve(
        self,
        work: queue.SimpleQueue[Request | None],
        done: queue.SimpleQueue[Result | BaseException],
        sampling: Sampling,
    ) -> None:
        while (request := work.get()) is not None and not self._stop.is_set():
            try:
                done.put(self._ask(request, sampling))
            except BaseException as error:  # noqa: BLE001 - raised again by run
                done.put(error)

    def _ask(self, request: Request, sampling: Sampling) -> Result:
        """The answer to one request. Raises :class:`UserError` for refusals that every row would meet."""
        started = time.monotonic()
        body = self._body(request, sampling)
        try:
            found = retrying(lambda: self._post(body), f"row {request.key}", self._policy, self._pause)
        except UserError as error:  # all attempts failed
            return Result.failed(request.key, RequestError("unavailable", str(error)))
        except httpx.HTTPStatusError as error:
            status, reason = status_of(error) or 0, refusal_text(error.response.content)
            if status in _WRONG_SETTINGS:
                raise UserError(
                    f"{self.config.url} answers {status}: {reason}; check {_WRONG_SETTINGS[status]}"
                ) from error
            return Result.failed(request.key, RequestError("refused", f"the endpoint answers {status}: {reason}"))
        return self._result(request.key, found, time.monotonic() - started)

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        config, thinking = self.config, max(0, sampling.max_thinking_tokens)
        # `extra_body` comes last: users replace anything by it
        body: dict[str, Any] = {
            "model": config.model,
            "messages": list(request.messages),
            config.max_tokens_field: sampling.max_tokens + thinking,
            **sampling.overrides(),
        }
        if config.thinking_tokens_field and sampling.max_thinking_tokens >= 0:
            body[config.thinking_tokens_field] = thinking
        if config.send_seed and request.seed is not None:
            body["seed"] = request.seed
        return {**body, **config.extra_body}

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The parsed answer. Raises errors of httpx, and :class:`_BadAnswerError` for one that cannot be used."""
        with self._lock:  # starts of requests are an interval apart, attempts included
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        self._pause(start - now)
        answer = self._client.post(self.config.url, json=body)
        answer.raise_for_status()
        try:
            found = json.loads(answer.content)
            choice = found["choices"][0]
            if not isinstance(choice["message"].get("content"), (str, list, type(None))):
                raise TypeError("content is no text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _BadAnswerError(f"an answer that cannot be read: {refusal_text(answer.content)[:120]!r}") from error
        if choice.get("finish_reason") in _BROKEN_OFF:
            raise _BadAnswerError(f"a response that was broken off ({choice['finish_reason']})")
        return dict(found)

    def _result(self, key: str, found: Mapping[str, Any], seconds: float) -> Result:
        choice = found["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        usage = _usage(found.get("usage"))
        # vLLM has renamed the field (https://docs.vllm.ai/en/stable/features/reasoning_outputs/)
        thoughts = _text(message.get("reasoning_content") or message.get("reasoning"))
        text = _join(thoughts, _text(message.get("content")), self._reasoning)
        if reason == "content_filter" or (not text and message.get("refusal")):
            why = f"the endpoint does not answer ({message.get('refusal') or reason})"
            return Result(key, finish_reason="error", error=why, status="refused", usage=usage)
        ended = "length" if reason == "length" else "stop"
        return Result(key, text, finish_reason=ended, seconds=round(seconds, 3), usage=usage)  # type: ignore[arg-type]

    def _pause(self, seconds: float) -> None:
        """Wait. Raises :class:`UserError` when the endpoint is closed in the meantime."""
        if seconds > 0 and self._stop.wait(seconds):
            raise UserError("the run was ended")


def _join(reasoning: str, answer: str, how: Reasoning) -> str:
    """A response as a model writes it: its reasoning, the text that ends it, the answer."""
    form = how.format
    if not reasoning or not form.closing:
        return answer
    if not answer:  # cut inside its reasoning
        return f"{form.opening}\n{reasoning.strip()}"
    return f"{reasoning.strip()}\n{form.close(CLOSE_THOUGHTS)}\n\n{answer.lstrip()}"


def _text(value: Any) -> str:
    """Text of a message's field: a text, or a list of text parts."""
    if isinstance(value, list):
        return "".join(str(part.get("text") or "") for part in value if isinstance(part, Mapping))
    return value if isinstance(value, str) else ""


def _usage(found: Any) -> TokenUsage | None:
    if not isinstance(found, Mapping):
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    return TokenUsage(prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None
