"""``check_config=true``: looks for everything that a training needs, without reading weights or downloading any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.dataset.mixture import present_only
from src.model.audio_embedder import AudioEmbedder
from src.model.checkpoints import open_checkpoint
from src.model.config import ModelConfig
from src.model.encoders.load import build_encoder, check_encoder
from src.model.llm import EMBEDDING_NAMES, config_width, llm_config, load_chat_tokenizer, resolve_source
from src.model.tensor_files import find_stored_tensors
from src.prompts import choose_prompts
from src.training.arguments import training_arguments
from src.training.build import configured_as, find_adapters
from src.training.config import TrainConfig, bind_model_config, check_adapter_names
from src.training.resume import find_resume

T = TypeVar("T")
log = get_logger(__name__)


def check_run(config: TrainConfig) -> Path:
    """Look for language model, encoders, checkpoints, adapters and data of a run; returns its output folder.

    Raises :class:`ConfigError` with every fault found.
    """
    faults: list[str] = []

    def run(check: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return check(*arguments)
        except UserError as error:
            if str(error) not in faults:
                faults.append(str(error))
            return None

    given = config.training_args.get("output_dir")
    directory = Path(str(given or "."))
    if not given:
        faults.append("training_args.output_dir: missing, give the folder of this run")
    else:
        run(training_arguments, config)
        run(find_resume, config.resume_from_checkpoint, directory, config.eval_mode)
    llm, revision = config.model.get("llm"), config.model.get("llm_revision")
    run(lambda: choose_prompts(config.prompts, llm=llm))
    run(present_only, config.dataset)
    model = run(bind_model_config, config)
    if model is not None:
        llm, revision = model.llm, model.llm_revision
    width = run(check_llm, llm, revision, config.random_weights) if isinstance(llm, str) else None
    name = config.model.get("from_pretrained")
    start = None if name is None else run(open_checkpoint, name)
    if model is not None and width is not None:
        if start is not None:
            model = run(configured_as, start, model)
        elif model.llm_embedding_dim not in (None, width):
            faults.append(f"model.llm_embedding_dim is {model.llm_embedding_dim}, but {model.llm} has {width}")
    if model is not None:
        run(check_adapter_names, config, model)
        run(find_adapters, config, model)
        weights = not config.random_weights and (start is None or not start.is_full_model)
        before = len(faults)
        for encoder, spec in model.config.encoders.items():
            run(check_encoder if weights else build_encoder, encoder, spec)
        if len(faults) == before:  # else the faults of an encoder would be repeated
            run(_build_on_meta, model, width or model.llm_embedding_dim or 1)
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        listed = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
        raise ConfigError(f"{len(faults)} faults: {listed}")
    log.info("the configuration is in order")
    return directory


def check_llm(name: str, revision: str | None, random_weights: bool = False) -> int:
    """Check a language model's configuration, chat template, and the shape of its embeddings; returns its width.

    Raises :class:`UserError` for the first of these that is missing or does not fit.
    """
    source, files = resolve_source(name), None
    on_hub = not Path(source).expanduser().exists() and source.count("/") == 1
    if on_hub and not random_weights:  # first: transformers asks a Hub that does not answer again and again
        files = find_stored_tensors("LLM", source, revision)
    config = llm_config(name, revision)
    tokenizer = load_chat_tokenizer(name, revision)
    width = config_width(config)
    if not on_hub and not random_weights:
        files = find_stored_tensors("LLM", source, revision)
    if files is None:
        return width
    tables = [tensor for tensor in files.names() if tensor.split(".")[-2:] in EMBEDDING_NAMES]
    for table, (rows, columns) in files.shapes(tables).items():
        if columns != width or len(tokenizer) > rows:
            raise UserError(
                f"LLM {name!r}: {table} has {rows} rows of {columns}, its tokenizer {len(tokenizer)} tokens and its "
                f"config.json a width of {width}; the files do not belong together, fetch or save them again"
            )
    return width


def _build_on_meta(model: ModelConfig, width: int) -> None:
    """Build adapters and fusion without memory. Raises :class:`UserError` for sizes that do not fit each other."""
    with torch.device("meta"):  # tensors with shapes, but without memory
        encoders = {name: build_encoder(name, spec) for name, spec in model.config.encoders.items()}
        AudioEmbedder(model.config, width, encoders)
