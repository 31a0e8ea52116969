"""train.py with a loss that costs nothing, which records the rows of every step: ``rows.RANK.jsonl`` in the run.

A module of its own so that ``accelerate launch --module`` can start it with several processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.common.cli import run_cli
from src.common.config import compose
from src.dataset.examples import Batch
from src.training.run import run_training
from src.training.trainer import AlarmTrainer


def rows_file(folder: Path, rank: int) -> Path:
    """Rows of one process: a line ``{"step", "keys"}`` per step, added again when the step is repeated."""
    return folder / f"rows.{rank}.jsonl"


def main() -> None:
    """Train with the command line's configuration."""
    whole_step = AlarmTrainer.training_step

    def recorded(trainer: Any, model: Any, inputs: Sequence[Batch], items: Any = None) -> Any:
        line = {"step": trainer.state.global_step + 1, "keys": [key for batch in inputs for key in batch.keys]}
        with rows_file(Path(trainer.args.output_dir), trainer.args.process_index).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return whole_step(trainer, model, inputs, items)

    def free_loss(trainer: Any, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert inputs.waveforms is not None and all(each.samples.numel() for each in inputs.waveforms if each)
        return 0.0 * sum(value.sum() for value in model.parameters() if value.requires_grad)

    AlarmTrainer.training_step = recorded  # type: ignore[method-assign]
    AlarmTrainer.compute_loss = free_loss  # type: ignore[method-assign, assignment]
    run_training(compose("train", sys.argv[1:]))


if __name__ == "__main__":
    run_cli(main)
