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
from src.common.run_record import record_start, write_run_record
from src.prompts import choose_prompts
from src.training.config import TrainConfig, bind_train_config

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
EVAL_FILE = "eval.json"


def run_training(config: Mapping[str, Any]) -> Path:
    """Train, or only evaluate, as ``src/configs/train.yaml`` describes; returns the output folder.

    The folder then is a checkpoint itself (``model.safetensors``, ``alarm_config.json``) and contains ``run.json``,
    ``starts.jsonl``, ``metrics.jsonl`` and ``checkpoint-N`` folders. Raises :class:`UserError` for anything that the
    user can fix.
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
    from src.training.build import build_trainer
    from src.training.callbacks import CurvesCallback, RunCallback, draw_curves
    from src.training.samples import DEFAULT_ROWS, SampleCallback
    from src.training.trackers import open_tensorboard

    directory = Path(args.output_dir)
    trainer, tokenizer = build_trainer(bound, args)
    llm = trainer.model.llm
    digest = base_digest(llm)
    if not bound.eval_mode:
        fit_memory(trainer, bound, resume is not None)
    open_tensorboard(trainer, config, None if bound.eval_mode or resume is None else Path(resume))
    # In this order: the log's speed then excludes the time of sample answers, and the page shows both.
    sampler = None
    if bound.sample_generations:
        rows = DEFAULT_ROWS if bound.sample_generations is True else int(bound.sample_generations)
        sampler = SampleCallback(
            trainer, tokenizer, rows, bound.sample_tokens, bound.bertscore_model, bound.sample_metrics
        )
        trainer.add_callback(sampler)
    trainer.add_callback(RunCallback(trainer))
    trainer.add_callback(CurvesCallback())
    facts = {
        "seed": args.seed,
        "resumed_from": None if resume is None else str(resume),
        "max_batch_positions": trainer.plan.max_positions,
        "processes": args.world_size,
        "distributed": trainer.accelerator.distributed_type.value,
        "response_sets_skipped": list(trainer.data.skipped),
        "prompts": None if trainer.prompts is None else trainer.prompts.record(),
    }
    if args.should_save and not bound.eval_mode:
        record_start(directory, config, resumed=resume is not None, **facts)
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
    if trainer.cache is not None:
        trainer.cache.write()
    after = base_digest(llm)
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
            **facts,
            results=results,
            counts={
                "clips": trainer.clips_seen,
                "rows_replaced": trainer.rows_replaced,
                "positions": positions,
                "steps_skipped": trainer.guard.skipped,
            },
            llm_digest={"before": digest, "after": after},
            seconds={"start": round(ready - started, 3), "run": round(time.perf_counter() - ready, 3)},
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
    """Train, or continue; evaluate with the last weights and write them."""
    from transformers import TrainerState

    from src.training.resume import STATE_FILE, steps_done

    results: dict[str, Any] = {}
    finished = False
    if resume is not None:
        trainer.continue_from(resume, steps_done(resume))
        trainer.state = TrainerState.load_from_json(str(resume / STATE_FILE))
        # From a checkpoint of the last step the Trainer would train one step more.
        finished = trainer.state.global_step >= trainer.last_step(len(trainer.get_train_dataloader()))
        if finished:
            log.info("%s is of the last step: nothing is left to train", resume)
        if finished or trainer.is_sharded:  # before the model is sharded
            trainer._load_from_checkpoint(str(resume))
    if not finished:
        outcome = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        results = dict(outcome.metrics)
    if trainer.data.evaluation and trainer.args.eval_strategy != "no":
        done = trainer.last_evaluation
        results |= done[1] if done is not None and done[0] == trainer.state.global_step else trainer.evaluate()
    trainer.save_model()
    return results
