"""Answers while training: a few evaluation rows at every save, scored, and kept to be read beside the curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from src.common.json_lines import json_lines
from src.common.log import get_logger
from src.common.seeds import random_state_kept
from src.dataset.examples import Examples, collate
from src.model.alarm import AlarmModel
from src.model.splice import Turn, splice_batch
from src.prompts.chat import turn_ids
from src.training.callbacks import cut_back
from src.training.text_metrics import TextScorer

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
SAMPLES_FILE = "samples.jsonl"
DEFAULT_ROWS = 5
KINDS = {"WithContext": "with_context", "NoContext": "no_context"}
"""Context mode of a row -> its name in metrics: ``eval_with_context_bleu``."""


@dataclass(frozen=True)
class Pick:
    """A row to answer: evaluation set, context mode, position in the set."""

    set: str
    mode: str
    index: int


class SampleCallback(TrainerCallback):
    """Answers rows of the evaluation sets at every save and at the end of a run, and scores them.

    Written to ``samples.jsonl``: ``step``, ``set``, ``mode``, ``key``, ``prompt``, ``target`` and the greedy
    ``answer``, up to ``max_tokens`` tokens each. Scores (:class:`TextScorer`) go where all metrics go, as
    ``eval_with_context_bleu`` and so on. The first process does it; the others wait at their next exchange of
    gradients. Nothing random of the run is touched.
    """

    def __init__(
        self, trainer: AlarmTrainer, tokenizer: Any, rows: int, max_tokens: int, bertscore_model: str | None = None
    ) -> None:
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.picks = pick_rows(trainer.data.evaluation, rows)
        self.path = Path(trainer.args.output_dir) / SAMPLES_FILE
        self._done_at: int | None = None
        self._scorer: TextScorer | None = None
        if trainer.is_world_process_zero():
            with random_state_kept():
                self._scorer = TextScorer(bertscore_model, trainer.args.device)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the answers of steps that are not done again."""
        if state.is_world_process_zero:
            cut_back(self.path, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer, write and score."""
        self.run()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last state too, where no save came with the last step."""
        if self._done_at != state.global_step:
            self.run()

    def run(self) -> dict[str, float]:
        """Answers with the present weights; returns the scores (nothing but in the first process)."""
        step = self.trainer.state.global_step
        self._done_at = step
        if self._scorer is None and not self.trainer.is_fsdp_enabled:
            return {}
        scores: dict[str, float] = {}
        try:
            with random_state_kept():
                lines = [{"step": step} | line for batch in self._batches() for line in self._answer(batch)]
                if self._scorer is None:  # it took part because the model is shared out
                    return {}
                for mode, kind in KINDS.items():
                    chosen = [line for line in lines if line["mode"] == mode]
                    found = self._scorer([line["answer"] for line in chosen], [line["target"] for line in chosen])
                    scores |= {f"eval_{kind}_{name}": value for name, value in found.items()}
        except torch.OutOfMemoryError:
            log.warning("step %d: no memory left for sample answers; lower sample_tokens or sample_generations", step)
            return {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_lines(lines))
        self.trainer.log(dict(scores))
        return scores

    def _batches(self) -> Iterator[list[Pick]]:
        """Picks of like kind, at most an evaluation batch together; audio and text-only sets are not mixed."""
        size = self.trainer.args.eval_batch_size
        evaluation = self.trainer.data.evaluation
        for audio in (True, False):
            for mode in KINDS:
                alike = [pick for pick in self.picks if pick.mode == mode and evaluation[pick.set].audio == audio]
                yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _answer(self, picks: Sequence[Pick]) -> list[dict[str, Any]]:
        batch = collate([self.trainer.data.evaluation[pick.set][pick.index] for pick in picks])
        inputs = self.trainer._prepare_inputs(batch)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        turns = [Turn(turn.start, turn.main) for turn in inputs["turns"]]
        with self.trainer.autocast(), _at_hand(model):
            answers = greedy_answers(model, turns, inputs["features"], self.tokenizer, self.max_tokens)
        return [
            {
                "set": pick.set,
                "mode": pick.mode,
                "key": key,
                "prompt": self._prompt(turn.main),
                "target": self.tokenizer.decode(outputs),
                "answer": answer,
            }
            for pick, key, turn, outputs, answer in zip(picks, batch.keys, turns, batch.outputs, answers, strict=True)
        ]

    def _prompt(self, main: list[int]) -> str:
        """The user's text alone, without the template's end of turn and the assistant's header."""
        header = turn_ids(self.tokenizer, "").main
        text = main[: -len(header)] if main[-len(header) :] == header else main
        return self.tokenizer.decode(text, skip_special_tokens=True)


@contextmanager
def _at_hand(model: nn.Module) -> Iterator[None]:
    """Parts of a shared-out model that are not called through its forward, whole on every process for a while."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def pick_rows(evaluation: Mapping[str, Examples], count: int) -> list[Pick]:
    """The first rows of the evaluation sets: ``count`` with context and ``count`` without, as far as there are any.

    Sets take turns; with more sets than rows, those chosen lie evenly over the list.
    """
    picks: list[Pick] = []
    for mode in KINDS:
        rows = {name: examples.rows.first_rows(mode, count) for name, examples in evaluation.items()}
        names = [name for name in rows if rows[name]]
        if len(names) > count:
            names = [names[place * len(names) // count] for place in range(count)]
        turns = [
            Pick(name, mode, rows[name][turn]) for turn in range(count) for name in names if turn < len(rows[name])
        ]
        picks += turns[:count]
    return picks


@torch.no_grad()
def greedy_answers(model: AlarmModel, turns: list[Turn], features: Any, tokenizer: Any, max_tokens: int) -> list[str]:
    """The most likely continuation of every turn, as text without the end token; the training mode is kept."""
    training = model.training
    model.eval()
    try:
        audio = None if features is None else model.front_end(features)
        separators = None if audio is None else model.front_end.separators()
        spliced = splice_batch(model.llm.get_input_embeddings(), turns, audio, separators, "left", model.max_length)
        ids = model.llm.generate(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    finally:
        model.train(training)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
