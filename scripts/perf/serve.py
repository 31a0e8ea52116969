r"""Answers per second through the HTTP server, against the same engine offline, in one run.

In:  clips are drawn tones and noise of --seconds; every client sends the next request as soon as it has its answer.
Out: a table; rows with --json. Exits with 1 if any answer is not that of the offline engine.
Ours: --clients at once ask --requests questions over HTTP, base64 WAV in, JSON out; streamed and whole.
Baseline: the same questions through the offline engine (what generate_vllm.py runs), clips in memory; in a thread,
as the server has it: vLLM on a CPU pins the main thread's workers to cores, which costs where others use them too.
All decode greedily. The clients run in a process of their own, on the same machine.

    python scripts/perf/serve.py --json serve.json           # the miniature, on any machine
    python scripts/perf/serve.py --checkpoint Blinorot/ALARM-CA --prompts full --max-tokens 512 --budget 256
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.bench import BenchRow, bench_table, write_rows
from src.common.cli import run_cli

if TYPE_CHECKING:
    from src.serving.config import ServeConfig
    from src.serving.start import Loaded

QUESTIONS = ("which sound comes first?", "what do you hear?", "is the sound loud or soft?", "describe what you hear.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, nargs=2, default=[1.0, 4.0], help="shortest and longest clip")
    parser.add_argument("--checkpoint", default="saved/mini_alarm_ca")
    parser.add_argument("--prompts", default="mini")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--budget", type=int, default=96, help="thinking budget")
    parser.add_argument("--sequences", type=int, default=32, help="decoded at the same time")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2, help="of each way; the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--as-clients", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_clients:
        asyncio.run(clients(args.as_clients))
        return 0
    rows, wrong = measure(args)
    print(bench_table(rows))
    print(f"{wrong} of {2 * args.rounds * args.requests} answers differ from the offline engine's")
    if args.json:
        write_rows(args.json, rows)
    return 1 if wrong else 0


def measure(args: argparse.Namespace) -> tuple[list[BenchRow], int]:
    """Both ways in turn, after an unmeasured round of a few requests; rows, and the number of wrong answers."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from src.serving.start import load

    config = settings(args)
    loaded = load(config)
    cases = make_cases(args)
    thread = ThreadPoolExecutor(1)
    thread.submit(offline, loaded, config, cases[:16]).result()
    spent: dict[str, float] = {}
    wrong = 0
    for _ in range(args.rounds):
        expected, seconds = thread.submit(offline, loaded, config, cases).result()
        spent["offline"] = min(seconds, spent.get("offline", seconds))
        for way in ("whole", "streamed"):
            answers, seconds = served(loaded, config, cases, args.clients, way == "streamed")
            spent[way] = min(seconds, spent.get(way, seconds))
            wrong += sum(answers[key] != text for key, (text, _) in expected.items())
    tokens = sum(count for _, count in expected.values())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    rows = []
    for way in ("whole", "streamed"):
        for unit, count in (("answers/s", len(cases)), ("tokens/s", tokens)):
            name = f"{way}, {args.clients} clients"
            rows.append(BenchRow(name, unit, count / spent[way], count / spent["offline"], device))
    loaded.engine.close()
    return rows, wrong


def settings(args: argparse.Namespace) -> ServeConfig:
    """What ``serve.py`` would be given."""
    from src.common.config import compose
    from src.serving.config import read_serve_config

    model = {"max_tokens": args.max_tokens, "max_thinking_tokens": args.budget, "max_model_len": args.context}
    model |= {"max_num_seq": args.sequences, "max_num_batched_tokens": args.context}
    given = [f"checkpoint_name={args.checkpoint}", f"prompts={args.prompts}", "greedy=true"]
    return read_serve_config(compose("serve", given + [f"model.{name}={value}" for name, value in model.items()]))


def make_cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Questions about clips, each another one."""
    import io

    import numpy as np
    import soundfile

    rng, cases = random.Random(args.seed), []
    for number in range(args.requests):
        noise = np.random.default_rng(number)
        times = np.arange(round(16000 * rng.uniform(*args.seconds))) / 16000
        decay = np.exp(-(times % rng.uniform(0.3, 1.0)) * rng.uniform(2, 20))
        tone = np.sin(2 * np.pi * rng.uniform(60, 3000) * times) + rng.random() * noise.standard_normal(len(times))
        file = io.BytesIO()
        soundfile.write(file, np.clip(0.3 * decay * tone, -1, 1), 16000, format="WAV", subtype="PCM_16")
        cases.append({"key": str(number), "question": rng.choice(QUESTIONS), "clip": file.getvalue()})
    return cases


def offline(loaded: Loaded, config: ServeConfig, cases: list[dict[str, Any]]) -> tuple[dict[str, Any], float]:
    """Answer and number of tokens of each case, and the seconds of all."""
    from src.generation.requests import Sampling
    from src.generation.respond import Item, Turns, hearing_requests, in_batches
    from src.prompts.thoughts import split_response

    reset(loaded)
    ears = next(iter(loaded.ears.values()))
    prompts = next(iter(loaded.prompts.values()))
    turns = Turns(loaded.engine.tokenizer, prompts, prompts.generation_system, ears.explicit_tags)
    items = (Item(case["key"], case["question"], case["clip"]) for case in cases)
    model = config.model
    closing = prompts.budget_closing
    sampling = Sampling(model.max_tokens, model.max_thinking_tokens, greedy=True, budget_closing=closing)
    began = time.perf_counter()
    requests = hearing_requests(in_batches(items, config.batch_size), ears, turns)
    results = list(loaded.engine.run(requests, sampling))
    seconds = time.perf_counter() - began
    return {each.key: (list(split_response(each.text)), each.num_tokens) for each in results}, seconds


def served(
    loaded: Loaded, config: ServeConfig, cases: list[dict[str, Any]], count: int, stream: bool
) -> tuple[dict[str, Any], float]:
    """The same through a server in this process and clients in another; the time is the clients'."""
    import socket
    import threading
    from base64 import b64encode

    from src.serving.server import Server
    from src.serving.start import make_app

    reset(loaded)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(make_app(loaded, config), config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    bodies = [
        {
            "model": next(iter(loaded.ears)),
            "stream": stream,
            "messages": [{"role": "user", "content": [{"type": "text", "text": case["question"]}, wav]}],
        }
        for case in cases
        for wav in [
            {"type": "input_audio", "input_audio": {"data": b64encode(case["clip"]).decode(), "format": "wav"}}
        ]
    ]
    command = [sys.executable, __file__, "--as-clients", f"http://127.0.0.1:{listener.getsockname()[1]}"]
    work = json.dumps({"count": count, "bodies": bodies})
    told = subprocess.run(command, input=work, capture_output=True, text=True, check=True).stdout
    server.should_exit = True
    thread.join()
    found = json.loads(told)
    return {case["key"]: answer for case, answer in zip(cases, found["answers"], strict=True)}, found["seconds"]


def reset(loaded: Loaded) -> None:
    """Forget the prompts of the round before."""
    loaded.engine.core._llm.reset_prefix_cache()  # type: ignore[attr-defined]


async def clients(address: str) -> None:
    """Ask what standard input lists, so many at a time; answers and seconds to standard output."""
    import aiohttp  # parses in C: the clients share the cores with what they measure

    work = json.load(sys.stdin)
    waiting = list(enumerate(work["bodies"]))[::-1]
    answers: list[Any] = [None] * len(waiting)

    async def one(session: aiohttp.ClientSession) -> None:
        while waiting:
            place, body = waiting.pop()
            async with session.post(f"{address}/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                answers[place] = await answer.read()

    limits, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=limits, timeout=patience) as session:
        await (await session.get(f"{address}/health")).read()
        began = time.perf_counter()
        await asyncio.gather(*(one(session) for _ in range(work["count"])))
        seconds = time.perf_counter() - began
    told = [
        parts(text.decode()) if body["stream"] else whole(json.loads(text))
        for text, body in zip(answers, work["bodies"], strict=True)
    ]
    print(json.dumps({"answers": told, "seconds": seconds}))


def whole(body: Any) -> list[str]:
    """Thoughts and answer."""
    message = body["choices"][0]["message"]
    return [message["reasoning_content"] or "", message["content"]]


def parts(text: str) -> list[str]:
    """Thoughts and answer of a stream."""
    found = ["", ""]
    for line in text.split("\n\n"):
        if line and line != "data: [DONE]":
            delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            found[0] += delta.get("reasoning_content", "")
            found[1] += delta.get("content", "")
    return found


if __name__ == "__main__":
    run_cli(main)
