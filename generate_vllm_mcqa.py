"""Answer the multiple-choice questions of a benchmark with an audio language model, through vLLM.

In: a data set with audio, question and choices, a checkpoint. Out: a data set with the chosen options and how each
reply was read, below data/datasets/generated; a run that was interrupted continues when it is started again.

    python generate_vllm_mcqa.py dataset.name=mini_mcqa checkpoint_name=saved/mini_alarm_ca

In Python: from generate_vllm_mcqa import get_response, get_system_prompt, get_main_prompt, as for free questions.
"""

from __future__ import annotations

from typing import Any

from src.common.hydra_cli import hydra_cli

PYTHON_NAMES = {
    "get_response": "get_choice_response",
    "get_system_prompt": "get_choice_system_prompt",
    "get_main_prompt": "get_choice_main_prompt",
}
"""Name in this module -> its function in ``src.generation.get_response``."""


def __getattr__(name: str) -> Any:
    """The names for Python, loaded when they are asked for: the command line's help needs no torch."""
    if name not in PYTHON_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.generation import get_response

    get_response.prepare_script()
    return getattr(get_response, PYTHON_NAMES[name])


def main(config: dict[str, Any]) -> int:
    """Run with a resolved configuration."""
    from src.generation.run import generate_choices

    return generate_choices(config)


if __name__ == "__main__":
    hydra_cli("generate", main)
