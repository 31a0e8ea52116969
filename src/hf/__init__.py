"""transformers' form of a trained model: ``import src.hf`` registers its classes with the Auto classes.

After that import ``AutoConfig``, ``AutoProcessor``, ``AutoModelForCausalLM`` and ``AutoModelForMultimodalLM`` load a
checkpoint of any form: what train.py writes, the published form, and what ``scripts/convert_checkpoint.py --to
transformers`` writes. No remote code is involved.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from src.hf.configuration import AlarmConfig
from src.hf.modeling import AlarmForConditionalGeneration, PublishedFormForCausalLM
from src.hf.processing import AlarmFeatureExtractor, AlarmProcessor
from src.model.wrapped_llms.causal_lm import Qwen3AudioWrappedConfig

__all__ = [
    "AlarmConfig",
    "AlarmFeatureExtractor",
    "AlarmForConditionalGeneration",
    "AlarmProcessor",
    "register",
    "register_vllm",
]


def register() -> None:
    """Register the classes with the Auto classes; more than once does no harm."""
    for config, model in (
        (AlarmConfig, AlarmForConditionalGeneration),
        (Qwen3AudioWrappedConfig, PublishedFormForCausalLM),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
        AutoModelForMultimodalLM.register(config, model, exist_ok=True)
        AutoFeatureExtractor.register(config, AlarmFeatureExtractor, exist_ok=True)
        AutoProcessor.register(config, AlarmProcessor, exist_ok=True)


def register_vllm() -> None:
    """Register the model with vLLM.

    vLLM calls it in each of its processes, by the entry point ``vllm.general_plugins`` in pyproject.toml.
    """
    from vllm import ModelRegistry

    register()
    # names, not classes: vLLM imports the class where it is needed, and not before its processes have started
    for architecture in ("AlarmForConditionalGeneration", "Qwen3AudioWrappedForCausalLM"):
        ModelRegistry.register_model(architecture, "src.hf.vllm_model:AlarmForVllm")


register()
