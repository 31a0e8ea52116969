"""Train adapters and fusion of a frozen language model.

In: a data set with responses below data/datasets, a model config.
Out: a folder with the checkpoint, metrics.jsonl and run.json.

    accelerate launch --config-file src/configs/accelerate/cpu.yaml --num-processes 1 train.py \
        model=mini_whisper dataset=mini training_args=mini training_args.output_dir=saved/mini_whisper
"""

from __future__ import annotations

from typing import Any

from src.common.hydra_cli import hydra_cli


def main(config: dict[str, Any]) -> float:
    """Train with a resolved configuration; returns the loss, which sweepers minimise."""
    from src.training.run import final_loss, run_training  # torch, not needed for --help

    return final_loss(run_training(config))


if __name__ == "__main__":
    hydra_cli("train", main, spins=True)
