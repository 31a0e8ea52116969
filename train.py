"""Train adapters and fusion beside a frozen language model.

In: a data set with responses below data/datasets, a model config.
Out: a folder with the checkpoint, metrics.jsonl and run.json.

    accelerate launch --config-file src/configs/accelerate/cpu.yaml --num-processes 1 train.py \
        model=mini_whisper dataset=mini training_args=mini training_args.output_dir=saved/mini_whisper
"""

from __future__ import annotations

from typing import Any

from src.common.config import hydra_cli


def main(config: dict[str, Any]) -> None:
    """Train as ``config`` says."""
    from src.training.run import run_training

    run_training(config)


if __name__ == "__main__":
    hydra_cli("train", main)
