"""Transcripts of clips by a speech recognition model of transformers, logged row by row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.audio.each_clip import each_clip
from src.audio.resample import resample
from src.audio.roots import roots_of
from src.audio.waveform import AudioError, Waveform, load_waveform
from src.common.errors import UserError, check_host, error_text, one_line
from src.common.paths import raw_dir
from src.corpus.postprocess.audio_filter import undecoded
from src.corpus.targets.stage_job import llm_fingerprint
from src.dataset.tables import open_split
from src.generation.input_dataset import RowRef, row_key
from src.inference.prefetch import Prefetcher
from src.inference.prompt_builder import in_batches
from src.inference.workers import Dispatcher, OpenWorkers, Ready, Send, WorkQueue, queued_batches

RATE = 16000
PIECE_SECONDS = 30.0
"""Length of Whisper's input window (https://github.com/openai/whisper/blob/main/whisper/audio.py)."""
SEARCH_SECONDS = 5.0
"""How far before its end a piece may be cut."""


Transcribe = Callable[[Sequence[Waveform]], list[str]]
"""Texts of clips, in their order."""


@dataclass(frozen=True)
class AsrSettings:
    """The model (folder or Hub id), its language, and how many clips are transcribed at once.

    ``language`` None lets the model find out; models of one language take none. ``dtype`` is float16 on a GPU and
    float32 on a CPU.
    """

    model: str = "openai/whisper-large-v3"
    language: str | None = "english"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}, expected at least 1")

    def fingerprint(self) -> dict[str, Any]:
        """Settings that affect transcripts."""
        return {"model": llm_fingerprint(self.model), "language": self.language}


class Whisper:
    """Whisper, or a model with the same interface, greedy as its generation config says."""

    def __init__(self, settings: AsrSettings, device: str | None = None) -> None:
        """Load the model. Raises :class:`UserError` if that fails, or it does not know the language."""
        from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.float16 if self._device.startswith("cuda") else torch.float32
        try:
            self._processor: Any = AutoProcessor.from_pretrained(settings.model)
            model: Any = AutoModelForSpeechSeq2Seq.from_pretrained(settings.model, dtype=self._dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = error_text(error)
            raise UserError(f"speech recognition {settings.model!r} cannot be loaded ({reason}) (--model)") from error
        self._model = model.eval().to(self._device)
        self._batch_size = settings.batch_size
        # by default transformers (models/whisper/generation_whisper.py) loops over a clip from time stamp to time
        # stamp, and never ends if a stamp does not advance; pieces fit the window, so one call is enough
        self._once = {"force_unique_generate_call": True} if model.config.model_type == "whisper" else {}
        self._options = _language_options(model.generation_config, settings)

    def __call__(self, clips: Sequence[Waveform]) -> list[str]:
        """Texts of clips of any rate and length; those beyond :data:`PIECE_SECONDS` are transcribed in pieces."""
        # pieces of all clips fill the batches together: one long clip does not run alone
        pieces = [(place, piece) for place, clip in enumerate(clips) for piece in cut_pieces(_at_rate(clip))]
        texts: list[list[str]] = [[] for _ in clips]
        for start in range(0, len(pieces), self._batch_size):
            batch = pieces[start : start + self._batch_size]
            for (place, _), text in zip(batch, self._transcribe_batch([piece for _, piece in batch]), strict=True):
                texts[place].append(text)
        return [" ".join(filter(None, parts)) for parts in texts]

    def _transcribe_batch(self, audio: Sequence[Tensor]) -> list[str]:
        arrays = [samples.numpy() for samples in audio]
        inputs = self._processor(arrays, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        inputs = inputs.to(self._device)
        with torch.inference_mode():
            tokens = self._model.generate(
                inputs["input_features"].to(self._dtype),
                attention_mask=inputs["attention_mask"],
                **self._options,
                **self._once,
            )
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def cut_pieces(samples: Tensor) -> list[Tensor]:
    """Samples ``(n,)`` at 16 kHz in pieces of at most :data:`PIECE_SECONDS`, cut where it is quietest.

    The quietest 50 ms of the last :data:`SEARCH_SECONDS` of a piece are looked for, so that no word is cut.
    """
    # a cut through a word would cost two errors, and Whisper pads shorter input with silence anyway
    longest, search, window = int(PIECE_SECONDS * RATE), int(SEARCH_SECONDS * RATE), RATE // 20
    pieces = []
    while samples.shape[0] > longest:
        loudness = samples[longest - search : longest].reshape(-1, window).square().mean(dim=1)
        end = longest - search + int(loudness.argmin()) * window + window // 2
        pieces.append(samples[:end])
        samples = samples[end:]
    return [*pieces, samples]


def _language_options(generation: Any, settings: AsrSettings) -> dict[str, str]:
    """Options of ``generate`` for the language; none for a model of one language."""
    if not getattr(generation, "is_multilingual", False):
        return {}
    if settings.language is None:
        return {"task": "transcribe"}
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    asked = settings.language.lower()
    code = asked if asked in LANGUAGES else TO_LANGUAGE_CODE.get(asked)
    known = {token.strip("<|>") for token in getattr(generation, "lang_to_id", None) or {}}
    if code is None or (known and code not in known):
        raise UserError(
            f"{settings.model} does not know the language {settings.language!r}; known: "
            f"{', '.join(sorted(LANGUAGES.get(each, each) for each in known))} (--language)"
        )
    return {"language": code, "task": "transcribe"}


def _at_rate(clip: Waveform) -> Tensor:
    """Mono samples at 16 kHz, ``(n,)``."""
    mono = clip.mono
    samples, _ = resample(mono[None], torch.tensor([mono.shape[0]]), clip.sample_rate, RATE)
    return samples[0]


class Clips:
    """Audio of a raw set, decoded row by row."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tables: dict[str, Any] = {}

    def load(self, ref: RowRef) -> Waveform:
        """A row's clip. Raises :class:`AudioError` if it cannot be decoded."""
        split, row = ref
        if split not in self._tables:
            table = open_split(raw_dir(self._name), split, f"raw set {self._name}")
            self._tables[split] = undecoded(table.select_columns(["audio"]))
        table = self._tables[split]
        return load_waveform(table[row]["audio"], roots=roots_of(table))


@dataclass(frozen=True)
class Transcript:
    """Text of a row's clip, or why there is none."""

    split: str
    row: int
    text: str = ""
    error: str | None = None

    @property
    def key(self) -> str:
        """Name of the row among all splits."""
        return row_key((self.split, self.row))


class RowTranscriber:
    """Transcribes rows in this process or in several workers; a model is loaded when the first row needs it."""

    def __init__(
        self,
        settings: AsrSettings,
        start: Callable[[AsrSettings], Transcribe] | None = None,
        open_workers: OpenWorkers | None = None,
    ) -> None:
        self._settings = settings
        self._start = start or Whisper
        self._open_workers = open_workers
        self._transcribe: Transcribe | None = None

    def __call__(self, name: str, rows: Sequence[RowRef]) -> Iterator[Transcript]:
        """Transcripts of rows of the raw set ``name``, in any order."""
        if self._open_workers is None:
            self._transcribe = self._transcribe or self._start(self._settings)
            yield from transcribe_rows(Clips(name), self._transcribe, in_batches(rows, self._settings.batch_size))
            return
        workers = self._open_workers(functools.partial(serve_clips, name, self._settings, self._start))
        with closing(workers):
            yield from Dispatcher(workers, row_key, lambda transcript: transcript.key).run(rows)


def transcribe_rows(
    clips: Clips, transcribe: Transcribe, batches: Iterable[Sequence[RowRef]]
) -> Iterator[Transcript]:
    """Transcripts batch by batch; the next batch is decoded while one is transcribed.

    A clip that cannot be decoded, or that makes the model fail by itself, gets a transcript with the error.
    """
    feed = Prefetcher((_load(clips, batch) for batch in batches), 2)
    try:
        while (loaded := feed.take(wait=True)) is not None:
            bad, good = loaded
            yield from bad
            for ref, text in each_clip(transcribe, good):
                if isinstance(text, Exception):
                    yield Transcript(*ref, error=one_line(text, 200))
                else:
                    yield Transcript(*ref, text)
    finally:
        feed.close()


def serve_clips(
    name: str, settings: AsrSettings, start: Callable[[AsrSettings], Transcribe], work: WorkQueue, send: Send
) -> None:
    """Worker: transcribes rows of ``raw/NAME`` from ``work`` until it ends, with a model of its own."""
    transcribe = start(settings)
    send(Ready(4 * settings.batch_size))  # rows it is sent ahead, so that decoding does not wait for the queue
    for transcript in transcribe_rows(Clips(name), transcribe, queued_batches(work, settings.batch_size)):
        send(transcript)


def _load(clips: Clips, batch: Sequence[RowRef]) -> tuple[list[Transcript], list[tuple[RowRef, Waveform]]]:
    bad, good = [], []
    for ref in batch:
        try:
            good.append((ref, clips.load(ref)))
        except AudioError as error:
            check_host(error)  # a broken disk or full memory is no clip's fault, and ends the run
            bad.append(Transcript(*ref, error=str(error)))
    return bad, good
