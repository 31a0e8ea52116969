"""One question about one clip, answered as it is written, with transformers: it starts faster than vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.common.seeds import seed_everything
from src.inference.config import ModelSettings, bind_with_model, checkpoint_names
from src.inference.load import choose_model, load_ensemble, load_transformers
from src.inference.prompt_builder import PromptBuilder
from src.inference.response_stream import ResponseStream
from src.inference.scheduler import Backend, Scheduler
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Request, Result, Sampling, Segment
from src.prompts.stream_splitter import ResponsePart

QUICKSTART_CHECKPOINT = "saved/mini_alarm_ca"


@dataclass(frozen=True)
class AskConfig:
    """Settings of ``ask.py``; the keys are explained in its YAML file."""

    model: ModelSettings = field(default_factory=ModelSettings)
    checkpoint_name: str | list[str] = QUICKSTART_CHECKPOINT
    seed: int | None = None
    greedy: bool = False
    prompts: dict[str, Any] | None = None


def ask(file: str, question: str, raw: Mapping[str, Any]) -> Iterator[tuple[ResponsePart, str]]:
    """Pieces of the response to ``question`` about the clip in ``file``, each marked as thoughts or answer.

    Raises :class:`UserError` for an unusable file, checkpoint or setting.
    """
    config = bind_with_model(AskConfig, raw)
    waveform = load_waveform(file)  # a file that cannot be used is reported before models are loaded
    names = checkpoint_names(config.checkpoint_name)
    if names == [QUICKSTART_CHECKPOINT] and not Path(QUICKSTART_CHECKPOINT).exists():
        raise UserError(
            f"there is no checkpoint {QUICKSTART_CHECKPOINT} yet: run ./quickstart.sh first, or give "
            "checkpoint_name=FOLDER_OR_HUB_ID"
        )
    source, prompts = choose_model(names, config.model, config.prompts)
    ensemble = load_ensemble(names, config.model)
    llm, tokenizer = load_transformers(source)
    builder = PromptBuilder(tokenizer, prompts, prompts.generation_system, ensemble.explicit_tags)
    segments = builder.with_audio(question, ensemble.encode([waveform])[0])
    sampling = Sampling(
        max_tokens=config.model.max_tokens,
        max_thinking_tokens=config.model.max_thinking_tokens,
        greedy=config.greedy,
        budget_closing=prompts.budget_closing,
    )
    if config.seed is not None:
        # the global generator runs on through both passes; a request's own seed would start each pass again, and
        # change the answer that a seed has always given here
        seed_everything(config.seed)
    with closing(TransformersBackend(llm)) as backend:
        yield from stream_response(backend, tokenizer, segments, sampling)


def stream_response(
    backend: Backend, tokenizer: Any, segments: Sequence[Segment], sampling: Sampling
) -> Iterator[tuple[ResponsePart, str]]:
    """Pieces of the response to one prompt as they are written. Raises :class:`UserError` if it cannot be run."""
    scheduler = Scheduler(backend, tokenizer)
    stream = ResponseStream(tokenizer, scheduler.hidden, scheduler.reasoning)
    written: list[list[int]] = []
    result: Result | None = scheduler.submit(Request("question", tuple(segments)), sampling, written.append)
    while result is None:
        for tokens in written:
            yield from stream.feed(tokens)
        written.clear()
        result = next(iter(scheduler.step()), None)  # of the only request
    if result.error is not None:
        raise UserError(f"the question cannot be answered: {result.error}")
    for tokens in written:
        yield from stream.feed(tokens)
    yield from stream.end()
