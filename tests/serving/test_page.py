"""The page in a real browser: a file is uploaded, thoughts stream and fold, the answer stands."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from src.serving.clip_decoder import ApiError
from src.serving.config import GateConfig, Limits, ServeConfig
from tests.serving.client import ANSWER, listening, running, script, wait_until
from tests.serving.fakes import FakeEnsemble, engine
from tests.serving.sounds import encoded

pytest.importorskip("gradio", reason="needs requirements-serve.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FAKE_MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@contextmanager
def page_for(server: str, config: ServeConfig | None = None) -> Iterator[str]:
    """Address of a page for a server."""
    from src.serving.page import page_app

    with listening(page_app(config or ServeConfig(), server)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    ensembles = {"single": FakeEnsemble(loudest=2.0), "ensemble": FakeEnsemble(2)}  # a false microphone is loud
    with running(over=engine(script, context=20_000, seconds=0.005), ensembles=ensembles) as (address, _):
        yield address


@pytest.fixture(scope="module")
def address(server: str) -> Iterator[str]:
    with page_for(server) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as running_playwright:
        started = running_playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE + FAKE_MICROPHONE)
        yield started
        started.close()


async def asked(handlers: Any, question: str) -> list[Any]:
    """History after a question, and the turns that it leaves."""
    steps = [step async for step in handlers.answer(None, question, None, 30, 0.0, False, [], [])]
    return list(steps[-1])


def test_the_page_is_a_client_of_the_server(server: str, address: str) -> None:
    from src.serving.page import PageHandlers

    assert httpx.get(f"{address}/").status_code == 200
    assert httpx.get(f"{address}/config").json()["title"] == "ALARM"
    handlers = PageHandlers(server, ServeConfig())
    assert asyncio.run(handlers.models()) == ["single", "ensemble"]
    history, turns = asyncio.run(asked(handlers, "what?"))
    assert history[0] == {"role": "user", "content": "what?"} and history[-1]["content"] == ANSWER
    assert history[1]["metadata"] == {"title": "Thoughts", "status": "done"} and len(turns) == 2


def test_a_server_that_does_not_answer_is_told() -> None:
    from src.serving.page import PageHandlers

    handlers = PageHandlers("http://127.0.0.1:9", ServeConfig())
    assert asyncio.run(handlers.models()) == []
    history, turns = asyncio.run(asked(handlers, "what?"))
    assert "does not answer" in history[-1]["content"] and turns == []


def test_the_page_has_the_checks_of_the_server() -> None:
    with page_for("http://127.0.0.1:9", ServeConfig(api_key="sesame")) as address:
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/upload", "/health"):
            refused = httpx.get(f"{address}{path}")
            assert refused.status_code == 401 and "Basic" in refused.headers["www-authenticate"]
        assert httpx.get(f"{address}/", auth=("me", "sesame")).status_code == 200


def test_s7_uploads_and_questions_are_bounded(address: str) -> None:
    from src.serving.page import WAITING, PageBounds, PageHandlers, _folder_bytes, _temporary_folder, build_page

    assert httpx.get(f"{address}/", headers={"Host": "evil.example"}).status_code == 403
    clip = encoded("wav", 2.0)
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.wav", clip)})
    assert sent.status_code == 200
    chunked = httpx.post(f"{address}/gradio_api/upload", content=iter([b"x"]))
    assert chunked.status_code == 411  # its size would not be known
    large = httpx.post(f"{address}/gradio_api/queue/join", content=bytes(2**20 + 1))
    assert large.status_code == 413

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    stored = _folder_bytes(Path(_temporary_folder().name))
    assert stored > len(clip)
    bounds = PageBounds(app, GateConfig(Limits(body_mib=0.5)), (stored + 100_000) / 2**20)
    assert [asyncio.run(upload(bounds, size)) for size in (1000, 200_000, 600_000)] == [200, 507, 413]
    config = ServeConfig()
    page = build_page(pytest.importorskip("gradio"), PageHandlers("http://127.0.0.1:9", config), config)
    assert page._queue.max_size == WAITING


async def upload(app: Any, size: int) -> int:
    """Status for an upload of a size."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"host", b"localhost"), (b"content-length", str(size).encode())]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers, "query_string": b""}
    await app(scope, None, send)
    return statuses[0]


@needs_browser
@pytest.mark.slow
def test_a_file_is_uploaded_and_asked_about(address: str, browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    clip = tmp_path / "kick.wav"
    clip.write_bytes(encoded("wav", 1.5))
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(address)
    page.locator("#clip input[type=file]").set_input_files(str(clip))
    expect(page.locator("#spectrogram img")).to_be_visible(timeout=20_000)
    expect(page.locator("#spectrogram")).to_contain_text("1.5 s")
    page.locator("#question textarea, #question input").first.fill("a long question?")
    page.locator("#ask").click()
    history = page.locator("#history")
    expect(history).to_contain_text("it sounds", timeout=20_000)
    assert ANSWER not in history.inner_text()  # thoughts stream before there is an answer
    expect(history).to_contain_text(ANSWER, timeout=60_000)
    expect(history).to_contain_text("Thoughts")
    expect(history.locator("audio").first).to_be_attached()
    expect(history.get_by_title("Download").first).to_be_visible()
    expect(history.get_by_title("Share").first).to_be_hidden()
    page.locator("#clear").click()
    expect(history).not_to_contain_text(ANSWER)
    # another model, an example clip
    page.get_by_text("cymbal", exact=True).click()
    expect(page.locator("#question textarea, #question input").first).to_have_value("is there a cymbal?")
    page.locator("#model input").click()
    page.get_by_role("option", name="ensemble").click()
    page.locator("#ask").click()
    expect(history).to_contain_text(ANSWER, timeout=30_000)
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    page.close()


@needs_browser
@pytest.mark.slow
def test_a_clip_is_recorded_and_a_conversation_goes_on(address: str, browser: Any) -> None:
    """The browser's own false microphone beeps; the second question is asked about the same clip."""
    from playwright.sync_api import expect

    page = browser.new_page()
    page.goto(address)
    page.locator("#clip").get_by_label("Record audio").click()
    page.locator("#clip .record-button").click()
    page.wait_for_timeout(1500)
    page.locator("#clip .stop-button").first.click()
    expect(page.locator("#spectrogram img")).to_be_visible(timeout=20_000)
    page.get_by_text("Settings").click()
    page.get_by_text("Go on with the conversation").click()
    for number in (1, 2):
        page.locator("#question textarea, #question input").first.fill(f"question {number}?")
        page.locator("#ask").click()
        expect(page.locator("#history").get_by_text(ANSWER)).to_have_count(number, timeout=30_000)
    assert page.locator("#history audio").count() == 1  # a clip that the model has heard is not sent again
    page.close()


@needs_browser
@pytest.mark.slow
def test_a_running_answer_is_stopped(server: str, address: str, browser: Any) -> None:
    from playwright.sync_api import expect

    page = browser.new_page()
    page.goto(address)
    page.locator("#question textarea, #question input").first.fill("a long question?")
    page.locator("#ask").click()
    history = page.locator("#history")
    expect(history).to_contain_text("it sounds", timeout=20_000)
    page.locator("#stop").click()
    page.wait_for_timeout(1000)
    told = history.inner_text()
    page.wait_for_timeout(1000)
    assert history.inner_text() == told and ANSWER not in told and "a long question?" in told
    assert "alarm_requests_admitted 0.0" in httpx.get(f"{server}/metrics").text
    page.close()


@needs_browser
@pytest.mark.slow
def test_mistakes_are_told_on_the_page(address: str, browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    broken = tmp_path / "broken.wav"
    broken.write_bytes(encoded("wav")[:30])
    page = browser.new_page()
    page.goto(address)
    page.locator("#clip input[type=file]").set_input_files(str(broken))
    expect(page.locator("#spectrogram")).to_contain_text(re.compile("cut|cannot be read"), timeout=20_000)
    page.locator("#question textarea, #question input").first.fill("what?")
    page.locator("#ask").click()
    expect(page.locator("#history")).to_contain_text("⚠", timeout=20_000)
    page.close()


def test_no_address_is_fetched_for_a_client(address: str) -> None:
    """An address in place of an uploaded file is refused, and so is a path that was not uploaded."""
    from tests.support.loopback import loopback

    with loopback() as files:
        files.files = {"/a.wav": encoded()}
        for path in (f"{files.address}/a.wav", "/etc/passwd"):
            clip = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
            joined = httpx.post(f"{address}/gradio_api/call/look", json={"data": [clip]}, timeout=20)
            assert joined.status_code == 200
            told = httpx.get(f"{address}/gradio_api/call/look/{joined.json()['event_id']}", timeout=20).text
            assert "event: error" in told and "spectrogram" not in told
        assert files.asked == []


def test_a_clip_that_is_gone_or_too_large_is_told(tmp_path: Path) -> None:
    from src.serving.page import _messages

    clip = tmp_path / "a.wav"
    clip.write_bytes(bytes(1000))
    said = [{"role": "user", "content": "what?", "clip": str(clip)}, {"role": "assistant", "content": "a kick"}]
    assert [len(message["content"]) for message in _messages(said, Limits())] == [2, 1]
    with pytest.raises(ApiError, match="larger than 0.0005 MiB"):
        _messages(said, Limits(body_mib=0.0005))
    clip.unlink()
    with pytest.raises(ApiError, match="upload it again"):
        _messages(said, Limits())


@needs_browser
@pytest.mark.slow
def test_a_browser_asks_for_the_key(browser: Any) -> None:
    from playwright.sync_api import expect

    keyed = ServeConfig(api_key="sesame")
    with running(keyed) as (server, _), page_for(server, keyed) as address:
        context = browser.new_context(http_credentials={"username": "me", "password": "sesame"})
        page = context.new_page()
        page.goto(address)
        page.locator("#question textarea, #question input").first.fill("what?")
        page.locator("#ask").click()
        expect(page.locator("#history")).to_contain_text(ANSWER, timeout=30_000)
        context.close()


@pytest.mark.slow
def test_the_page_is_a_process_that_ends_with_the_server(server: str) -> None:
    import socket

    from src.serving.page import page_process

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig(port=int(server.rpartition(":")[2]), demo_port=port)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/config", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    with page_process(config):
        wait_until(answers, 120)
    assert not answers()
