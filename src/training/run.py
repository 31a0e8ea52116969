"""A training run: from the composed configuration to a folder with checkpoint, metrics and record."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.errors import UserError
from src.common.existing import RECORD
from src.common.files import write_json
from src.common.lock import locked_folders
from src.common.log import get_logger
from src.common.paths import use_data_dir
from src.common.run_record import write_run_record
from src.common.seeds import seed_everything
from src.prompts import choose_prompts
from src.training.config import TrainConfig, bind_train_config

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
EVAL_FILE = "eval.json"


def run_training(config: Mapping[str, Any]) -> Path:
    """Train, or only evaluate, as ``src/configs/train.yaml`` describes; returns the output folder.

    The folder then is a checkpoint itself (``model.safetensors``, ``alarm_config.json``) and contains ``run.json``,
    ``metrics.jsonl`` and ``checkpoint-N`` folders. Raises :class:`UserError` for anything that the user can fix.
    """
    bound = bind_train_config(config)
    config = {**config, "seed": bound.seed}
    started = time.perf_counter()
    if bound.alternative_data_dir is not None:
        use_data_dir(bound.alternative_data_dir)
    if bound.check_config:
        from src.training.check import check_run

        return check_run(bound)
    if bound.dry_run:
        from src.training.dry_run import dry_run

        return dry_run(bound, fit_memory)
    from src.training.arguments import data_error_as_one_line, timeout_as_one_line, training_arguments
    from src.training.resume import agreed_resume
    from src.training.trackers import wandb_run

    args = training_arguments(bound)
    directory = Path(args.output_dir)
    choose_prompts(bound.prompts, llm=bound.model.get("llm"))  # a wrong file is reported before models are loaded
    # The first process locks the folder for all. Evaluation writes records only, also while a run is training.
    with locked_folders([directory] if args.process_index == 0 and not bound.eval_mode else []):
        resume = agreed_resume(bound.resume_from_checkpoint, directory, bound.eval_mode)
        tracked = wandb_run(args, config, None if bound.eval_mode or resume is None else Path(resume))
        with tracked, timeout_as_one_line(args.ddp_timeout), data_error_as_one_line():
            return _run(bound, config, args, resume, started)


def final_loss(directory: Path) -> float:
    """Loss of a run's evaluation sets, else of its training; not a number if it has neither."""
    try:
        results = json.loads((directory / RECORD).read_text(encoding="utf-8")).get("results") or {}
    except FileNotFoundError:
        return math.nan
    return float(results.get("eval_loss", results.get("train_loss", math.nan)))


def _run(bound: TrainConfig, config: Mapping[str, Any], args: Any, resume: str | Path | None, started: float) -> Path:
    """Build model, data and trainer; train or evaluate; write the record."""
    import torch

    from src.model.lora import base_digest
    from src.training.arguments import step_plan
    from src.training.build import build_model, open_data
    from src.training.callbacks import CurvesCallback, RunCallback, draw_curves
    from src.training.encoder_cache import EncoderCache
    from src.training.samples import DEFAULT_ROWS, SampleCallback
    from src.training.trackers import open_tensorboard
    from src.training.trainer import AlarmTrainer

    directory = Path(args.output_dir)
    seed_everything(bound.seed)
    built = build_model(bound, args.bf16)
    data = open_data(bound, built.tokenizer, built.config)
    digest = base_digest(built.model.llm)
    cache = None
    if bound.encoder_cache_mb:
        folder = None if bound.encoder_cache_dir is None else Path(bound.encoder_cache_dir)
        precision = "bfloat16" if args.bf16 else "float32"
        cache = EncoderCache(built.model.audio_embedder, built.extractor, bound.encoder_cache_mb, folder, precision)
    prompts = choose_prompts(bound.prompts, llm=built.config.llm)
    trainer = AlarmTrainer(
        built.model,
        args,
        data,
        built.extractor,
        built.config,
        step_plan(bound),
        cache,
        skip_not_finite=bound.not_finite == "skip",
        prompts=prompts,
        overlap_encoders=bound.overlap_encoders,
    )
    if not bound.eval_mode:
        fit_memory(trainer, bound, resume is not None)
    open_tensorboard(trainer, config, None if bound.eval_mode or resume is None else Path(resume))
    # In this order: the log's speed then excludes the time of sample answers, and the page shows both.
    sampler = None
    if bound.sample_generations:
        rows = DEFAULT_ROWS if bound.sample_generations is True else int(bound.sample_generations)
        sampler = SampleCallback(
            trainer, built.tokenizer, rows, bound.sample_tokens, bound.bertscore_model, bound.sample_metrics
        )
        trainer.add_callback(sampler)
    RunCallback(directory).attach(trainer)
    trainer.add_callback(CurvesCallback())
    ready = time.perf_counter()
    if bound.eval_mode:
        if resume is not None:
            trainer._load_from_checkpoint(str(resume))
        elif not (bound.model.get("from_pretrained") or bound.pretrained_adapters_dir):
            log.warning(
                "eval_mode: no checkpoint is given (resume_from_checkpoint=C); untrained weights are evaluated"
            )
        results: dict[str, Any] = trainer.evaluate()
        results |= {} if sampler is None else sampler.run()
    else:
        results = _train(trainer, None if resume is None else Path(resume))
    if cache is not None:
        cache.write()
    after = base_digest(built.model.llm)
    if after != digest:
        raise UserError(
            f"the frozen LLM changed while training (digest {digest} before, {after} after): its weights are mapped "
            "from its file, so do not rewrite that file during a run; train again"
        )
    positions = int(trainer.accelerator.reduce(torch.tensor(trainer.positions, device=args.device), "sum"))
    if args.should_save:
        if bound.eval_mode:
            write_json(directory / EVAL_FILE, results)
        write_run_record(
            directory,
            config,
            seed=args.seed,
            resumed_from=None if resume is None else str(resume),
            results=results,
            counts={
                "clips": trainer.clips_seen,
                "rows_replaced": trainer.rows_replaced,
                "positions": positions,
                "steps_skipped": trainer.guard.skipped,
            },
            processes=args.world_size,
            distributed=trainer.accelerator.distributed_type.value,
            response_sets_skipped=list(data.skipped),
            llm_digest={"before": digest, "after": after},
            seconds={"start": round(ready - started, 3), "run": round(time.perf_counter() - ready, 3)},
            prompts=prompts.record(),
        )
        draw_curves(directory)
    trainer.accelerator.wait_for_everyone()
    return directory


def fit_memory(trainer: AlarmTrainer, bound: TrainConfig, resumed: bool) -> None:
    """Choose the size of micro-batches and what is recomputed, where the configuration leaves it to the machine."""
    from src.training.activation_memory import bound_activations
    from src.training.batch_search import find_batch_positions

    if bound.max_batch_positions == "auto":
        positions = find_batch_positions(trainer, bound.batch_search, resumed)
        trainer.plan = dataclasses.replace(trainer.plan, max_positions=positions)
    if bound.activation_memory_gib is not None:
        bound_activations(trainer, bound.activation_memory_gib)


def _train(trainer: AlarmTrainer, resume: Path | None) -> dict[str, Any]:
    from src.training.resume import steps_done

    results: dict[str, Any] = {}
    if resume is not None:
        trainer.continue_from(resume, steps_done(resume))
    if resume is not None and _is_finished(trainer, resume):
        log.info("%s is of the last step: nothing is left to train", resume)
        trainer._load_from_checkpoint(str(resume))
    else:
        if resume is not None and trainer.is_sharded:  # before the model is sharded
            trainer._load_from_checkpoint(str(resume))
        outcome = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        results = dict(outcome.metrics)
    if trainer.data.evaluation and trainer.args.eval_strategy != "no":
        done = trainer.last_evaluation
        results |= done[1] if done is not None and done[0] == trainer.state.global_step else trainer.evaluate()
    trainer.save_model()
    return results


def _is_finished(trainer: AlarmTrainer, resume: Path) -> bool:
    """Whether a checkpoint is of the last step: the Trainer would train one more."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
    return trainer.state.global_step >= trainer.last_step(len(trainer.get_train_dataloader()))
