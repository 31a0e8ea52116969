"""Sample answers during training: a few evaluation rows at every save, scored and stored next to the curves."""

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

from src.common.files import json_lines
from src.common.log import get_logger
from src.common.seeds import random_state_kept
from src.dataset.examples import ExampleDataset, collate
from src.model.alarm import AlarmModel
from src.model.splice import TokenizedTurn, splice_batch
from src.prompts.chat import end_of_turn_ids, turn_ids
from src.prompts.find_reasoning import find_reasoning, hidden_tokens
from src.training.callbacks import cut_back
from src.training.text_metrics import METRICS, TextScorer

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
SAMPLES_FILE = "samples.jsonl"
DEFAULT_ROWS = 5
KINDS = {"WithContext": "with_context", "NoContext": "no_context", "Text": "text"}
"""Context mode of a row -> its name in metrics: ``eval_with_context_bleu``."""


@dataclass(frozen=True)
class SampleRow:
    """A row to answer: evaluation set, context mode, position in the set."""

    set: str
    mode: str
    index: int


class SampleCallback(TrainerCallback):
    """Answers rows of the evaluation sets at every save and at the end of a run, and scores them.

    A line of ``samples.jsonl`` has ``step``, ``set``, ``mode``, ``key``, ``prompt``, ``target`` and the greedy
    ``answer`` of at most ``max_tokens`` tokens. Scores (:class:`TextScorer`) are logged like all metrics, as
    ``eval_with_context_bleu`` and so on. The first process does this; the others wait at their next exchange of
    gradients. The state of random numbers is restored afterwards.
    """

    def __init__(
        self,
        trainer: AlarmTrainer,
        tokenizer: Any,
        rows: int,
        max_tokens: int,
        bertscore_model: str | None = None,
        metrics: Sequence[str] = METRICS.names,
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
                self._scorer = TextScorer(bertscore_model, trainer.args.device, metrics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the answers of steps that a resumed run repeats."""
        if state.is_world_process_zero:
            cut_back(self.path, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer, write and score."""
        self.run()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer with the last weights too, unless the last step was saved."""
        if self._done_at != state.global_step:
            self.run()

    def run(self) -> dict[str, float]:
        """Answer with the current weights; returns the scores (empty except in the first process)."""
        step = self.trainer.state.global_step
        self._done_at = step
        if self._scorer is None and not self.trainer.is_fsdp_enabled:
            return {}
        scores: dict[str, float] = {}
        try:
            with random_state_kept():
                lines = [{"step": step} | line for batch in self._batches() for line in self._answer(batch)]
                if self._scorer is None:  # with FSDP all processes take part in the forward passes
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

    def _batches(self) -> Iterator[list[SampleRow]]:
        """Rows of one mode, at most an evaluation batch together; audio and text-only sets are not mixed."""
        size = self.trainer.args.eval_batch_size
        evaluation = self.trainer.data.evaluation
        for audio in (True, False):
            for mode in KINDS:
                alike = [pick for pick in self.picks if pick.mode == mode and evaluation[pick.set].audio == audio]
                yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _answer(self, picks: Sequence[SampleRow]) -> list[dict[str, Any]]:
        batch = collate([self.trainer.data.evaluation[pick.set][pick.index] for pick in picks])
        inputs = self.trainer.model_inputs(batch)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        turns = [TokenizedTurn(turn.prefix_ids, turn.suffix_ids) for turn in inputs["turns"]]
        with self.trainer.autocast(), _unsharded(model):
            answers = greedy_answers(model, turns, inputs["features"], self.tokenizer, self.max_tokens)
        reasoning = find_reasoning(self.tokenizer).record()
        ending = end_of_turn_ids(self.tokenizer)  # answers are shown without it, so targets are too
        return [
            {
                "set": pick.set,
                "mode": pick.mode,
                "key": key,
                "prompt": self._prompt(turn.suffix_ids, self.trainer.data.evaluation[pick.set]),
                "target": self.tokenizer.decode(
                    outputs[: -len(ending)] if outputs[-len(ending) :] == ending else outputs
                ),
                "answer": answer,
                **reasoning,
            }
            for pick, key, turn, outputs, answer in zip(picks, batch.keys, turns, batch.outputs, answers, strict=True)
        ]

    def _prompt(self, main: list[int], examples: ExampleDataset) -> str:
        """The user's text without the template's end of turn and the assistant's header."""
        header = turn_ids(self.tokenizer, "").suffix_ids
        closing = [] if examples.answers is None else examples.answers.closing_ids
        ends = [end for end in (header + closing, header) if main[-len(end) :] == end]
        text = main[: -len(ends[0])] if ends else main
        return self.tokenizer.decode(text, skip_special_tokens=True)


@contextmanager
def _unsharded(model: nn.Module) -> Iterator[None]:
    """Gather the parameters of an FSDP model that are used outside its forward (embeddings, separators)."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def pick_rows(evaluation: Mapping[str, ExampleDataset], count: int) -> list[SampleRow]:
    """The first rows of the evaluation sets: ``count`` with context and ``count`` without, as far as there are any.

    Sets take turns; with more sets than rows, the chosen sets are evenly spaced in the list.
    """
    picks: list[SampleRow] = []
    for mode in KINDS:
        rows = {name: examples.rows.first_rows(mode, count) for name, examples in evaluation.items()}
        names = [name for name in rows if rows[name]]
        if len(names) > count:
            names = [names[place * len(names) // count] for place in range(count)]
        turns = [
            SampleRow(name, mode, rows[name][turn])
            for turn in range(count)
            for name in names
            if turn < len(rows[name])
        ]
        picks += turns[:count]
    return picks


@torch.no_grad()
def greedy_answers(
    model: AlarmModel, turns: list[TokenizedTurn], features: Any, tokenizer: Any, max_tokens: int
) -> list[str]:
    """Greedy continuation of every turn, as text without the end token; the training mode is restored."""
    training = model.training
    model.eval()
    try:
        audio = None if features is None else model.audio_embedder(features)
        separators = None if audio is None else model.audio_embedder.separators()
        # padded on the left: generation continues after the last position of every row
        spliced = splice_batch(model.llm.get_input_embeddings(), turns, audio, separators, "left", model.max_length)
        ids = model.llm.generate(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,  # these three of the model's own settings would give a warning without sampling
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    finally:
        model.train(training)
    hidden = hidden_tokens(tokenizer)
    if not set(tokenizer.all_special_ids) - hidden:
        return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    # the marks of some reasoning formats are control tokens
    return [tokenizer.decode([token for token in row if token not in hidden]) for row in ids.tolist()]
