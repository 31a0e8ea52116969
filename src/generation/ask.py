"""One question about one clip, answered as it is written, with transformers alone: it starts faster than vLLM."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TextIteratorStreamer

from src.audio.waveform import load_waveform
from src.common.config import bind_dataclass
from src.common.errors import UserError
from src.common.seeds import seed_everything
from src.generation.config import ARCHITECTURE_KEYS, ModelSettings
from src.generation.ears import Ears, front_end_dtypes
from src.generation.flight import hidden_tokens
from src.generation.requests import Segment
from src.generation.respond import Turns
from src.model.checkpoints import open_checkpoint, shared_lora
from src.model.llm import load_chat_tokenizer, load_llm
from src.model.lora_files import attach_lora, read_lora
from src.prompts import choose_prompts
from src.prompts.chat import opens_thoughts, text_ids
from src.prompts.parts import Part, PartSplitter
from src.prompts.thoughts import CLOSE_THOUGHTS, OPEN_THOUGHTS

QUICKSTART_CHECKPOINT = "saved/mini_alarm_ca"


@dataclass(frozen=True)
class AskConfig:
    """Settings of ``ask.py``; the keys are explained in its YAML file."""

    model: ModelSettings = field(default_factory=ModelSettings)
    checkpoint_name: str | list[str] = QUICKSTART_CHECKPOINT
    seed: int | None = None
    greedy: bool = False
    prompts: dict[str, Any] | None = None


def ask(file: str, question: str, raw: Mapping[str, Any]) -> Iterator[tuple[Part, str]]:
    """Pieces of the response to ``question`` about the clip in ``file``, each marked as thoughts or answer.

    Raises :class:`UserError` for an unusable file, checkpoint or setting.
    """
    model = {name: value for name, value in raw.get("model", {}).items() if name not in ARCHITECTURE_KEYS}
    config = bind_dataclass(AskConfig, {**raw, "model": model}, "config")
    waveform = load_waveform(file)
    names = [config.checkpoint_name] if isinstance(config.checkpoint_name, str) else config.checkpoint_name
    if names == [QUICKSTART_CHECKPOINT] and not Path(QUICKSTART_CHECKPOINT).exists():
        raise UserError(
            f"there is no checkpoint {QUICKSTART_CHECKPOINT} yet: run ./quickstart.sh first, or give "
            "checkpoint_name=FOLDER_OR_HUB_ID"
        )
    checkpoints = [open_checkpoint(name) for name in names]
    llm_name = config.model.llm or checkpoints[0].config.llm
    prompts = choose_prompts(config.prompts, [(each.name, each.extra) for each in checkpoints], llm_name)
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda:0", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    trained_with = checkpoints[0].config
    revision = config.model.llm_revision or (trained_with.llm_revision if llm_name == trained_with.llm else None)
    load_chat_tokenizer(llm_name, revision)  # a template that cannot be used is told before the models are loaded
    ears = Ears.load(names, device, *front_end_dtypes(config.model))
    lora = shared_lora(checkpoints)
    llm, tokenizer = load_llm(llm_name, dtype, device, revision=revision)
    if lora is not None:
        attach_lora(llm, read_lora(lora), str(lora))
    turns = Turns(tokenizer, prompts, prompts.generation_system, ears.explicit_tags)
    segments = turns.hearing(question, ears.encode([waveform])[0])
    if config.seed is not None:
        seed_everything(config.seed)
    writer = Writer(llm, tokenizer, config.model, config.greedy, prompts.budget_closing)
    yield from mark_parts(writer.write(segments), opens_thoughts(tokenizer))


class Writer:
    """Generates from a prompt of ids and embeddings, with a thinking budget, piece by piece."""

    def __init__(self, llm: Any, tokenizer: Any, limits: ModelSettings, greedy: bool, budget_closing: str) -> None:
        self._llm, self._tokenizer = llm, tokenizer
        self._limits, self._greedy, self._closing = limits, greedy, budget_closing
        self._thinks = opens_thoughts(tokenizer)

    def write(self, segments: Iterable[Segment]) -> Iterator[str]:
        """The response as text, in pieces of a word or so."""
        prompt = torch.cat([self._embed(segment) for segment in segments])[None]
        budget, most = self._limits.max_thinking_tokens, self._limits.max_tokens
        written: list[int] = []
        if budget != 0:
            yield from self._pass(prompt, budget if budget > 0 else most, written)
        if budget < 0 or len(written) < budget or (written and written[-1] in self._ends()):
            return
        text = self._tokenizer.decode(written)
        if CLOSE_THOUGHTS not in text and (self._thinks or text.lstrip().startswith(OPEN_THOUGHTS)):
            written += text_ids(self._tokenizer, self._closing)
            yield self._closing
        yield from self._pass(torch.cat([prompt, self._embed(written)[None]], dim=1), most, written)

    def _embed(self, segment: Segment) -> Tensor:
        table = self._llm.get_input_embeddings()
        if isinstance(segment, Tensor):
            return segment.to(table.weight)
        return table(torch.tensor(list(segment), dtype=torch.int64, device=table.weight.device))

    def _ends(self) -> set[int]:
        ends = self._llm.generation_config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or ())

    def _pass(self, embeddings: Tensor, max_tokens: int, written: list[int]) -> Iterator[str]:
        """Generate once; ids go to ``written``, text is yielded as it comes."""
        streamer = _VisibleStreamer(self._tokenizer, written)
        failure: list[BaseException] = []
        drawn = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None} if self._greedy else {}

        def generate() -> None:
            try:
                self._llm.generate(
                    inputs_embeds=embeddings,
                    attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                    max_new_tokens=max_tokens,
                    streamer=streamer,
                    **drawn,
                )
            except BaseException as error:  # noqa: BLE001 - raised again by the reading thread
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        yield from (piece for piece in streamer if piece)
        thread.join()
        if failure:
            raise failure[0]


class _VisibleStreamer(TextIteratorStreamer):
    """Text of the tokens as they come, without control tokens but with the think tags; keeps the ids."""

    def __init__(self, tokenizer: Any, ids: list[int]) -> None:
        super().__init__(tokenizer, skip_special_tokens=False)
        self._at_prompt = True
        self._hidden = hidden_tokens(tokenizer)
        self._ids = ids

    def put(self, value: Tensor) -> None:
        """Called by generate: first with the prompt, then with each token."""
        if self._at_prompt:
            self._at_prompt = False
            return
        token = int(value.flatten()[0])
        self._ids.append(token)
        if token not in self._hidden:
            super().put(value)


def mark_parts(pieces: Iterable[str], inside_thoughts: bool) -> Iterator[tuple[Part, str]]:
    """Mark pieces of a response as thoughts or answer, without the think tags and the white space around them."""
    splitter = PartSplitter(inside_thoughts)
    for piece in pieces:
        yield from splitter.feed(piece)
    yield from splitter.end()
