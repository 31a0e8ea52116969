"""Opening what a run reads."""

from __future__ import annotations

from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.dataset.examples import Examples
from src.dataset.mixture import MixtureConfig, open_mixture, present_only
from src.model.config import ModelConfig
from src.prompts import choose_prompts
from src.training.config import TrainConfig
from src.training.trainer import Data

log = get_logger(__name__)


def open_data(config: TrainConfig, tokenizer: Any, model_config: ModelConfig) -> Data:
    """Training examples (none in ``eval_mode``) and evaluation sets. Raises :class:`UserError` for an empty one."""
    tags = None
    if model_config.config.use_explicit_audio_tokens:
        prompts = choose_prompts(config.prompts, llm=model_config.llm)
        tags = (prompts.description_open, prompts.description_close)

    def examples(name: str, mixture: MixtureConfig) -> Examples:
        rows = open_mixture(mixture)
        if not len(rows):
            raise UserError(f"dataset {config.dataset.name}: {name} has no rows (split {mixture.split!r})")
        return Examples(rows, tokenizer, tags, mixture.return_audio)

    dataset, skipped = present_only(config.dataset)
    if skipped:
        log.warning("%d response sets are not on this machine and left out: %s", len(skipped), ", ".join(skipped))
    train = None if config.eval_mode else examples("train", dataset.train)
    evaluation = {name: examples(name, mixture) for name, mixture in dataset.eval.items()}
    return Data(train, evaluation, dataset.groups, skipped)
