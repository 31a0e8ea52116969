"""A language model in a separate ``vllm serve``, as the core of the step loop.

Prompts with audio go as prompt embeddings (``--enable-prompt-embeds``), made here from the language model's own input
embeddings and the clips; prompts of text alone go as token ids. Thinking budgets and all the rest stay on this side.
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

from src.common.errors import UserError
from src.common.log import get_logger
from src.generation.flight import Pass
from src.generation.requests import Sampling, Segment
from src.model.llm import llm_config, load_input_embeddings

log = get_logger(__name__)
PATIENCE = 0.02
"""Seconds that a step waits for news; requests that arrive meanwhile wait so long at most."""
TIMEOUT = httpx.Timeout(10.0, read=600.0)


@dataclass(frozen=True)
class RemoteModel:
    """A model of a vLLM server: ``url`` without ``/v1``, its name there, and its context in tokens."""

    url: str
    name: str
    key: str | None
    context: int | None

    @property
    def headers(self) -> dict[str, str]:
        """What shows the key."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


def model_at(url: str, name: str | None, key: str | None) -> RemoteModel:
    """The named model of the server at ``url``, or its first. Raises :class:`UserError` if there is none."""
    url = url.rstrip("/").removesuffix("/v1")
    here = RemoteModel(url, "", key, None)
    try:
        answer = httpx.get(f"{url}/v1/models", headers=here.headers, timeout=TIMEOUT)
        answer.raise_for_status()
        models = {str(model["id"]): model for model in answer.json()["data"]}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"llm_url: no vLLM server answers at {url} ({reason}); start one with `vllm serve`"
        ) from error
    chosen = name or next(iter(models), None)
    if chosen not in models:
        raise UserError(f"llm_name: {chosen!r} is not served at {url}; known: {', '.join(models)}")
    return RemoteModel(url, str(chosen), key, models[chosen].get("max_model_len"))


class RemoteCore:
    """Submit, step and abort over HTTP; ``llm`` is the folder or Hub id of the language model that is served there.

    Raises :class:`UserError` if the server does not take its embeddings.
    """

    def __init__(self, at: RemoteModel, llm: str, revision: str | None, end_of_turn: int | None) -> None:
        config = llm_config(llm, revision).get_text_config(decoder=True)
        self._table = load_input_embeddings(llm, revision)
        self.width = int(self._table.weight.shape[1])
        self.vocabulary = min(int(config.vocab_size), len(self._table.weight))
        self.context = int(at.context or config.max_position_embeddings)
        self._at = at
        self._stops = [] if end_of_turn is None else [end_of_turn]
        self._news: queue.SimpleQueue[Pass] = queue.SimpleQueue()
        self._running: dict[str, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-llm", daemon=True)
        self._thread.start()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        transport = httpx.AsyncHTTPTransport(retries=2, limits=limits)
        self._client = httpx.AsyncClient(headers=at.headers, timeout=TIMEOUT, transport=transport)
        self._probe(llm)

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Send a prompt."""
        body = self._body(segments, sampling, max_tokens, seed)
        self._running[key] = asyncio.run_coroutine_threadsafe(self._ask(key, body, sampling.streamed), self._loop)

    def step(self) -> list[Pass]:
        """What has arrived."""
        found: list[Pass] = []
        try:
            found.append(self._news.get(timeout=PATIENCE))
            while True:
                found.append(self._news.get_nowait())
        except queue.Empty:
            pass
        for done in found:
            if done.finish_reason is not None:
                self._running.pop(done.key, None)
        return found

    def abort(self, keys: Sequence[str]) -> None:
        """Hang up, which lets the server drop the request."""
        for key in keys:
            asked = self._running.pop(key, None)
            if asked is not None:
                asked.cancel()

    def close(self) -> None:
        """Hang up on everything."""
        self.abort(list(self._running))
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _probe(self, llm: str) -> None:
        """One token from one embedding: whether the server takes them, and has the same width."""
        self.add("probe", [self._table.weight[:1]], Sampling(greedy=True), 1, None)
        passes: list[Pass] = []
        while not passes:
            passes = self.step()
        if passes[0].error is not None:
            self.close()
            raise UserError(
                f"llm_url: {passes[0].error}; start the server with --enable-prompt-embeds and the model {llm!r}"
            )

    def _body(
        self, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> dict[str, Any]:
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        if sampling.greedy:
            drawn = {"temperature": 0.0}
        body: dict[str, Any] = {
            "model": self._at.name,
            "max_tokens": max_tokens,
            "seed": seed,
            "stream": sampling.streamed,
            "stop_token_ids": self._stops,
            "return_token_ids": True,
            **{name: value for name, value in drawn.items() if value is not None},
        }
        if not any(isinstance(segment, Tensor) for segment in segments):
            body["prompt"] = [token for segment in segments for token in segment]
        else:
            body["prompt_embeds"] = b64encode(_saved(torch.cat([self._rows(each) for each in segments]))).decode()
        return body

    def _rows(self, segment: Segment) -> Tensor:
        if isinstance(segment, Tensor):
            return segment.detach().to("cpu", self._table.weight.dtype)
        return self._table.weight[torch.tensor(list(segment), dtype=torch.int64)]

    async def _ask(self, key: str, body: dict[str, Any], streamed: bool) -> None:
        try:
            async with self._client.stream("POST", f"{self._at.url}/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    reason = _reason(await answer.aread())
                    raise _RefusedError(f"the language model's server answers {answer.status_code}: {reason}")
                ended = await self._follow(key, answer) if streamed else self._whole(key, await answer.aread())
            if not ended:
                raise _RefusedError("the language model's server ended the response early")
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            log.debug("request to the language model failed", exc_info=True)
            reason = f"the language model's server failed ({type(error).__name__})"
            self._news.put(Pass(key, [], "error", reason))
        except _RefusedError as error:
            self._news.put(Pass(key, [], "error", str(error)))

    async def _follow(self, key: str, answer: httpx.Response) -> bool:
        """Tokens as they are written; whether the end was among them."""
        async for line in _lines(answer):
            if line.startswith("data: ") and line != "data: [DONE]":
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise _RefusedError(_reason(line.removeprefix("data: ").encode()))
                if chunk["choices"] and self._tell(key, chunk["choices"][0]):
                    return True
        return False

    def _whole(self, key: str, body: bytes) -> bool:
        return self._tell(key, json.loads(body)["choices"][0])

    def _tell(self, key: str, choice: dict[str, Any]) -> bool:
        told = choice.get("finish_reason")
        reason: Any = None if told is None else "length" if told == "length" else "stop"
        if told not in (None, "length", "stop"):
            raise _RefusedError(f"the language model's server ended the response ({told})")
        self._news.put(Pass(key, list(choice.get("token_ids") or ()), reason))
        return reason is not None


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Lines of a stream of events. ``aiter_lines`` of httpx also splits at U+2028, which JSON may contain."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode("utf-8")
    if rest:
        yield rest.decode("utf-8")


class _RefusedError(Exception):
    """The server says no."""


def _saved(rows: Tensor) -> bytes:
    """The form in which vLLM takes a tensor ``(tokens, width)``."""
    file = io.BytesIO()
    torch.save(rows.contiguous(), file)
    return file.getvalue()


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
