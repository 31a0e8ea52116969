"""Model and data of a run: frozen LLM, audio embedder, adapters of earlier runs; training and evaluation sets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from src.audio.augment import Augmenter
from src.audio.features import AudioFeatureExtractor
from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.common.seeds import seed_everything
from src.dataset.examples import ExampleDataset
from src.dataset.mixture import Mixture, MixtureConfig, open_mixture, present_only
from src.model.adapter_files import find_adapter, load_adapters
from src.model.alarm import AlarmModel
from src.model.audio_embedder import build_audio_embedder, build_feature_extractor
from src.model.checkpoints import Checkpoint, load_checked, open_checkpoint
from src.model.config import ModelConfig
from src.model.llm import config_width, llm_width, load_chat_tokenizer, load_llm
from src.model.lora import add_lora, lora_tensors
from src.model.lora_files import restore_lora
from src.model.objective import ObjectiveConfig
from src.model.precision import cast_frozen_weights
from src.prompts import choose_prompts
from src.prompts.chat import end_of_turn_ids
from src.prompts.given_answers import AnswerFrame
from src.training.arguments import step_plan
from src.training.config import LlmDtype, TrainConfig, bind_model_config, check_adapter_names
from src.training.data import TrainingData
from src.training.encoder_cache import EncoderCache
from src.training.trainer import AlarmTrainer

log = get_logger(__name__)


@dataclass(frozen=True)
class Built:
    """A model ready to train with its tokenizer, feature extractor and configuration."""

    model: AlarmModel
    tokenizer: Any
    extractor: AudioFeatureExtractor
    config: ModelConfig


def build_model(config: TrainConfig, bf16: bool = False) -> Built:
    """Load and assemble the model: the LLM in ``llm_dtype``, the rest in float32.

    ``bf16`` says that the run uses autocast to bfloat16. With ``model.from_pretrained`` the audio embedder's
    configuration and first weights are those of a checkpoint. Raises :class:`UserError` for weights that are missing
    or do not fit, :class:`ConfigError` for wrong names and when nothing is left to train.
    """
    model_config = bind_model_config(config)
    start = _open_start(config)
    if start is not None:
        model_config = configured_as(start, model_config)
    check_adapter_names(config, model_config)
    adapters = find_adapters(config, model_config)
    load_chat_tokenizer(model_config.llm, model_config.llm_revision, model_config.reasoning)  # before weights load
    dtypes: dict[LlmDtype, torch.dtype | str] = {"auto": "auto", "bfloat16": torch.bfloat16}
    llm, tokenizer = load_llm(
        model_config.llm,
        dtype=dtypes.get(config.llm_dtype, torch.float32),
        random=config.random_weights,
        revision=model_config.llm_revision,
        reasoning=model_config.reasoning,
    )
    if config.targets_end == "end_of_turn":
        _report_end_of_turn(llm, tokenizer, model_config.llm)
    width = config_width(llm.config)
    if model_config.llm_embedding_dim not in (None, width):
        raise ConfigError(
            f"model.llm_embedding_dim is {model_config.llm_embedding_dim}, but {model_config.llm} has {width}"
        )
    whole = None if start is None or config.random_weights or not start.is_full_model else start
    audio_embedder = build_audio_embedder(
        model_config.config, width, not config.random_weights, None if whole is None else whole.encoder
    )
    if bf16 and config.llm_dtype in ("auto", "autocast"):
        cast_frozen_weights(llm)
    if model_config.lora is not None:
        # After the audio embedder, so that its initial weights, drawn from the same seed, equal those without LoRA.
        add_lora(llm, model_config.lora, model_config.llm, model_config.llm_revision)
    if start is not None:
        load_checked(audio_embedder, start.state(), audio_embedder.trained_state(), start.name)
        if start.lora_folder is not None:
            restore_lora(llm, start.lora(), start.name)
        log.info("started from %s", start.name)
    if adapters:
        load_adapters(audio_embedder, list(adapters.values()), list(adapters))
        log.info("adapters loaded: %s", ", ".join(f"{name} from {source}" for name, source in adapters.items()))
    audio_embedder.freeze_encoders()
    if config.freeze_adapters:
        audio_embedder.freeze_adapters(config.frozen_adapters_names)
    if config.freeze_fusion:
        audio_embedder.freeze_fusion()
    if bf16:
        cast_frozen_weights(audio_embedder.audio_encoder)
    objective = config.objective.module("objective.name")(config.objective)
    if config.packing and not objective.takes_packed:
        raise ConfigError(
            f"packing=true: objective={config.objective.name} does not say that it reads packed batches; set "
            "takes_packed = True in its class if it does, or packing=false"
        )
    length = config.model_max_length or int(tokenizer.model_max_length)
    model = AlarmModel(audio_embedder, llm, length, objective, config.packing)
    _report_trained(model, model_config.llm, config.eval_mode)
    if config.compile_layers:
        model.compile_layers()
    return Built(model, tokenizer, build_feature_extractor(model_config.config), model_config)


def _report_end_of_turn(llm: Any, tokenizer: Any, name: str) -> None:
    (end,) = end_of_turn_ids(tokenizer)
    stops = llm.generation_config.eos_token_id
    listed = {tokenizer.eos_token_id, *([stops] if isinstance(stops, int) else stops or ())}
    log.info("targets end with %s", tokenizer.decode([end]))
    if end not in listed:
        log.warning("%s does not stop at %s: add it to eos_token_id in generation_config.json", name, end)


def _report_trained(model: AlarmModel, llm: str, eval_mode: bool) -> None:
    trained = sum(value.numel() for value in model.audio_embedder.parameters() if value.requires_grad)
    lora = sum(value.numel() for value in lora_tensors(model.llm).values())
    added = f" and {lora:,} of LoRA layers in it" if lora else ""
    log.info("training %s parameters next to %s%s", f"{trained:,}", llm, added)
    if trained + lora == 0 and not eval_mode:
        raise ConfigError("nothing is left to train: unfreeze an adapter or the fusion, or give lora.r")


def _open_start(config: TrainConfig) -> Checkpoint | None:
    name = config.model.get("from_pretrained")
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ConfigError(f"model.from_pretrained: got {name!r}, expected a checkpoint folder or a Hub id")
    return open_checkpoint(name)


def configured_as(start: Checkpoint, config: ModelConfig) -> ModelConfig:
    """Model configuration of a run that starts from a checkpoint: its audio embedder and LoRA, the run's LLM."""
    width = llm_width(config.llm, config.llm_revision)
    if width != start.config.llm_embedding_dim:
        raise ConfigError(
            f"model.from_pretrained={start.name} gives embeddings {start.config.llm_embedding_dim} wide, "
            f"{config.llm} takes {width}: set model.llm to {start.config.llm}, or to another of its width"
        )
    if config.config != start.config.config:
        log.info(
            "model.from_pretrained: the audio embedder is configured as in %s, not as model=NAME says", start.name
        )
    if config.llm != start.config.llm:
        log.warning("model.from_pretrained: %s was trained for %s, not %s", start.name, start.config.llm, config.llm)
    return dataclasses.replace(
        config,
        config=start.config.config,
        llm_embedding_dim=width,
        lora=config.lora or start.config.lora,
    )


def build_trainer(
    config: TrainConfig, args: TrainingArguments, kind: type[AlarmTrainer] = AlarmTrainer
) -> tuple[AlarmTrainer, Any]:
    """The trainer of a run with its model, data and encoder cache, and the tokenizer; seeds everything first."""
    seed_everything(config.seed)
    built = build_model(config, args.bf16)
    data = open_data(config, built.tokenizer, built.config)
    cache = None
    if config.encoder_cache_mb:
        folder = None if config.encoder_cache_dir is None else Path(config.encoder_cache_dir)
        precision = "bfloat16 states" if args.bf16 else "float32"  # earlier versions stored float32 under "bfloat16"
        cache = EncoderCache(built.model.audio_embedder, built.extractor, config.encoder_cache_mb, folder, precision)
    trainer = kind(
        built.model,
        args,
        data,
        built.extractor,
        built.config,
        step_plan(config),
        cache,
        skip_not_finite=config.not_finite == "skip",
        prompts=choose_prompts(config.prompts, llm=built.config.llm),
        overlap_encoders=config.overlap_encoders,
    )
    return trainer, built.tokenizer


def find_adapters(config: TrainConfig, model_config: ModelConfig) -> dict[str, str | Path]:
    """Encoder name -> ``.pth`` file or checkpoint of its adapter, found before anything heavy is loaded."""
    if not config.pretrained_adapters_dir:
        return {}
    directory, names = config.pretrained_adapters_dir, config.pretrained_adapters_names
    if isinstance(names, dict):
        return {name: Path(directory) / run for name, run in names.items()}
    chosen = list(model_config.config.encoders) if names is None else names
    return {name: find_adapter(directory, name) for name in chosen}


def open_data(config: TrainConfig, tokenizer: Any, model_config: ModelConfig) -> TrainingData:
    """Open training examples (none in ``eval_mode``) and evaluation sets.

    Raises :class:`UserError` for an empty set, and for rows without the description that the objective needs.
    """
    prompts = choose_prompts(config.prompts, llm=model_config.llm)
    answers = AnswerFrame(
        tokenizer, prompts.budget_closing, [] if config.targets_end == "none" else end_of_turn_ids(tokenizer)
    )
    tags = None
    if model_config.config.use_explicit_audio_tokens:
        tags = (prompts.description_open, prompts.description_close)
    described_by = prompts if config.objective.module("objective.name").reads_description else None

    def examples(name: str, mixture: MixtureConfig, augmenter: Augmenter | None = None) -> ExampleDataset:
        rows = open_mixture(mixture)
        if not len(rows):
            raise UserError(f"dataset {config.dataset.name}: {name} has no rows (split {mixture.split!r})")
        if described_by is not None:
            _check_descriptions(rows, config.objective)
        return ExampleDataset(
            rows,
            tokenizer,
            tags,
            mixture.return_audio,
            answers,
            described_by,
            augmenter=augmenter,
            targets_end=config.targets_end or "none",
        )

    dataset, skipped = present_only(config.dataset)
    if skipped:
        log.warning("%d response sets are not on this machine and left out: %s", len(skipped), ", ".join(skipped))
    augmenter = Augmenter(config.augment, config.seed) if config.augment.active else None
    train = None if config.eval_mode else examples("train", dataset.train, augmenter)
    evaluation = {name: examples(name, mixture) for name, mixture in dataset.eval.items()}
    return TrainingData(train, evaluation, dataset.groups, skipped)


def _check_descriptions(rows: Mixture, objective: ObjectiveConfig) -> None:
    """Raise :class:`UserError` for rows without a description, or count them if the objective takes them."""
    lacking = {part.name: (missing, len(part)) for part in rows.parts if (missing := part.without_description())}
    if not lacking:
        return
    listed = ", ".join(f"{name}: {missing} of {count}" for name, (missing, count) in lacking.items())
    if getattr(objective, "without_description", None) == "ce":
        log.warning("rows without a description, trained with cross-entropy: %s", listed)
        return
    raise UserError(
        f"objective={objective.name} needs a description of every clip, in the column 'audio_description' (or "
        f"'question') of the responses; it is missing or empty in rows of {listed}. Make these responses again, "
        "leave them out, or set objective.without_description=ce"
    )
