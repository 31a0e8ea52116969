r"""Answers per second through the HTTP server, against the same engine offline, in one run.

In:  clips are drawn tones and noise of --seconds; every client sends the next request as soon as it has its answer.
Out: a table; rows with --json. Exits with 1 if any answer is not that of the offline engine.
Ours: --clients at once ask --requests questions over HTTP, base64 WAV in, JSON out; streamed and whole.
Baseline: the same questions through the offline engine (what generate_vllm.py runs), clips in memory; in a thread,
as the server has it: vLLM on a CPU pins the main thread's workers to cores, which costs where others use them too.
All decode greedily. The clients run in a process of their own, on the same machine.
With --servers, running servers answer the same questions by `vllm bench serve` in turn, and --text-servers, which
have the language model alone, as long prompts of words; the first is the baseline.

    python scripts/perf/serve.py --json serve.json           # the miniature, on any machine
    python scripts/perf/serve.py --max-tokens 64 --servers vllm=http://127.0.0.1:8001 ours=http://127.0.0.1:8000
    python scripts/perf/serve.py --checkpoint Blinorot/ALARM-CA --prompts full --max-tokens 512 --budget 256
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, device_name, rates, run_bench
from src.common.cli import run_cli

if TYPE_CHECKING:
    from src.serving.config import ServeConfig
    from src.serving.start import Loaded

QUESTIONS = ("which sound comes first?", "what do you hear?", "is the sound loud or soft?", "describe what you hear.")


def main() -> int:
    parser = bench_parser(__doc__)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, nargs=2, default=[1.0, 4.0], help="shortest and longest clip")
    parser.add_argument("--checkpoint", help="default: saved/mini_alarm_ca; where it is missing, random adapters")
    parser.add_argument("--prompts", default="mini")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--budget", type=int, default=96, help="thinking budget")
    parser.add_argument("--sequences", type=int, default=32, help="decoded at the same time")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--servers", nargs="+", metavar="NAME=URL", help="compare servers that run already")
    parser.add_argument("--text-servers", nargs="+", metavar="NAME=URL", default=[], help="without audio")
    parser.add_argument("--tokenizer", type=Path, default=Path("assets/mini/llm"), help="with --servers")
    parser.add_argument("--as-clients", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_clients:
        asyncio.run(clients(args.as_clients))
        return 0
    wrong = 0

    def counted(args: argparse.Namespace) -> list[BenchRow]:
        nonlocal wrong
        with tempfile.TemporaryDirectory() as folder:
            rows, wrong = measure(args, Path(folder))
        print(f"{wrong} of {2 * args.rounds * args.requests} answers differ from the offline engine's")
        return rows

    run_bench(parser, compare if args.servers else counted)
    return 1 if wrong else 0


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[BenchRow], int]:
    """Both ways in turn, after an unmeasured round of a few requests; rows, and the number of wrong answers."""
    from concurrent.futures import ThreadPoolExecutor

    from src.serving.start import load

    config = settings(args, args.checkpoint or usual_checkpoint(folder))
    loaded = load(config)
    cases = make_cases(args)
    thread = ThreadPoolExecutor(1)
    thread.submit(offline, loaded, config, cases[:16]).result()
    spent: dict[str, list[float]] = {way: [] for way in ("offline", "whole", "streamed")}
    wrong = 0
    for number in range(args.rounds):
        expected, seconds = thread.submit(offline, loaded, config, cases).result()
        spent["offline"].append(seconds)
        for way in ("whole", "streamed") if number % 2 else ("streamed", "whole"):
            answers, seconds = served(loaded, config, cases, args.clients, way == "streamed")
            spent[way].append(seconds)
            wrong += sum(answers[key] != text for key, (text, _) in expected.items())
    tokens = sum(count for _, count in expected.values())
    rows = []
    for way in ("whole", "streamed"):
        for unit, count in (("answers/s", len(cases)), ("tokens/s", tokens)):
            speeds = (rates(count, spent[each]) for each in (way, "offline"))
            rows.append(BenchRow(f"{way}, {args.clients} clients", unit, *speeds, device_name()))
    loaded.engine.close()
    return rows, wrong


def compare(args: argparse.Namespace) -> list[BenchRow]:
    """Requests and tokens per second of running servers by ``vllm bench serve``, against the first of them."""
    import httpx

    from src.common.errors import UserError

    servers = {}
    for each in [*args.servers, *args.text_servers]:
        name, _, url = each.partition("=")
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{each!r}: expected NAME=URL, as in ours=http://127.0.0.1:8000")
        servers[name] = url
    texts = {each.partition("=")[0] for each in args.text_servers}
    models = {name: httpx.get(f"{url}/v1/models").json()["data"][0]["id"] for name, url in servers.items()}
    cases, baseline = make_cases(args), next(iter(servers))
    usages = []
    for body in bodies_of(models[baseline], cases[:32], False, args):
        response = httpx.post(f"{servers[baseline]}/v1/chat/completions", json=body, timeout=300)
        if response.status_code != 200:
            raise UserError(f"{baseline} answers {response.status_code}: {response.text[:300]}")
        usages.append(response.json()["usage"])
    prompt, answer = (
        round(sum(each[f"{kind}_tokens"] for each in usages) / len(usages)) for kind in ("prompt", "completion")
    )
    print(f"{prompt} tokens in a prompt, {answer} in an answer (means)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder, cases, prompt)

        def bench(name: str, count: int) -> dict[str, Any]:
            kind = ["custom_audio", "--dataset-path", str(folder / "clips.jsonl"), "--enable-multimodal-chat"]
            length = args.max_tokens
            if name in texts:
                kind, length = ["custom", "--dataset-path", str(folder / "texts.jsonl"), "--ignore-eos"], answer
            command = [str(Path(sys.executable).parent / "vllm"), "bench", "serve", "--backend", "openai-chat"]
            command += ["--base-url", servers[name], "--endpoint", "/v1/chat/completions", "--model", models[name]]
            command += ["--tokenizer", str(args.tokenizer), "--skip-chat-template", "--num-prompts", str(count)]
            command += ["--max-concurrency", str(args.clients), "--custom-output-len", str(length)]
            command += ["--temperature", "0", "--disable-tqdm", "--num-warmups", "8"]
            command += ["--save-result", "--result-dir", str(folder)]
            command += ["--result-filename", "result.json", "--dataset-name", *kind]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"vllm bench serve failed for {name}: {done.stderr.strip().splitlines()[-1]}")
            found: dict[str, Any] = json.loads((folder / "result.json").read_text())
            if found["completed"] != count:
                raise UserError(f"{name} answered {found['completed']} of {count} requests")
            return found

        found = alternate({each: partial(bench, each, args.requests) for each in servers}, args.rounds)
    units = (
        ("request_throughput", "requests/s", ""),
        ("output_throughput", "tokens/s", ""),
        ("median_ttft_ms", "ms", ", first token"),
    )
    device = f"{device_name()}, {args.clients} clients"
    return [
        BenchRow(name + more, unit, *([run[key] for run in found[each]] for each in (name, baseline)), device)
        for name in servers
        for key, unit, more in units
    ]


def write_questions(folder: Path, cases: list[dict[str, Any]], tokens: int) -> None:
    """``clips.jsonl`` with the questions and clips, ``texts.jsonl`` with as many drawn texts of ``tokens`` words."""
    draw = random.Random(0)
    with open(folder / "clips.jsonl", "w") as clips, open(folder / "texts.jsonl", "w") as texts:
        for case in cases:
            (folder / f"{case['key']}.wav").write_bytes(case["clip"])
            row = {"prompt": case["question"], "audio": str(folder / f"{case['key']}.wav")}
            clips.write(json.dumps(row) + "\n")
            words = draw.choices(" ".join(QUESTIONS).replace("?", "").replace(".", "").split(), k=tokens)
            texts.write(json.dumps({"prompt": " ".join(words)}) + "\n")


def bodies_of(model: str, cases: list[dict[str, Any]], stream: bool, args: Any = None) -> list[dict[str, Any]]:
    """Chat requests; with ``args`` also the limits on tokens, which a server of this process has as defaults."""
    from base64 import b64encode

    limits = {"temperature": 0, "max_tokens": args.max_tokens} if args else {}
    return [
        {
            "model": model,
            "stream": stream,
            "messages": [{"role": "user", "content": [{"type": "text", "text": case["question"]}, wav]}],
            **limits,
        }
        for case in cases
        for wav in [
            {"type": "input_audio", "input_audio": {"data": b64encode(case["clip"]).decode(), "format": "wav"}}
        ]
    ]


def run_clients(address: str, bodies: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Answers and seconds of clients in a process of their own."""
    command = [sys.executable, __file__, "--as-clients", address]
    work = json.dumps({"count": count, "bodies": bodies})
    found: dict[str, Any] = json.loads(
        subprocess.run(command, input=work, capture_output=True, text=True, check=True).stdout
    )
    return found


def usual_checkpoint(folder: Path) -> str:
    """The trained miniature; where it is missing, one with random adapters, written to ``folder``."""
    from src.common.paths import REPO_ROOT
    from src.model.audio_embedder import build_audio_embedder
    from src.model.checkpoints import save_checkpoint
    from src.model.published import model_config

    trained = REPO_ROOT / "saved/mini_alarm_ca"
    if trained.is_dir():
        return str(trained)
    config = model_config("mini_alarm_ca")
    return str(save_checkpoint(folder, build_audio_embedder(config.config, config.llm_embedding_dim or 0), config))


def settings(args: argparse.Namespace, checkpoint: str) -> ServeConfig:
    """Configuration as ``serve.py`` would get it."""
    from src.common.config import compose
    from src.serving.config import read_serve_config

    model = {"max_tokens": args.max_tokens, "max_thinking_tokens": args.budget, "max_model_len": args.context}
    model |= {"max_num_seq": args.sequences, "max_num_batched_tokens": args.context}
    given = [f"checkpoint_name={checkpoint}", f"prompts={args.prompts}", "greedy=true"]
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
    from src.generation.config import RunConfig
    from src.inference.prompt_builder import PromptBuilder, RowInput, audio_requests, in_batches
    from src.inference.types import Sampling
    from src.prompts.reasoning import split_response

    reset(loaded)
    ensemble = next(iter(loaded.ensembles.values()))
    prompts = next(iter(loaded.prompts.values()))
    builder = PromptBuilder(loaded.engine.tokenizer, prompts, prompts.generation_system, ensemble.explicit_tags)
    items = (RowInput(case["key"], case["question"], case["clip"]) for case in cases)
    model = config.model
    closing = prompts.budget_closing
    sampling = Sampling(model.max_tokens, model.max_thinking_tokens, greedy=True, budget_closing=closing)
    began = time.perf_counter()
    requests = audio_requests(in_batches(items, RunConfig.batch_size), ensemble, builder)
    results = list(loaded.engine.run(requests, sampling))
    seconds = time.perf_counter() - began
    return {each.key: (list(split_response(each.text)), each.num_tokens) for each in results}, seconds


def served(
    loaded: Loaded, config: ServeConfig, cases: list[dict[str, Any]], count: int, stream: bool
) -> tuple[dict[str, Any], float]:
    """The same through a server in this process and clients in another; the time is the clients'."""
    import socket
    import threading

    from src.serving.app import Server
    from src.serving.start import make_app

    reset(loaded)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(make_app(loaded, config), config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    bodies = bodies_of(next(iter(loaded.ensembles)), cases, stream)
    found = run_clients(f"http://127.0.0.1:{listener.getsockname()[1]}", bodies, count)
    server.should_exit = True
    thread.join()
    return {case["key"]: answer for case, answer in zip(cases, found["answers"], strict=True)}, found["seconds"]


def reset(loaded: Loaded) -> None:
    """Forget the prompts of the round before."""
    loaded.engine.backend._llm.reset_prefix_cache()  # type: ignore[attr-defined]


async def clients(address: str) -> None:
    """Ask what standard input lists, so many at a time; answers and seconds to standard output."""
    work = json.load(sys.stdin)
    # written before the clock runs: those of a server are on other machines
    waiting = [(place, json.dumps(body).encode()) for place, body in enumerate(work["bodies"])][::-1]
    answers: list[Any] = [None] * len(waiting)
    url = urlsplit(address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"

    async def one(client: Client) -> None:
        while waiting:
            place, body = waiting.pop()
            answers[place] = await client.ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body)

    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(Client, url.hostname, url.port) for _ in range(work["count"])]
    began = time.perf_counter()
    await asyncio.gather(*(one(client) for _, client in opened))
    seconds = time.perf_counter() - began
    told = [
        parts(text.decode()) if body["stream"] else whole(json.loads(text))
        for text, body in zip(map(content, answers), work["bodies"], strict=True)
    ]
    print(json.dumps({"answers": told, "seconds": seconds}))


class Client(asyncio.Protocol):
    """One connection that is kept open, and one request at a time.

    It looks only for the end of an answer: the clients share the cores with the server that they measure, and
    those of a client library took 1.5 ms of a core per request.
    """

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    async def ask(self, head: bytes, body: bytes) -> bytes:
        """The answer, with its head."""
        self._got, self._end = bytearray(), -1
        self._done = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._end < 0 and (end := self._got.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"\r\ncontent-length: (\d+)", self._got[:end].lower())
            self._end = end + 4 + int(length[1]) if length else 0
        if 0 < self._end <= len(self._got) or self._end == 0 and self._got.endswith(b"\r\n0\r\n\r\n"):
            self._done.set_result(bytes(self._got))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed the connection"))


def content(answer: bytes) -> bytes:
    """Body of an answer; its chunks are joined."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"the server answers {head[:60]!r}: {body[:300]!r}")
    if b"chunked" not in head.lower():
        return body
    joined = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        joined += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return bytes(joined)


def whole(body: Any) -> list[str]:
    """Thoughts and answer."""
    message = body["choices"][0]["message"]
    return [message.get("reasoning_content") or message.get("reasoning") or "", message["content"] or ""]


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
