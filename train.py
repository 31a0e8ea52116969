"""Train adapters and fusion beside a frozen language model.

In: a data set with responses below data/datasets, a model config.
Out: a folder with the checkpoint, metrics.jsonl and run.json.

    accelerate launch --config-file src/configs/accelerate/cpu.yaml --num-processes 1 train.py \
        model=mini_whisper dataset=mini training_args=mini training_args.output_dir=saved/mini_whisper
"""

from __future__ import annotations

import os
import sys
import time

from src.common.cli import run_cli
from src.common.config import compose, split_config_name
from src.common.errors import ConfigError


def main() -> None:
    """Train as the command line says."""
    try:
        name, overrides = split_config_name("train", sys.argv[1:])
        config = compose(name, overrides, like="train")
        from src.training.run import run_training  # torch, not needed for --help

        run_training(config)
    except ConfigError:
        if int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) > 0:
            time.sleep(30)  # the first process of the machine says the same, and its launcher then ends the others
        raise


if __name__ == "__main__":
    run_cli(main)
