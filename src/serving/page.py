"""The demo page: upload or record a clip, ask, watch the thoughts, read the answer."""

from __future__ import annotations

import asyncio
import os
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.common.paths import ASSETS
from src.prompts import Prompts
from src.report.spectrogram import Sound, spectrogram_uri
from src.serving.clips import decode
from src.serving.config import Limits, ServeConfig
from src.serving.errors import ApiError
from src.serving.schema import checked
from src.serving.service import Delta, Service

Turn = dict[str, Any]
SCENES = {
    "kick, then robot voice": ((("bd_klub_0", -6), ("mehackit_robot1_0", -18)), "which sound comes first?"),
    "robot voice, then hi-hat": (
        (("mehackit_robot1_0", -6), ("hat_zap_0", -18)),
        "which is louder, the robot voice or the hi-hat?",
    ),
    "cymbal": ((("ride_tri_0", -6),), "is there a cymbal?"),
    "drum loop": ((("arovane_beat_d_0", -6),), "describe the audio."),
}
"""Example clips: recordings that no miniature was trained on, each with a gain in decibels, and a question."""
GAP_SECONDS, MOST_SECONDS = 0.3, 1.0
CLEANED = (600, 4 * 3600)
"""Every so many seconds uploads that are older than so many are deleted; all are when the server stops."""
STYLE = """
.spectrogram img {width: 100%; height: 112px; border-radius: 6px; image-rendering: pixelated}
.spectrogram p {opacity: .7; font-size: .85em; margin: .2em 0}
footer {display: none !important}
#history button[title="Share"] {display: none}
"""
"""Gradio's button to share a clip would send it to another site."""


def need_gradio() -> Any:
    """Gradio. Raises :class:`UserError` where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = _folder().name  # not the one that all Gradio servers of a machine share
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"demo=true needs Gradio ({error}); pip install -r requirements-serve.txt") from error
    return gradio


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """The process's folder of uploads and examples, which goes with it."""
    return tempfile.TemporaryDirectory(prefix="alarm-page-")


def mount_page(app: Any, config: ServeConfig, prompts: Mapping[str, Prompts]) -> None:
    """Put the page at ``/`` of the application, below its own routes and behind its key.

    ``prompts`` are by served model, the default one first.
    """
    gradio = need_gradio()
    from gradio import processing_utils

    async def refuse(url: str) -> Any:
        raise gradio.Error("This server reads no addresses; upload the file.")

    # Gradio would fetch the address that a client names in place of an uploaded file
    processing_utils.async_ssrf_protected_get = refuse
    page = build_page(gradio, Desk(app, config.limits), config, prompts)
    plain = ["system-ui", "sans-serif"]  # fonts that the browser has: the page works without any other network
    page.has_launched = True  # mounted pages do not set it, and without it any path that a client names is read
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=config.limits.body_bytes,
        ssr_mode=False,
        show_error=True,
        footer_links=[],
        css=STYLE,
        theme=gradio.themes.Default(font=plain, font_mono=["monospace"]),
    )


class Desk:
    """What the page does; ``history`` is what it shows, ``turns`` what the model is told again.

    A turn keeps the path of its clip: what a session holds stays small, and a clip is read when it is asked about.
    """

    def __init__(self, app: Any, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def look(self, clip: str | None) -> str:
        """A clip's spectrogram and length as HTML, or why it cannot be used."""
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
        model: str,
        budget: int,
        temperature: float,
        remember: bool,
        history: list[Turn],
        turns: list[Turn],
    ) -> AsyncIterator[tuple[list[Turn], list[Turn]]]:
        """The history and turns as thoughts and answer grow."""
        known = {turn.get("clip") for turn in turns} if remember else set()
        heard_now = clip is not None and clip not in known
        shown = [*history, *([{"role": "user", "content": {"path": clip}}] if heard_now else [])]
        shown.append({"role": "user", "content": question})
        asked = {"role": "user", "content": question, "clip": clip if heard_now else None}
        said = [*(turns if remember else []), asked]
        thoughts, text = "", ""
        yield shown, turns
        try:
            async for delta in self._pieces(model, said, budget, temperature):
                if delta.part == "thoughts":
                    thoughts += delta.text
                else:
                    text += delta.text
                yield [*shown, *_response(thoughts, text, ended=False)], turns
        except ApiError as error:
            yield [*shown, *_response(thoughts, text, ended=True), _note(error.message)], turns
            return
        if not text:
            yield [*shown, *_response(thoughts, text, ended=True), _note("no answer: the response was cut")], turns
            return
        yield [*shown, *_response(thoughts, text, ended=True)], [*said, {"role": "assistant", "content": text}]

    async def _pieces(self, model: str, said: list[Turn], budget: int, temperature: float) -> AsyncIterator[Delta]:
        service: Service = self._app.state.service
        with service.admit():
            messages = await asyncio.to_thread(_messages, said, self._limits)
            settings = {"thinking_token_budget": int(budget), "temperature": float(temperature)}
            prepared = await service.prepare(checked({"model": model, "messages": messages, **settings}))
            async with aclosing(service.answer(prepared, streamed=True)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Delta):
                        yield piece


def build_page(gradio: Any, desk: Desk, config: ServeConfig, prompts: Mapping[str, Prompts]) -> Any:
    """The page's layout and what its controls do."""
    most = max(64, config.model.max_thinking_tokens)
    with gradio.Blocks(title="ALARM", analytics_enabled=False, delete_cache=CLEANED) as page:
        gradio.Markdown("## ALARM: ask a reasoning language model about what it hears")
        turns = gradio.State([], time_to_live=CLEANED[1])
        with gradio.Row():
            with gradio.Column(scale=2):
                clip = gradio.Audio(
                    sources=["upload", "microphone"], type="filepath", label="Clip", buttons=[], elem_id="clip"
                )
                picture = gradio.HTML(elem_classes="spectrogram", elem_id="spectrogram")
                models = list(prompts)
                model = gradio.Dropdown(
                    models, value=models[0], label="Model", info=_about(prompts[models[0]]), elem_id="model"
                )
                model.change(lambda name: gradio.Dropdown(info=_about(prompts[name])), model, model)
                with gradio.Accordion("Settings", open=False):
                    budget = gradio.Slider(0, most, value=most, step=1, label="Thinking budget (tokens)")
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
        files = example_files(Path(_folder().name, "examples"))
        gradio.set_static_paths([path for path, _ in files.values()])  # else they were deleted like uploads
        gradio.Examples(
            [[path, asked] for path, asked in files.values()], [clip, question], example_labels=list(files)
        )
        clip.change(desk.look, clip, picture, show_progress="hidden")
        given = [clip, question, model, budget, temperature, remember, history, turns]
        running = [
            event(desk.answer, given, [history, turns], show_progress="minimal")
            for event in (ask.click, question.submit)
        ]
        stop.click(stopped, history, history, cancels=running)
        clear.click(lambda: ([], []), None, [history, turns], cancels=running)
    return page.queue(default_concurrency_limit=config.limits.concurrent)


def _about(prompts: Prompts) -> str:
    """Which prompt set a model is asked with."""
    return f"prompts: {prompts.name} {prompts.digest()} ({prompts.source})"


def example_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Clips made of shipped recordings, in ``folder``: path and question by name."""
    import soundfile

    folder.mkdir(exist_ok=True)
    made = {}
    for name, (sounds, asked) in SCENES.items():
        pieces: list[Any] = []
        for sound, decibels in sounds:
            waveform = load_waveform(ASSETS / "mini/sounds/flac" / f"{sound}.flac")
            samples = waveform.mono.numpy()[: int(MOST_SECONDS * waveform.sample_rate)]
            silence = np.zeros(int(GAP_SECONDS * waveform.sample_rate), dtype=np.float32)
            pieces += [samples * np.float32(10 ** (decibels / 20)), silence]
        path = folder / f"{name.replace(',', '').replace(' ', '_')}.wav"
        soundfile.write(path, np.concatenate(pieces), waveform.sample_rate)
        made[name] = (str(path), asked)
    return made


def stopped(history: list[Turn]) -> list[Turn]:
    """The history once the running answer is cancelled: thoughts that were growing are no longer."""
    for turn in history:
        if turn.get("metadata"):
            turn["metadata"] = {**turn["metadata"], "status": "done"}
    return history


def _messages(said: Sequence[Turn], limits: Limits) -> list[Turn]:
    """The turns as a request has them. Raises :class:`ApiError` for clips that are gone or too large together."""
    messages, size = [], 0
    for turn in said:
        content: list[Turn] = [{"type": "text", "text": turn["content"]}]
        if turn.get("clip"):
            try:
                size += Path(turn["clip"]).stat().st_size
                if size > limits.body_bytes:
                    raise ApiError(
                        413, f"the clips are larger than {limits.body_mib:g} MiB together", "body_too_large"
                    )
                data = b64encode(Path(turn["clip"]).read_bytes()).decode()
            except OSError:
                raise ApiError(400, "an earlier clip is not kept any more; upload it again", "clip_gone") from None
            content.append({"type": "audio_url", "audio_url": {"url": f"data:audio/x;base64,{data}"}})
        messages.append({"role": turn["role"], "content": content})
    return messages


def _picture(clip: str, limits: Limits) -> str:
    waveform = decode(Path(clip).read_bytes(), limits)
    sound = Sound(b"", "", waveform.samples[0].numpy(), waveform.sample_rate)
    about = f"{sound.seconds:.1f} s, {sound.rate} samples per second"
    return f'<img alt="spectrogram" src="{spectrogram_uri(sound)}"><p>{about}</p>'


def _response(thoughts: str, text: str, ended: bool) -> list[Turn]:
    """Thoughts to fold, open while they grow, and the answer."""
    found: list[Turn] = []
    if thoughts:
        status = "done" if text or ended else "pending"
        found.append({"role": "assistant", "content": thoughts, "metadata": {"title": "Thoughts", "status": status}})
    if text:
        found.append({"role": "assistant", "content": text})
    return found


def _note(message: str) -> Turn:
    return {"role": "assistant", "content": f"⚠ {message}"}
