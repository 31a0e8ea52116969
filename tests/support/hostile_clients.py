"""Hostile clients beside a normal one, against a running server; see ``scripts/check_server.py``."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.common.paths import ASSETS, REPO_ROOT

CHAT = "/v1/chat/completions"
CLIP = ASSETS / "mini/sounds/flac/bd_klub_0.flac"
MIB = 2**20
NICENESS = 10


def broken(found: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """Names of the bounds that do not hold."""
    bounds = {
        "slowdown": found["slowdown"] <= args.slowdown,
        "health_slowest_s": found["health_slowest_s"] <= args.health,
        "memory_mib": found["memory_mib"] is None or found["memory_mib"] <= args.memory,
        "wrong_answers": not found["wrong_answers"],
        "health_failed": not found["health_failed"],
    }
    return [name for name, holds in bounds.items() if not holds]


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Measure twice, without and with the hostile clients."""
    import httpx

    model = httpx.get(f"{args.url}/v1/models").json()["data"][0]["id"]
    watch = Watch(args.url, model, args.pid)
    watch.ask()
    usual = watch.measure(args.seconds)
    with attacking(args, model) as statuses:
        time.sleep(min(2.0, args.seconds))
        loaded = watch.measure(args.seconds)
    return {
        "usual_median_s": round(usual["median"], 3),
        "loaded_median_s": round(loaded["median"], 3),
        "slowdown": round(loaded["median"] / usual["median"], 2),
        "answers": [usual["answers"], loaded["answers"]],
        "wrong_answers": usual["wrong"] + loaded["wrong"],
        "health_slowest_s": round(loaded["health"], 3),
        "health_failed": usual["failed"] + loaded["failed"],
        "memory_mib": None if args.pid is None else round(loaded["memory"] - usual["memory"]),
        "attacks": statuses,
    }


class Watch:
    """A normal client with a short clip, another that asks for ``/health``, and the memory of the server."""

    def __init__(self, url: str, model: str, pid: int | None) -> None:
        self._url, self._pid = url, pid
        audio = {"data": b64encode(CLIP.read_bytes()).decode(), "format": "flac"}
        content = [{"type": "text", "text": "what do you hear?"}, {"type": "input_audio", "input_audio": audio}]
        self._body = {"model": model, "temperature": 0, "max_tokens": 64}
        self._body["messages"] = [{"role": "user", "content": content}]
        self._expected: Any = None

    def ask(self) -> tuple[float, bool]:
        """Seconds of one question, and whether the answer is the same as before."""
        import httpx

        began = time.perf_counter()
        response = httpx.post(f"{self._url}{CHAT}", json=self._body, timeout=120)
        seconds = time.perf_counter() - began
        message = response.json()["choices"][0]["message"] if response.status_code == 200 else response.text
        self._expected = self._expected or message
        return seconds, message == self._expected

    def measure(self, seconds: float) -> dict[str, Any]:
        """Median seconds of an answer, the slowest ``/health``, and the largest memory in MiB."""
        import httpx

        times: list[float] = []
        wrong, failed, slowest, memory = 0, 0, 0.0, 0.0
        ended = threading.Event()

        def look() -> None:
            nonlocal failed, slowest, memory
            with httpx.Client(timeout=60) as client:
                while not ended.is_set():
                    began = time.perf_counter()
                    try:
                        failed += client.get(f"{self._url}/health").status_code != 200
                    except httpx.HTTPError:
                        failed += 1
                    slowest = max(slowest, time.perf_counter() - began)
                    memory = max(memory, 0.0 if self._pid is None else tree_memory(self._pid))
                    time.sleep(0.05)

        looking = threading.Thread(target=look)
        looking.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until or not times:
            took, same = self.ask()
            times.append(took)
            wrong += not same
            time.sleep(0.05)
        ended.set()
        looking.join()
        median = statistics.median(times)
        found = {"median": median, "answers": len(times), "wrong": wrong, "memory": memory}
        return {**found, "health": slowest, "failed": failed}


@contextlib.contextmanager
def attacking(args: argparse.Namespace, model: str) -> Iterator[dict[str, int]]:
    """Hostile clients in a process of their own; counts what they were answered, which is filled in at the end.

    The process gives way to the server and to the normal client: clients on other machines take no time of theirs.
    """
    given = json.dumps({"args": vars(args), "model": model})
    command = [sys.executable, "-m", "tests.support.hostile_clients"]
    statuses: dict[str, int] = {}
    with subprocess.Popen(
        command, cwd=REPO_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(given + "\n")
        process.stdin.flush()
        process.stdout.readline()  # they have begun
        try:
            yield statuses
        finally:
            process.stdin.close()  # which ends them
            statuses |= json.loads(process.stdout.readline())


def main() -> None:
    """Attack until standard input ends; its first line holds the settings. Prints the counts as JSON."""
    os.nice(NICENESS)
    given = json.loads(sys.stdin.readline())
    with Attackers(argparse.Namespace(**given["args"]), given["model"]) as attackers:
        print("begun", flush=True)
        sys.stdin.read()
    print(json.dumps(attackers.statuses), flush=True)


class Attackers:
    """Threads with hostile clients, until the end of the block; ``statuses`` counts what they were answered."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self._args, self._model = args, model
        self._address = (urlsplit(args.url).hostname or "", urlsplit(args.url).port or 80)
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self.statuses: dict[str, int] = {}

    def __enter__(self) -> Attackers:
        flac = silence(self._args.silence_seconds)
        data = {"data": b64encode(flac).decode(), "format": "flac"}
        clips = [{"type": "input_audio", "input_audio": data}] * 8
        silent = self._request({"messages": [{"role": "user", "content": clips}]})
        work: list[Callable[[], None]] = [
            lambda: self._repeat("silence", [silent]),
            lambda: self._repeat("body", list(self._bodies())),
            self._hold_idle,
            self._stall,
        ]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        for each in self._sockets:
            each.close()

    def _bodies(self) -> Any:
        size = int(self._args.body_mib * MIB) - 1000
        start = json.dumps({"model": self._model, "messages": [{"role": "user", "content": "hi"}]})[:-1].encode()
        yield self._post(start + b',"metadata":{"a":"' + b"x" * size + b'"}}')
        yield self._post(start + b',"metadata":{"a":[' + b"0," * (size // 2) + b"0]}}")
        yield self._post(start + b',"' + b"k" * size + b'":1}')
        yield self._request({"messages": [{"role": "user", "content": "x" * size}]})

    def _request(self, fields: dict[str, Any]) -> bytes:
        return self._post(json.dumps({"model": self._model, **fields}).encode())

    def _post(self, body: bytes) -> bytes:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _repeat(self, name: str, requests: list[bytes]) -> None:
        number = 0
        while not self._ended.is_set():
            try:
                with socket.create_connection(self._address, 60) as client:
                    client.sendall(requests[number % len(requests)])
                    status = client.recv(100).split(b" ")[1].decode()
            except (OSError, IndexError):
                status = "closed"
            self.statuses[f"{name} {status}"] = self.statuses.get(f"{name} {status}", 0) + 1
            number += 1

    def _hold_idle(self) -> None:
        half = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n".encode()
        starts = (b"", half, half + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        open_: list[socket.socket] = []
        while not self._ended.is_set():
            while len(open_) < self._args.idle and not self._ended.is_set():
                try:
                    open_.append(socket.create_connection(self._address, 5))
                    open_[-1].sendall(starts[len(open_) % 3])
                    open_[-1].setblocking(False)
                except OSError:
                    time.sleep(0.1)
            time.sleep(0.5)
            open_ = [each for each in open_ if not closed(each)]
        self._sockets += open_

    def _stall(self) -> None:
        fields = {"stream": True, "max_tokens": 100_000, "n": 1}
        request = self._request({**fields, "messages": [{"role": "user", "content": "describe everything."}]})
        while not self._ended.is_set():
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(self._address)
            client.sendall(request)
            self._sockets.append(client)
            self._ended.wait(1.0)


def closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection; what it has sent is dropped."""
    try:
        while client.recv(1000):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    client.close()
    return True


def silence(seconds: float, rate: int = 192_000) -> bytes:
    """Silence in a FLAC file: a hundred kilobytes for minutes."""
    import numpy as np
    import soundfile

    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(int(seconds)):
            out.write(np.zeros(rate, dtype=np.float32))
    return file.getvalue()


def tree_memory(pid: int) -> float:
    """Memory of a process and its children in MiB.

    What is shared counts once for each share (PSS), files in memory (memfd) by the process that made them.
    """
    total, waiting, seen = 0.0, [pid], set()
    while waiting:
        here = Path(f"/proc/{waiting.pop()}")
        try:
            rollup = (here / "smaps_rollup").read_text()
            children = " ".join((task / "children").read_text() for task in (here / "task").iterdir())
            files = list((here / "fd").iterdir())
        except OSError:
            continue
        total += float(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))) / 1024
        for file in files:
            with contextlib.suppress(OSError):  # closed meanwhile
                found = file.stat()
                if "/memfd:" in os.readlink(file) and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    total += found.st_blocks * 512 / MIB
        waiting += {int(child) for child in children.split()}
    return total


if __name__ == "__main__":
    main()
