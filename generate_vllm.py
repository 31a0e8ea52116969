"""Answer the free questions of a data set with an audio language model, through vLLM.

In: a data set with audio and a text column (prompt, content or context), a checkpoint. Out: a data set of answers
below data/datasets/generated; a run that was interrupted continues when it is started again.

    python generate_vllm.py dataset.name=mini_test checkpoint_name=saved/mini_alarm_ca

In Python: from generate_vllm import get_response, get_system_prompt, get_main_prompt; see the README.
"""

from __future__ import annotations

from typing import Any

from src.common.hydra_cli import hydra_cli


def __getattr__(name: str) -> Any:
    """The names for Python, loaded when they are asked for: the command line's help needs no torch."""
    if name not in ("get_response", "get_system_prompt", "get_main_prompt"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from src.generation import get_response

    get_response.prepare_script()
    return getattr(get_response, name)


def main(config: dict[str, Any]) -> int:
    """Run with a resolved configuration."""
    from src.generation.run import generate_free

    return generate_free(config)


if __name__ == "__main__":
    hydra_cli("generate", main)
