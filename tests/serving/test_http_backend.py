"""A language model in another server: over an imitation of vLLM's routes, and over the real thing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from src.common.errors import UserError
from src.inference.engine import Engine
from src.inference.http_backend import HttpBackend, find_remote_model
from src.inference.types import Request as Asked
from src.inference.types import Result, Sampling
from src.model.llm import load_input_embeddings, load_tokenizer
from src.serving.start import Loaded, load, make_app
from tests.serving.client import listening, wait_until
from tests.serving.conftest import tiny_config
from tests.serving.sounds import chat, encoded, input_audio


class Imitation:
    """Writes the ids of its prompt again, or of the number of its embedding rows; ids above 250 make trouble."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.bodies: list[dict[str, Any]] = []
        self.hung_up = 0
        self.app = Starlette(
            routes=[Route("/v1/models", self.models), Route("/v1/completions", self.complete, methods=["POST"])]
        )

    async def models(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer k":
            return JSONResponse({"error": {"message": "who are you?"}}, 401)
        return JSONResponse({"data": [{"id": "a", "max_model_len": 500}, {"id": "b", "max_model_len": 600}]})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        ids = list(body.get("prompt") or ())
        if "prompt_embeds" in body:
            rows = torch.load(io.BytesIO(b64decode(body["prompt_embeds"])), weights_only=True)
            if rows.shape[1] != self.width:
                return JSONResponse({"error": {"message": "hidden_size does not match"}}, 400)
            ids = [len(rows)] * 6
        if 251 in ids and len(ids) == 1:
            return JSONResponse({"error": {"message": "not this one"}}, 400)
        ids, reason = ids[: body["max_tokens"]], "length" if len(ids) > body["max_tokens"] else "stop"
        if not body["stream"]:
            return JSONResponse({"choices": [{"token_ids": ids, "finish_reason": reason}]})
        return StreamingResponse(self._stream(ids, reason), media_type="text/event-stream")

    async def _stream(self, ids: list[int], reason: str) -> AsyncIterator[str]:
        try:
            for place, token in enumerate(ids):
                if token == 251:
                    yield 'data: {"choices": ["no object"]}\n\n'
                if token == 252:
                    yield 'data: {"error": {"message": "out of memory"}}\n\n'
                if token == 253:
                    return
                if token == 254:
                    await asyncio.sleep(30)
                last = reason if place == len(ids) - 1 else None
                yield f"data: {json.dumps({'choices': [{'token_ids': [token], 'finish_reason': last}]})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.hung_up += 1
            raise


@pytest.fixture
def imitation(checkpoints: dict[str, Path]) -> Iterator[tuple[str, Imitation]]:
    made = Imitation(192)
    with listening(made.app) as (address, _):
        yield address, made


def open_engine(address: str, llm: Path) -> Engine:
    tokenizer = load_tokenizer(str(llm))
    return Engine(
        HttpBackend(find_remote_model(address, "b", "k"), str(llm), None, tokenizer.eos_token_id), tokenizer
    )


def run(engine: Engine, *prompts: Any, **options: Any) -> dict[str, Result]:
    """Results by place; every second one is streamed."""
    scheduler = engine.scheduler()
    sampling = Sampling(options.pop("most", 50), greedy=True, **options)
    for place, segments in enumerate(prompts):
        on_tokens = (lambda tokens: None) if place % 2 else None
        assert scheduler.submit(Asked(str(place), segments, seed=place), sampling, on_tokens) is None
    found: list[Result] = []
    while scheduler:
        found += scheduler.step()
    return {result.key: result for result in found}


def test_prompts_go_as_ids_or_embeddings_and_tokens_come_back(
    imitation: tuple[str, Imitation], checkpoints: dict[str, Path]
) -> None:
    address, server = imitation
    engine = open_engine(f"{address}/v1/", checkpoints["llm"])
    assert (engine.backend.context, engine.backend.width) == (600, 192)
    clip = torch.randn(4, 192)
    found = run(engine, ([5, 6],), ([7], [8, 9]), ([5], clip, [6]), (clip,))
    assert [found[str(place)].token_ids for place in range(4)] == [(5, 6), (7, 8, 9), (6,) * 6, (4,) * 6]
    sent = next(body for body in server.bodies if body.get("seed") == 2)
    rows = torch.load(io.BytesIO(b64decode(sent["prompt_embeds"])), weights_only=True)
    table = load_input_embeddings(str(checkpoints["llm"])).weight
    assert torch.equal(rows, torch.cat([table[5:6], clip, table[6:7]]))
    assert sent["temperature"] == 0 and sent["model"] == "b" and sent["stop_token_ids"] == [2]
    engine.close()


def test_a_budget_is_kept_on_this_side(imitation: tuple[str, Imitation], checkpoints: dict[str, Path]) -> None:
    engine = open_engine(imitation[0], checkpoints["llm"])
    prompt = ([70] * 30,)
    found = run(engine, prompt, prompt, most=3, max_thinking_tokens=4, budget_closing="</think>")
    for result in found.values():
        assert result.text.count("</think>") == 1 and result.budget_hit
        assert result.token_ids[:4] == (70,) * 4 and result.num_tokens == 4 + len("</think>") + 3
    engine.close()


def test_trouble_there_is_told_and_costs_one_request(
    imitation: tuple[str, Imitation], checkpoints: dict[str, Path]
) -> None:
    engine = open_engine(imitation[0], checkpoints["llm"])
    found = run(engine, ([251],), ([9, 252],), ([5],), ([9, 253],), ([6],), ([251],), ([7],), ([9, 251],))
    errors = {place: str(found[place].error) for place in ("0", "1", "3", "5", "7")}
    assert "failed (AttributeError)" in errors["7"]
    assert "400: not this one" in errors["0"] and "not this one" in errors["5"]
    assert "out of memory" in errors["1"] and "ended the response early" in errors["3"]
    assert found["2"].token_ids == (5,) and found["4"].token_ids == (6,)
    engine.close()


def test_aborting_hangs_up(imitation: tuple[str, Imitation], checkpoints: dict[str, Path]) -> None:
    engine = open_engine(imitation[0], checkpoints["llm"])
    scheduler = engine.scheduler()
    told: list[list[int]] = []
    scheduler.submit(Asked("slow", ([5, 254, 6],)), Sampling(9), told.append)
    while not told:
        scheduler.step()
    scheduler.abort("slow")
    wait_until(lambda: imitation[1].hung_up == 1)
    assert not scheduler
    engine.close()


def test_servers_that_cannot_be_used_are_told_at_the_start(
    imitation: tuple[str, Imitation], checkpoints: dict[str, Path]
) -> None:
    address, server = imitation
    with pytest.raises(UserError, match="no vLLM server answers"):
        find_remote_model("http://127.0.0.1:9", None, None)
    with pytest.raises(UserError, match="no vLLM server answers .*401"):
        find_remote_model(address, None, "wrong")
    with pytest.raises(UserError, match="known: a, b"):
        find_remote_model(address, "c", "k")
    assert find_remote_model(address, None, "k").name == "a"
    server.width = 64
    with pytest.raises(UserError, match="hidden_size .* --enable-prompt-embeds"):
        open_engine(address, checkpoints["llm"])


@pytest.fixture(scope="module")
def stock(checkpoints: dict[str, Path]) -> Iterator[str]:
    """vLLM's own server, as it comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoints["llm"])]
    command += ["--served-model-name", "llm", "--host", "127.0.0.1", "--port", str(port), "--enable-prompt-embeds"]
    command += ["--max-model-len", "768", "--max-num-seqs", "8", "--enforce-eager", "--dtype", "float32"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    process = subprocess.Popen(command, env=environment)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "vLLM's server did not start"
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(60)


@pytest.mark.vllm
@pytest.mark.slow
def test_answers_equal_those_of_the_engine_in_this_process(
    stock: str, loaded: Loaded, checkpoints: dict[str, Path]
) -> None:
    bodies = [
        chat(
            input_audio(encoded("wav", 0.5 + number / 4, pitch=300 * number + 100)), f"what is {number}?", model=model
        )
        for number, model in enumerate(["one", "two", "ensemble", "one", "two"])
    ] + [chat("hello there", model="one")]
    config = tiny_config(checkpoints, f"llm_url={stock}")
    there = load(config)
    answers: list[list[Any]] = []
    for models in (loaded, there):
        with listening(make_app(models, config)) as (address, _):
            found = []
            for body in bodies:
                asked = {**body, "temperature": 0}
                made = httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60).json()
                found.append((made["choices"], made["usage"]))
            answers.append(found)
    there.engine.close()
    assert answers[0] == answers[1]
    assert len({str(choices) for choices, _ in answers[0]}) == len(bodies)
