"""One training run, from a composed configuration to a folder with its checkpoint, metrics and record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.run_record import write_json, write_run_record
from src.common.seeds import seed_everything
from src.training.config import bind_train_config

log = get_logger(__name__)
EVAL_FILE = "eval.json"


def run_training(config: Mapping[str, Any]) -> Path:
    """Train, or only evaluate, as ``src/configs/train.yaml`` describes; returns the output folder.

    The folder then is a checkpoint itself (``model.safetensors``, ``alarm_config.json``) and holds ``run.json``,
    ``metrics.jsonl`` and the ``checkpoint-N`` folders of the way. Raises :class:`UserError` for anything that the
    user can mend.
    """
    bound = bind_train_config(config)
    started = time.perf_counter()
    from src.model.llm import weights_digest
    from src.training.arguments import training_arguments
    from src.training.build import build_model
    from src.training.callbacks import RunCallback
    from src.training.data import open_data
    from src.training.resume import find_resume
    from src.training.trainer import AlarmTrainer

    args = training_arguments(bound)
    output_dir = Path(args.output_dir)
    resume = find_resume(bound.resume_from_checkpoint, output_dir)
    seed_everything(bound.seed)
    built = build_model(bound, args.bf16)
    data = open_data(bound, built.tokenizer, built.config)
    digest = weights_digest(built.model.llm)
    trainer = AlarmTrainer(built.model, args, data, built.extractor, built.config)
    RunCallback(output_dir).attach(trainer)
    seconds = {"start": time.perf_counter() - started}
    results = _evaluate(trainer, resume) if bound.eval_mode else _train(trainer, resume)
    seconds["run"] = time.perf_counter() - started - seconds["start"]
    after = weights_digest(built.model.llm)
    if after != digest:
        raise UserError(f"the frozen LLM changed while training: digest {digest} before, {after} after; report this")
    if args.should_save:
        if bound.eval_mode:
            write_json(output_dir / EVAL_FILE, results)
        write_run_record(
            output_dir,
            config,
            seed=bound.seed,
            llm_digest={"before": digest, "after": after},
            resumed_from=None if resume is None else str(resume),
            results=results,
            counts={"clips": trainer.clips_seen, "rows_replaced": trainer.rows_replaced},
            processes=args.world_size,
            seconds=seconds,
        )
    trainer.accelerator.wait_for_everyone()
    return output_dir


def _train(trainer: Any, resume: Path | None) -> dict[str, Any]:
    outcome = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    results = dict(outcome.metrics)
    if trainer.data.evaluation and trainer.args.eval_strategy != "no":
        results |= trainer.evaluate()
    trainer.save_model()
    return results


def _evaluate(trainer: Any, resume: Path | None) -> dict[str, Any]:
    if resume is not None:
        trainer._load_from_checkpoint(str(resume))
    return trainer.evaluate()
