"""Answer the multiple-choice questions of a benchmark with an audio language model, through vLLM.

In: a data set with audio, question and choices, a checkpoint. Out: a data set with the chosen options and how each
reply was read, below data/datasets/generated; a run that was interrupted continues when it is started again.

    python generate_vllm_mcqa.py dataset.name=mini_mcqa checkpoint_name=saved/mini_alarm_ca
"""

from __future__ import annotations

from typing import Any

from src.common.config import hydra_cli


def main(config: dict[str, Any]) -> int:
    """Run with a resolved configuration."""
    from src.generation.run import generate_choices

    return generate_choices(config)


if __name__ == "__main__":
    hydra_cli("generate", main)
