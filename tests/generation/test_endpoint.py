"""Runs with ``engine=openai`` against a server in this process that also fails in every way servers fail."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.common.paths import REPO_ROOT
from src.generation.run import generate
from src.generation.task_types import FREE, MULTIPLE_CHOICE, Task
from src.generation.worker import Models
from src.inference import chat_endpoint
from src.inference.chat_endpoint import ChatEndpoint, file_format
from src.inference.config import EndpointConfig
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.inference.types import Request, Sampling
from src.model.checkpoints import LoadedEmbedder
from src.prompts.reasoning import Reasoning
from tests.generation.conftest import choice_rows, free_rows, save_set
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.serving.client import running

FREE_REASONING = Reasoning(opened=False, expected=False)


@dataclass
class Server:
    """The server's state: ``reply`` makes the message of a request, ``fault`` names what goes wrong instead."""

    url: str = ""
    reply: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {"content": echo(body)}
    fault: Callable[[str, int], str | None] = lambda asked, attempt: None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def echo(body: dict[str, Any]) -> str:
    """An answer that depends on everything that was asked."""
    digest = sha256(json.dumps([body["messages"], body.get("seed")], sort_keys=True).encode()).hexdigest()
    return f"<answer>{int(digest, 16) % 3}</answer>"


def user_parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts of the user's message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = user_parts(body)[-1]["text"]
            with state.lock:
                state.bodies.append(body)
                state.headers.append(dict(self.headers))
                state.times.append(time.monotonic())
                state.attempts[asked] += 1
                state.open += 1
                state.most_open = max(state.most_open, state.open)
                attempt = state.attempts[asked]
            try:
                self._answer(state.fault(asked, attempt), body)
            finally:
                with state.lock:
                    state.open -= 1

        def _answer(self, fault: str | None, body: dict[str, Any]) -> None:
            choice = {"message": {"role": "assistant", **state.reply(body)}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            content = json.dumps({"choices": [choice], "usage": usage}).encode()
            status, headers = 200, {}
            if fault in ("429", "500", "401", "400", "308", "405"):
                status, content = int(fault), json.dumps({"error": {"message": f"no {fault}"}}).encode()
                headers = {"Retry-After": "0.3"} if fault == "429" else {}
            elif fault == "garbage":
                content = b"\x00<html>not json"
            elif fault == "no choices":
                content = b'{"choices": []}'
            elif fault == "aborted":
                choice = {"message": {"role": "assistant", "content": "<answer>2"}, "finish_reason": "abort"}
                content = json.dumps({"choices": [choice], "usage": usage}).encode()
            elif fault == "slow":
                time.sleep(1.0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "truncated" else content)
            if fault == "truncated":
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once, unless the server asks for a wait."""
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 0.01)


def run(server: Server, name: str, *overrides: str, task: Task = MULTIPLE_CHOICE, code: int = 0) -> Path:
    """A run on the server; its newest output folder."""
    prompts = () if any(word.startswith("prompts=") for word in overrides) else ("prompts=mini",)
    given = [f"dataset.name={name}", *prompts, "engine=openai", f"engine.base_url={server.url}"]
    config = compose("generate", [*given, "engine.model=org/echo", "batch_size=3", *overrides])
    assert generate(config, task) == code
    from src.common.paths import generated_dir

    return max(generated_dir("echo", "x").parent.glob(f"{name}_endpoint*"), key=lambda path: path.stat().st_mtime_ns)


def answers(folder: Path) -> list[dict[str, Any]]:
    """Rows of the only split, without the time they took."""
    (split,) = load_from_disk(str(folder)).values()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in split]


def test_a_run_sends_clip_question_and_seed_and_counts_tokens(data_root: Path, server: Server) -> None:
    rows = choice_rows(7)
    save_set("plain", {"test": rows})
    prices = ("engine.price_per_million_input=2", "engine.price_per_million_output=10")
    folder = run(server, "plain", "model.seed=3", "greedy=true", "model.max_tokens=64", *prices)
    saved = answers(folder)
    assert [row["parse_status"] for row in saved] == ["index"] * 7 and len({row["llm_answer"] for row in saved}) > 1
    assert {row["num_tokens"] for row in saved} == {10}
    body = server.bodies[0]
    assert body["model"] == "org/echo" and body["temperature"] == 0.0 and body["max_tokens"] == 64 + 1024
    assert len({each["seed"] for each in server.bodies}) == 7
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    clip, text = user_parts(body)
    number = int(text["text"].partition("which number is ")[2].partition("?")[0])
    assert clip["input_audio"]["format"] == "wav"
    assert base64.b64decode(clip["input_audio"]["data"]) == rows[number]["audio"]["bytes"]
    record = json.loads((folder / "run.json").read_text())
    assert record["usage"] == {
        "prompt_tokens": 700, "completion_tokens": 70, "rows_without_usage": 0, "cost": 0.0021
    }  # fmt: skip


FAULTS = ("429", "500", "truncated", "garbage", "no choices", "slow")


def faulty(asked: str, attempt: int) -> str | None:
    """Each row meets a fault of its own, then the next kind of fault, then an answer."""
    first = int(sha256(asked.encode()).hexdigest(), 16)
    return FAULTS[(first + attempt) % len(FAULTS)] if attempt <= 2 else None


def test_no_row_is_lost_to_a_server_that_fails_in_every_way(data_root: Path, server: Server) -> None:
    save_set("faults", {"test": choice_rows(18)})
    expected = answers(run(server, "faults", "run_tag=good"))
    server.fault = faulty
    server.attempts.clear()
    saved = answers(run(server, "faults", "run_tag=bad", "engine.timeout=0.5"))
    assert saved == expected
    assert sum(server.attempts.values()) > 40, "the faults have happened"


def test_the_server_decides_how_long_to_wait(data_root: Path, server: Server) -> None:
    save_set("busy", {"test": choice_rows(1)})
    server.fault = lambda asked, attempt: "429" if attempt == 1 else None
    run(server, "busy")
    assert server.times[1] - server.times[0] >= 0.3


def test_a_row_without_an_answer_is_recorded_and_asked_again(data_root: Path, server: Server) -> None:
    save_set("gaps", {"test": choice_rows(6)})
    server.fault = lambda asked, attempt: {"2": "garbage", "4": "400"}.get(asked.partition("number is ")[2][0])
    folder = run(server, "gaps", "engine.attempts=3", "strict=true", code=3)
    saved = answers(folder)
    assert [row["status"] for row in saved] == ["ok", "ok", "unavailable", "ok", "refused", "ok"]
    assert "3 attempts failed" in saved[2]["error"] and "400: no 400" in saved[4]["error"]
    server.fault, asked = lambda asked, attempt: None, len(server.bodies)
    again = answers(run(server, "gaps", "engine.attempts=3"))
    assert len(server.bodies) == asked + 1, "only the unavailable row is asked again"
    assert [row["status"] for row in again] == ["ok", "ok", "ok", "ok", "refused", "ok"]


@pytest.mark.parametrize("status", ["308", "405"])
def test_an_address_that_is_not_the_endpoint_ends_the_run(data_root: Path, server: Server, status: str) -> None:
    """A redirect (http for https) or a path of another method would refuse every row, for good."""
    save_set("moved", {"test": choice_rows(2)})
    server.fault = lambda asked, attempt: status
    with pytest.raises(UserError, match=f"answers {status}.*check engine.base_url"):
        run(server, "moved")


def test_a_response_that_the_server_broke_off_is_asked_for_again(data_root: Path, server: Server) -> None:
    """The finish reason "abort": what had been written was kept as the answer."""
    save_set("ended", {"test": choice_rows(2)})
    expected = answers(run(server, "ended", "run_tag=whole"))
    server.attempts.clear()
    server.fault = lambda asked, attempt: "aborted" if attempt == 1 else None
    assert answers(run(server, "ended", "run_tag=broken")) == expected


def test_five_ends_in_the_middle_change_nothing(data_root: Path, server: Server) -> None:
    save_set("ends", {"test": choice_rows(12)})
    expected = answers(run(server, "ends", "run_tag=whole", "model.seed=1"))
    for _ in range(5):
        left = iter(range(2))  # two answers, then a refused key
        server.fault = lambda asked, attempt, left=left: None if next(left, None) is not None else "401"
        with pytest.raises(UserError, match="answers 401.*api_key_env"):
            run(server, "ends", "run_tag=parts", "model.seed=1", "engine.concurrency=1")
    server.fault, asked = lambda asked, attempt: None, len(server.bodies)
    assert answers(run(server, "ends", "run_tag=parts", "model.seed=1", "engine.concurrency=1")) == expected
    assert len(server.bodies) - asked == 12 - 5 * 2, "rows that were done are not asked again"


@pytest.mark.slow
def test_five_kills_of_the_command_change_nothing(data_root: Path, server: Server) -> None:
    save_set("kills", {"test": choice_rows(40)})
    command = [sys.executable, "generate_vllm_mcqa.py", "dataset.name=kills", "prompts=mini", "engine=openai"]
    command += [f"engine.base_url={server.url}", "engine.model=org/echo", "model.seed=1", "engine.concurrency=2"]
    whole = subprocess.run([*command, "run_tag=whole"], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    server.fault = lambda asked, attempt: "500" if attempt == 2 else "slow" if asked.endswith("3?") else None
    for kill in range(1, 6):
        asked = len(server.bodies) + 6
        process = subprocess.Popen([*command, "run_tag=parts"], cwd=REPO_ROOT, stderr=subprocess.DEVNULL)
        while len(server.bodies) < asked and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, f"ended before kill {kill}"
        process.kill()
        process.wait()
    subprocess.run([*command, "run_tag=parts"], cwd=REPO_ROOT, check=True, capture_output=True)
    folder = data_root / "generated" / "echo"
    parts, done = (answers(next(folder.glob(f"kills_*_{tag}"))) for tag in ("parts", "whole"))
    assert len(done) == 40 and parts == done


def test_reasoning_of_the_server_is_kept_apart(data_root: Path, server: Server) -> None:
    save_set("thoughts", {"test": free_rows(3)})
    server.reply = lambda body: {"content": "a kick", "reasoning_content": "i hear it."}
    row = answers(run(server, "thoughts", task=FREE))[0]
    assert row["thoughts"] == "i hear it." and row["answer_text"] == "a kick"
    assert row["response"] == "i hear it.\n</think>\n\na kick"
    server.reply = lambda body: {"content": "<think>hm</think>a snare"}
    row = answers(run(server, "thoughts", "run_tag=inline", task=FREE))[0]
    assert row["thoughts"] == "hm" and row["answer_text"] == "a snare"
    server.reply = lambda body: {"content": None, "reasoning": "still at it"}
    row = answers(run(server, "thoughts", "run_tag=cut", task=FREE))[0]
    assert row["thoughts"] == "still at it" and row["parse_status"] == "unfinished_thoughts"


def test_no_clip_and_another_clip(data_root: Path, server: Server) -> None:
    rows = choice_rows(5)
    save_set("controls", {"test": rows})
    run(server, "controls", "audio_input=none")
    assert all(len(user_parts(body)) == 1 for body in server.bodies)
    server.bodies.clear()
    run(server, "controls", "audio_input=other")
    for body in server.bodies:
        clip, text = user_parts(body)
        number = int(text["text"].partition("which number is ")[2].partition("?")[0])
        sent = base64.b64decode(clip["input_audio"]["data"])
        assert sent in [row["audio"]["bytes"] for row in rows] and sent != rows[number]["audio"]["bytes"]
    server.bodies.clear()
    run(server, "controls", "audio_input=description")
    assert rows[0]["audio_description"] in str([body["messages"] for body in server.bodies])


def test_clips_of_other_formats_and_changed_clips_become_wav(data_root: Path, server: Server) -> None:
    save_set("formats", {"test": choice_rows(2)})
    run(server, "formats", "engine.audio_formats=[mp3]", "augment=noise")
    data = base64.b64decode(user_parts(server.bodies[0])[0]["input_audio"]["data"])
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
    assert [file_format(each) for each in (b"ID3\x04", b"\xff\xfb\x90", b"\xff\xf1\x50", b"fLaC", b"")] == [
        "mp3", "mp3", None, "flac", None
    ]  # fmt: skip


def test_a_bad_clip_has_its_usual_status_and_is_not_sent(data_root: Path, server: Server) -> None:
    rows = choice_rows(3)
    rows[1]["audio"] = {"bytes": b"no audio at all", "path": "1.wav"}
    save_set("broken", {"test": rows})
    assert [row["status"] for row in answers(run(server, "broken"))] == ["ok", "unreadable_audio", "ok"]
    assert len(server.bodies) == 2


def test_the_key_is_sent_and_stored_nowhere(data_root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    save_set("keys", {"test": choice_rows(1)})
    with pytest.raises(UserError, match="ECHO_KEY: this environment variable is not set"):
        run(server, "keys", "engine.api_key_env=ECHO_KEY")
    monkeypatch.setenv("ECHO_KEY", "sk-very-secret")
    folder = run(server, "keys", "engine.api_key_env=ECHO_KEY")
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert not any(b"very-secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_concurrency_and_rate_are_bounded(server: Server) -> None:
    server.fault = lambda asked, attempt: "slow" if asked in ("0", "1", "2") else None
    config = EndpointConfig(server.url, "echo", concurrency=3, requests_per_minute=1200)
    requests = [Request(str(n), messages=({"role": "user", "content": str(n)},)) for n in range(9)]
    with closing(ChatEndpoint(config, FREE_REASONING)) as endpoint:
        results = list(endpoint.run(requests, Sampling(max_tokens=4)))
    assert sorted(result.key for result in results) == [str(n) for n in range(9)]
    assert server.most_open == 3
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert min(gaps) > 0.03, "one every 0.05 s"


def test_a_server_that_is_gone_ends_the_run_in_one_line() -> None:
    config = EndpointConfig("http://127.0.0.1:9/v1", "echo", attempts=1, concurrency=4)
    requests = (Request(str(n), messages=({"role": "user", "content": "x"},)) for n in range(1000))
    finished = 0
    with closing(ChatEndpoint(config, FREE_REASONING)) as endpoint, pytest.raises(UserError, match="20 rows one"):
        for _ in endpoint.run(requests, Sampling()):
            finished += 1
    assert finished == 20


def test_dry_run_and_one_row(data_root: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    save_set("look", {"test": choice_rows(5)})
    given = ["dataset.name=look", "prompts=mini", "engine=openai", f"engine.base_url={server.url}"]
    given += ["engine.model=echo", "engine.price_per_million_input=1000", "engine.price_per_million_output=0"]
    with caplog.at_level("INFO"):
        assert generate(compose("generate", [*given, "dry_run=true"]), MULTIPLE_CHOICE) == 0
        assert generate(compose("generate", [*given, "dataset.debug_ind=1"]), MULTIPLE_CHOICE) == 0
    assert "cost: about 0.50" in caplog.text and "rows: 5" in caplog.text
    assert f"2 messages for {server.url}/chat/completions" in caplog.text
    assert not (data_root / "generated").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine.base_url=localhost:8000"], "expected the server's address"),
        (["engine.base_url=http://me:pw@host/v1"], "holds credentials"),
        (["engine.model=null"], "the name of the model"),
        (["checkpoint_name=a"], "no use for checkpoint_name"),
        (["answers=likelihood"], "no use for answers=likelihood"),
        (["engine.concurrency=0"], "config.engine: concurrency is 0"),
    ],
)
def test_settings_that_cannot_be_meant(overrides: list[str], message: str) -> None:
    given = ["dataset.name=x", "engine=openai", "engine.base_url=http://host/v1", "engine.model=m", *overrides]
    with pytest.raises(ConfigError, match=message):
        generate(compose("generate", given), MULTIPLE_CHOICE)


def test_a_preset_is_asked_and_read_in_its_own_style(data_root: Path, server: Server) -> None:
    save_set("styles", {"test": choice_rows(3)})
    server.reply = lambda body: {"content": "<think>C?</think>(B)"}
    saved = answers(run(server, "styles", "prompts=mmsu"))
    assert {(row["llm_answer"], row["parse_status"]) for row in saved} == {("green", "chosen_letter")}
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user"], (
        "MMSU's prompt has no system text"
    )
    assert user_parts(server.bodies[0])[-1]["text"].endswith("\n\nA. red\nB. green\nC. blue")


def test_answers_through_our_server_equal_those_in_process(
    data_root: Path, loaded: LoadedEmbedder, llm: Path
) -> None:
    def script(prompt: str) -> str:
        """An answer that depends on every character of the prompt and on the number of its embeddings."""
        digest = sha256(prompt.encode()).hexdigest()
        return f"i hear {digest}.\n</think>\n\n<answer>{int(digest, 16) % 4}</answer>"

    def fresh() -> Engine:
        return Engine(ScriptedBackend(script, width=192), CharTokenizer(), 4, 2)

    ensemble = EmbedderEnsemble([loaded])
    rows = choice_rows(24)
    rows[5]["audio"] = {"bytes": b"", "path": "5.wav"}
    save_set("both", {"test": rows})
    given = ["dataset.name=both", "prompts=mini", "greedy=true", "model.max_thinking_tokens=-1", "batch_size=4"]
    here = compose("generate", [*given, f"checkpoint_name={loaded.name}"])
    assert generate(here, MULTIPLE_CHOICE, lambda job: Models(fresh(), ensemble)) == 0
    with running(over=fresh(), ensembles={"one": ensemble}) as (address, _):
        there = [*given, "engine=openai", f"engine.base_url={address}/v1", "engine.model=one"]
        assert generate(compose("generate", there), MULTIPLE_CHOICE) == 0
    generated = data_root / "generated"
    (first,), (second,) = generated.glob(f"{llm.name}/both_*"), generated.glob("one/both_endpoint_*")
    names = ("dataset_index", "question", "llm_answer", "parse_status", "status", "thoughts", "error")
    expected, found = ([{name: row[name] for name in names} for row in answers(each)] for each in (first, second))
    assert expected == found
    assert Counter(row["status"] for row in expected) == {"ok": 23, "empty_audio": 1}
    assert {"index", "out_of_range"} < {row["parse_status"] for row in expected}
