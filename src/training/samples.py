"""Answers while training: a few evaluation rows at every save, to be read beside the curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from src.dataset.examples import Examples, collate
from src.model.alarm import AlarmModel
from src.model.splice import Turn, splice_batch

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

SAMPLES_FILE = "samples.jsonl"
DEFAULT_ROWS = 5


class SampleCallback(TrainerCallback):
    """Writes ``samples.jsonl``: ``step``, ``set``, ``key``, ``prompt``, ``target`` and the greedy ``answer``.

    The first rows of every evaluation set are answered, by the first process, up to ``max_tokens`` tokens each.
    """

    def __init__(self, trainer: AlarmTrainer, tokenizer: Any, rows: int, max_tokens: int) -> None:
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.rows = rows
        self.max_tokens = max_tokens
        self.path = Path(trainer.args.output_dir) / SAMPLES_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave nothing of an earlier run that started from the beginning."""
        if state.is_world_process_zero and state.global_step == 0:
            self.path.unlink(missing_ok=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer and write."""
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for name, examples in self.trainer.data.evaluation.items():
                for line in self._answer(examples):
                    file.write(json.dumps({"step": state.global_step, "set": name} | line, ensure_ascii=False) + "\n")

    def _answer(self, examples: Examples) -> list[dict[str, Any]]:
        batch = collate([examples[index] for index in range(min(self.rows, len(examples)))])
        inputs = self.trainer._prepare_inputs(batch)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        turns = [Turn(turn.start, turn.main) for turn in inputs["turns"]]
        with self.trainer.accelerator.autocast():
            answers = greedy_answers(model, turns, inputs["features"], self.tokenizer, self.max_tokens)
        return [
            {
                "key": key,
                "prompt": self.tokenizer.decode(turn.main, skip_special_tokens=True),
                "target": self.tokenizer.decode(outputs),
                "answer": answer,
            }
            for key, turn, outputs, answer in zip(batch.keys, turns, batch.outputs, answers, strict=True)
        ]


@torch.no_grad()
def greedy_answers(model: AlarmModel, turns: list[Turn], features: Any, tokenizer: Any, max_tokens: int) -> list[str]:
    """The most likely continuation of every turn, as text without the end token; the training mode is kept."""
    training = model.training
    model.eval()
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
    model.train(training)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
