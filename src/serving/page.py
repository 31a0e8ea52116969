"""Demo page: upload or record a clip, ask a question, read the streamed reasoning and answer.

It is a client of a server with OpenAI's chat completions, in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import ASSETS
from src.report.spectrogram import Sound, spectrogram_uri
from src.serving.clip_decoder import ApiError, decode
from src.serving.config import MIB, GateConfig, Limits, ServeConfig
from src.serving.gate import check_host, check_key, refuse

log = get_logger(__name__)

PageTurn = dict[str, Any]
"""A message in the form of Gradio's Chatbot; in the conversation it has the path of its ``clip``."""
SCENES = {
    "kick, then robot voice": ((("bd_klub_0", -6), ("mehackit_robot1_0", -18)), "which sound comes first?"),
    "robot voice, then hi-hat": (
        (("mehackit_robot1_0", -6), ("hat_zap_0", -18)),
        "which is louder, the robot voice or the hi-hat?",
    ),
    "cymbal": ((("ride_tri_0", -6),), "is there a cymbal?"),
    "drum loop": ((("arovane_beat_d_0", -6),), "describe the audio."),
}
"""Example clips: recordings outside the training data, each with a gain in decibels, and a question."""
GAP_SECONDS, MAX_SECONDS = 0.3, 1.0
CLEANUP = (600, 4 * 3600)
"""Interval of deletion of uploads, and their maximum age, in seconds; the server deletes all when it stops."""
UPLOADS_MIB = 1024.0
"""All uploads together; more are refused until older ones are deleted."""
WAITING = 64
"""Questions that wait; more are refused."""
TIMEOUT = httpx.Timeout(20.0, read=600.0)
STYLE = """
.spectrogram img {width: 100%; height: 112px; border-radius: 6px; image-rendering: pixelated}
.spectrogram p {opacity: .7; font-size: .85em; margin: .2em 0}
footer {display: none !important}
#history button[title="Share"] {display: none}
"""
"""The hidden button would share a clip by sending it to another site."""


def import_gradio() -> Any:
    """Import Gradio. Raises :class:`UserError` if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # the default is shared by all Gradio servers of a machine
    os.environ["GRADIO_TEMP_DIR"] = _temporary_folder().name
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"demo=true needs Gradio ({error}); pip install -r requirements-serve.txt") from error
    return gradio


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Folder of uploads and examples, deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="alarm-page-")


@contextmanager
def page_process(config: ServeConfig) -> Iterator[None]:
    """The page for a server in this process, in a process of its own; it ends with the block."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    # a fork would copy the locks of the engine's threads, and all that it has loaded
    process = multiprocessing.get_context("spawn").Process(target=run_page, args=(config, url), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(5)


def run_page(config: ServeConfig, server: str) -> int:
    """Serve the page for the server at ``server`` until a signal. Raises :class:`UserError` without Gradio."""
    import uvicorn

    app = page_app(config, server)
    log.info("page for %s at http://%s:%d", server, config.host, config.page_port)
    uvicorn.run(app, host=config.host, port=config.page_port, log_level="warning", timeout_graceful_shutdown=2)
    return 0


def page_app(config: ServeConfig, server: str) -> Any:
    """ASGI application of the page, behind the key and within its bounds."""
    gradio = import_gradio()
    from fastapi import FastAPI
    from gradio import processing_utils

    async def refuse_address(url: str) -> Any:
        raise gradio.Error("This server reads no addresses; upload the file.")

    # Gradio fetches an address that a client sends in place of an uploaded file: the server must not do that
    processing_utils.async_ssrf_protected_get = refuse_address
    page = build_page(gradio, PageHandlers(server.rstrip("/").removesuffix("/v1"), config), config)
    fonts = ["system-ui", "sans-serif"]  # fonts of the browser: the page loads nothing from other sites
    page.has_launched = True  # not set by mount_gradio_app, and without it Gradio reads any path that a client sends
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        max_file_size=config.limits.body_bytes,
        ssr_mode=False,
        show_error=True,
        footer_links=[],
        css=STYLE,
        theme=gradio.themes.Default(font=fonts, font_mono=["monospace"]),
    )
    return PageBounds(app, config.gate)


class PageBounds:
    """ASGI middleware: host and key checks as for the server, and a bound on all uploads together."""

    def __init__(self, app: Any, config: GateConfig, uploads_mib: float = UPLOADS_MIB) -> None:
        self._app, self._config, self._bytes = app, config, int(uploads_mib * MIB)
        self._arriving = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        size = 0
        try:
            check_host(scope, self._config)
            check_key(scope, self._config.key, open_paths=())
            if scope["method"] == "POST":
                size = await self._admit(scope)
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return
        self._arriving += size
        try:
            await self._app(scope, receive, send)
        finally:
            self._arriving -= size

    async def _admit(self, scope: Any) -> int:
        """Size of the body. Raises :class:`ApiError` for one without a length, and for uploads beyond the bounds."""
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if not length.isdigit():
            raise ApiError(411, "send the length of the body", "length_required")
        size = int(length[:18])
        limit = self._config.limits.body_bytes if scope["path"].endswith("/upload") else MIB
        if size > limit:
            raise ApiError(413, f"more than {limit / MIB:g} MiB", "body_too_large")
        if scope["path"].endswith("/upload"):
            stored = await asyncio.to_thread(_folder_bytes, Path(_temporary_folder().name))
            if stored + self._arriving + size > self._bytes:
                raise ApiError(507, "uploads fill the space that they may take; try again later", "uploads_full")
        return size


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class PageHandlers:
    """Handlers of the page's events; ``history`` is shown, ``turns`` are the conversation sent to the model.

    A turn stores the path of its clip, so sessions stay small and a clip is read only when a request needs it.
    """

    def __init__(self, server: str, config: ServeConfig) -> None:
        self._server, self._limits = server, config.limits
        self._headers = {} if config.key is None else {"Authorization": f"Bearer {config.key}"}

    async def models(self) -> list[str]:
        """Names of the server's models; none while it does not answer."""
        try:
            async with httpx.AsyncClient(headers=self._headers, timeout=5.0, trust_env=False) as client:
                cards = (await client.get(f"{self._server}/v1/models")).raise_for_status().json()["data"]
        except (httpx.HTTPError, ValueError, KeyError):
            return []
        return [card["id"] for card in cards]

    async def show_clip(self, clip: str | None) -> str:
        """A clip's spectrogram and length as HTML, or the reason why it cannot be used."""
        if not clip:
            return ""
        try:
            return await asyncio.to_thread(_picture, clip, self._limits)
        except ApiError as error:
            return f"<p>{escape(error.message)}</p>"

    async def answer(
        self,
        clip: str | None,
        question: str,
        model: str | None,
        budget: int,
        temperature: float,
        remember: bool,
        history: list[PageTurn],
        turns: list[PageTurn],
    ) -> AsyncIterator[tuple[list[PageTurn], list[PageTurn]]]:
        """Yield history and turns while reasoning and answer grow."""
        is_new = clip is not None and not (remember and any(turn.get("clip") == clip for turn in turns))
        shown = [*history, *([{"role": "user", "content": {"path": clip}}] if is_new else [])]
        shown.append({"role": "user", "content": question})
        asked = {"role": "user", "content": question, "clip": clip if is_new else None}
        conversation = [*(turns if remember else []), asked]
        thoughts, text = "", ""
        yield shown, turns
        try:
            async for name, piece in self._pieces(model, conversation, budget, temperature):
                if name == "content":
                    text = (text + piece).lstrip()
                else:
                    thoughts = (thoughts + piece).lstrip()
                yield [*shown, *_response(thoughts, text, ended=False)], turns
        except ApiError as error:
            yield [*shown, *_response(thoughts, text, ended=True), _note(error.message)], turns
            return
        if not text:
            yield [*shown, *_response(thoughts, text, ended=True), _note("no answer: the response was cut")], turns
            return
        yield (
            [*shown, *_response(thoughts, text, ended=True)],
            [*conversation, {"role": "assistant", "content": text}],
        )

    async def _pieces(
        self, model: str | None, conversation: list[PageTurn], budget: int, temperature: float
    ) -> AsyncIterator[tuple[str, str]]:
        """Field (reasoning_content, content) and text of each piece. Raises :class:`ApiError`."""
        model = model or next(iter(await self.models()), None)
        messages = await asyncio.to_thread(_messages, conversation, self._limits)
        body = {"model": model, "messages": messages, "stream": True, "temperature": float(temperature)}
        body |= {"thinking_token_budget": int(budget)} if budget >= 0 else {}
        try:
            async with (
                httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT, trust_env=False) as client,
                client.stream("POST", f"{self._server}/v1/chat/completions", json=body) as response,
            ):
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        for piece in _deltas(json.loads(line.removeprefix("data: "))):
                            yield piece
        except (httpx.HTTPError, ValueError) as error:
            reason = f"the server at {self._server} does not answer ({type(error).__name__})"
            raise ApiError(503, reason, "server_failed") from None


def _deltas(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "error" in event:
        raise ApiError(500, str(event["error"].get("message")), "server_failed")
    for choice in event.get("choices", ()):
        for name in ("reasoning_content", "content"):
            if choice["delta"].get(name):
                yield name, choice["delta"][name]


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        return ApiError(status, str(json.loads(body)["error"]["message"])[:500])
    except (ValueError, KeyError, TypeError):
        return ApiError(status, f"the server answers {status}")


def build_page(gradio: Any, handlers: PageHandlers, config: ServeConfig) -> Any:
    """Build the page: layout and event handlers."""
    limit = max(64, config.model.max_thinking_tokens)
    with gradio.Blocks(title="ALARM", analytics_enabled=False, delete_cache=CLEANUP) as page:
        gradio.Markdown("## ALARM: ask a reasoning language model about audio")
        turns = gradio.State([], time_to_live=CLEANUP[1])
        with gradio.Row():
            with gradio.Column(scale=2):
                clip = gradio.Audio(
                    sources=["upload", "microphone"], type="filepath", label="Clip", buttons=[], elem_id="clip"
                )
                picture = gradio.HTML(elem_classes="spectrogram", elem_id="spectrogram")
                model = gradio.Dropdown([], label="Model", allow_custom_value=True, elem_id="model")

                async def list_models() -> Any:
                    names = await handlers.models()
                    return gradio.Dropdown(names, value=next(iter(names), None))

                page.load(list_models, None, model, show_progress="hidden")
                with gradio.Accordion("Settings", open=False):
                    budget = gradio.Slider(0, limit, value=limit, step=1, label="Thinking budget (tokens)")
                    temperature = gradio.Slider(0, 1.5, value=0.0, step=0.1, label="Temperature (0: greedy)")
                    remember = gradio.Checkbox(False, label="Go on with the conversation (else each question is new)")
            with gradio.Column(scale=3):
                history = gradio.Chatbot(label="Answers", height=460, buttons=["copy"], elem_id="history")
                question = gradio.Textbox(
                    label="Question", placeholder="which sound comes first?", elem_id="question"
                )
                with gradio.Row():
                    ask = gradio.Button("Ask", variant="primary", elem_id="ask")
                    stop = gradio.Button("Stop", elem_id="stop")
                    clear = gradio.Button("Clear", elem_id="clear")
        files = example_files(Path(_temporary_folder().name, "examples"))
        gradio.set_static_paths([path for path, _ in files.values()])  # otherwise they would be deleted like uploads
        gradio.Examples(
            [[path, asked] for path, asked in files.values()], [clip, question], example_labels=list(files)
        )
        clip.change(handlers.show_clip, clip, picture, show_progress="hidden", api_name="look")
        given = [clip, question, model, budget, temperature, remember, history, turns]
        running = [
            event(handlers.answer, given, [history, turns], show_progress="minimal", api_name=name)
            for event, name in ((ask.click, "ask"), (question.submit, "submit"))
        ]
        stop.click(stopped, history, history, cancels=running)
        clear.click(lambda: ([], []), None, [history, turns], cancels=running)
    return page.queue(max_size=WAITING, default_concurrency_limit=config.limits.concurrent)


def example_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Write clips made of shipped recordings to ``folder``; path and question by name."""
    import soundfile

    folder.mkdir(exist_ok=True)
    made = {}
    for name, (sounds, asked) in SCENES.items():
        pieces: list[Any] = []
        for sound, decibels in sounds:
            waveform = load_waveform(ASSETS / "mini/sounds/flac" / f"{sound}.flac")
            samples = waveform.mono.numpy()[: int(MAX_SECONDS * waveform.sample_rate)]
            silence = np.zeros(int(GAP_SECONDS * waveform.sample_rate), dtype=np.float32)
            pieces += [samples * np.float32(10 ** (decibels / 20)), silence]
        path = folder / f"{name.replace(',', '').replace(' ', '_')}.wav"
        soundfile.write(path, np.concatenate(pieces), waveform.sample_rate)
        made[name] = (str(path), asked)
    return made


def stopped(history: list[PageTurn]) -> list[PageTurn]:
    """History after cancelling the running answer: reasoning is no longer marked as in progress."""
    for turn in history:
        if turn.get("metadata"):
            turn["metadata"] = {**turn["metadata"], "status": "done"}
    return history


def _messages(conversation: Sequence[PageTurn], limits: Limits) -> list[PageTurn]:
    """Messages of a request. Raises :class:`ApiError` for deleted clips and clips that are too large together."""
    messages, size = [], 0
    for turn in conversation:
        content: list[PageTurn] = [{"type": "text", "text": turn["content"]}]
        if turn.get("clip"):
            try:
                size += Path(turn["clip"]).stat().st_size
                if size > limits.body_bytes:
                    raise ApiError(
                        413, f"the clips are larger than {limits.body_mib:g} MiB together", "body_too_large"
                    )
                data = b64encode(Path(turn["clip"]).read_bytes()).decode()
            except OSError:
                raise ApiError(400, "an earlier clip was deleted; upload it again", "clip_gone") from None
            content.append({"type": "audio_url", "audio_url": {"url": f"data:audio/x;base64,{data}"}})
        messages.append({"role": turn["role"], "content": content})
    return messages


def _picture(clip: str, limits: Limits) -> str:
    found = decode(Path(clip).read_bytes(), limits)
    sound = Sound(b"", "", found.samples[0], found.rate)
    about = f"{sound.seconds:.1f} s, {sound.rate} samples per second"
    return f'<img alt="spectrogram" src="{spectrogram_uri(sound)}"><p>{about}</p>'


def _response(thoughts: str, text: str, ended: bool) -> list[PageTurn]:
    """Messages for the reasoning (folded once it is complete) and the answer."""
    found: list[PageTurn] = []
    if thoughts:
        status = "done" if text or ended else "pending"
        found.append({"role": "assistant", "content": thoughts, "metadata": {"title": "Thoughts", "status": status}})
    if text:
        found.append({"role": "assistant", "content": text})
    return found


def _note(message: str) -> PageTurn:
    return {"role": "assistant", "content": f"⚠ {message}"}
