"""A language model in a separate ``vllm serve`` as a backend.

Prompts with audio are sent as prompt embeddings (``--enable-prompt-embeds``), made here from the language model's own
input embeddings and the clips; text prompts are sent as token ids. Thinking budgets stay on this side.
"""

from __future__ import annotations

import asyncio
import io
import json
import queue
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from torch import Tensor

from src.common.errors import UserError, error_text
from src.common.log import get_logger
from src.inference.sampling_defaults import sampling_defaults
from src.inference.scheduler import StepOutput
from src.inference.types import Sampling, Segment
from src.inference.workers import drain
from src.model.llm import generation_settings, llm_config, load_input_embeddings

log = get_logger(__name__)
STEP_SECONDS = 0.02
"""Longest wait of a step for new tokens, and so of a request that arrives in the meantime."""
TIMEOUT = httpx.Timeout(10.0, read=600.0)


@dataclass(frozen=True)
class RemoteModel:
    """A model of a vLLM server: ``url`` without ``/v1``, its name there, and its context in tokens."""

    url: str
    name: str
    api_key: str | None
    context: int | None

    @property
    def headers(self) -> dict[str, str]:
        """Headers that carry the key."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def find_remote_model(url: str, name: str | None, key: str | None) -> RemoteModel:
    """The named model of the server at ``url``, or its first. Raises :class:`UserError` if there is none."""
    url = url.rstrip("/").removesuffix("/v1")
    try:
        answer = httpx.get(f"{url}/v1/models", headers=RemoteModel(url, "", key, None).headers, timeout=TIMEOUT)
        answer.raise_for_status()
        models = {str(model["id"]): model for model in answer.json()["data"]}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        reason = error_text(error, 200)
        raise UserError(
            f"llm_url: no vLLM server answers at {url} ({reason}); start one with `vllm serve`"
        ) from error
    chosen = name or next(iter(models), None)
    if chosen not in models:
        raise UserError(f"llm_name: {chosen!r} is not served at {url}; known: {', '.join(models)}")
    return RemoteModel(url, str(chosen), key, models[chosen].get("max_model_len"))


class HttpBackend:
    """Submit, step and abort over HTTP; ``llm`` is the folder or Hub id of the language model that is served there.

    Raises :class:`UserError` if the server does not take its embeddings.
    """

    shares_cores = False

    def __init__(self, model: RemoteModel, llm: str, revision: str | None, end_of_turn: int | None) -> None:
        config = llm_config(llm, revision).get_text_config(decoder=True)
        self._table = load_input_embeddings(llm, revision)
        self.width = int(self._table.weight.shape[1])
        self.vocabulary = min(int(config.vocab_size), len(self._table.weight))
        self.context = int(model.context or config.max_position_embeddings)
        self._defaults = sampling_defaults(generation_settings(llm, revision), llm)
        self._model = model
        self._stops = [] if end_of_turn is None else [end_of_turn]
        self._outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self._running: dict[str, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        # the step loop is not asynchronous: responses arrive in a loop of another thread, as from an engine
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-llm", daemon=True)
        self._thread.start()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        # only of connections that were never made; a request that was sent is not sent twice
        transport = httpx.AsyncHTTPTransport(retries=2, limits=limits)
        self._client = httpx.AsyncClient(headers=model.headers, timeout=TIMEOUT, transport=transport)
        # one token from one embedding shows whether the server takes embeddings, and of this width
        self.add("probe", [self._table.weight[:1]], Sampling(greedy=True), 1, None)
        outputs: list[StepOutput] = []
        while not outputs:
            outputs = self.step()
        if outputs[0].error is not None:
            self.close()
            raise UserError(
                f"llm_url: {outputs[0].error}; start the server with --enable-prompt-embeds and the model {llm!r}"
            )

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Send a prompt."""
        body: dict[str, Any] = {
            "model": self._model.name,
            "max_tokens": max_tokens,
            "seed": seed,
            "stream": sampling.streamed,
            "stop_token_ids": self._stops,
            "return_token_ids": True,
            **({} if sampling.greedy else self._defaults),
            **sampling.overrides(),
        }
        if any(isinstance(segment, Tensor) for segment in segments):
            # vLLM takes embeddings (tokens, width) as a file of torch.save in base64
            # (https://docs.vllm.ai/en/stable/features/prompt_embeds/)
            file = io.BytesIO()
            torch.save(torch.cat([self._embed(each) for each in segments]).contiguous(), file)
            body["prompt_embeds"] = b64encode(file.getvalue()).decode()
        else:
            body["prompt"] = [token for segment in segments for token in segment]
        sending = self._complete(key, body, sampling.streamed)
        self._running[key] = asyncio.run_coroutine_threadsafe(sending, self._loop)

    def score(self, key: str, segments: Sequence[Segment], target_ids: Sequence[int]) -> None:
        """Report that a server scores no prompts with audio."""
        # vLLM refuses prompt_logprobs with prompt embeddings in its completions API
        reason = "a vLLM server does not score prompts with audio; use generate_vllm_mcqa.py without a server"
        self._outputs.put(StepOutput(key, [], "error", reason))

    def step(self) -> list[StepOutput]:
        """Tokens that have arrived since the last step."""
        found = drain(self._outputs, STEP_SECONDS)
        for output in found:
            if output.finish_reason is not None:
                self._running.pop(output.key, None)
        return found

    def abort(self, keys: Sequence[str]) -> None:
        """Close the connections of requests, which lets the server drop them."""
        for key in keys:
            sent = self._running.pop(key, None)
            if sent is not None:
                sent.cancel()

    def close(self) -> None:
        """Close all connections and end the thread."""
        self.abort(list(self._running))
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _embed(self, segment: Segment) -> Tensor:
        if isinstance(segment, Tensor):
            return segment.detach().to("cpu", self._table.weight.dtype)
        return self._table(torch.tensor(list(segment), dtype=torch.int64))

    async def _complete(self, key: str, body: dict[str, Any], streamed: bool) -> None:
        """Send one prompt and queue its tokens as they arrive; every failure is an output with ``error``."""
        try:
            async with self._client.stream("POST", f"{self._model.url}/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    reason = refusal_text(await answer.aread())
                    raise _RefusedError(f"the language model's server answers {answer.status_code}: {reason}")
                if streamed:
                    ended = await self._follow(key, answer)
                else:
                    ended = self._queue_choice(key, json.loads(await answer.aread())["choices"][0])
            if not ended:
                raise _RefusedError("the language model's server ended the response early")
        except _RefusedError as error:
            self._outputs.put(StepOutput(key, [], "error", str(error)))
        except Exception as error:  # any other would stay in the future, and the request would never end
            log.debug("request to the language model failed", exc_info=True)
            reason = f"the language model's server failed ({type(error).__name__})"
            self._outputs.put(StepOutput(key, [], "error", reason))

    async def _follow(self, key: str, answer: httpx.Response) -> bool:
        """Queue the tokens of a stream; returns whether its end was among them."""
        async for line in _lines(answer):
            if line.startswith("data: ") and line != "data: [DONE]":
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise _RefusedError(refusal_text(line.removeprefix("data: ").encode()))
                if chunk["choices"] and self._queue_choice(key, chunk["choices"][0]):
                    return True
        return False

    def _queue_choice(self, key: str, choice: dict[str, Any]) -> bool:
        """Queue the tokens of a ``choices`` entry; returns whether the response has ended."""
        reason = choice.get("finish_reason")
        if reason not in (None, "length", "stop"):
            raise _RefusedError(f"the language model's server ended the response ({reason})")
        self._outputs.put(StepOutput(key, list(choice.get("token_ids") or ()), reason))
        return reason is not None


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Lines of a stream of events."""
    # aiter_lines of httpx also splits at U+2028, which JSON may contain: https://github.com/florimondmanca/httpx-sse/issues/34
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode("utf-8")
    if rest:
        yield rest.decode("utf-8")


class _RefusedError(Exception):
    """The server refused or broke off a request."""


def refusal_text(body: bytes) -> str:
    """The error that a server's answer names, else the beginning of its text."""
    try:
        return str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:200].decode(errors="replace").split())
