"""One training run, from a composed configuration to a folder with its checkpoint, metrics and record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.errors import UserError
from src.common.lock import held
from src.common.log import get_logger
from src.common.paths import use_data_dir
from src.common.run_record import write_json, write_run_record
from src.common.seeds import seed_everything
from src.prompts import choose_prompts
from src.training.config import TrainConfig, bind_model_config, bind_train_config

if TYPE_CHECKING:
    from src.training.build import Built
    from src.training.encoder_cache import EncoderCache
    from src.training.samples import SampleCallback
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
EVAL_FILE = "eval.json"


def run_training(config: Mapping[str, Any]) -> Path:
    """Train, or only evaluate, as ``src/configs/train.yaml`` describes; returns the output folder.

    The folder then is a checkpoint itself (``model.safetensors``, ``alarm_config.json``) and holds ``run.json``,
    ``metrics.jsonl`` and the ``checkpoint-N`` folders of the way. Raises :class:`UserError` for anything that the
    user can fix.
    """
    bound = bind_train_config(config)
    config = {**config, "seed": bound.seed}
    started = time.perf_counter()
    if bound.alternative_data_dir is not None:
        use_data_dir(bound.alternative_data_dir)
    from src.training.arguments import timeout_as_one_line, training_arguments
    from src.training.resume import agreed_resume, find_resume
    from src.training.trackers import wandb_run

    args = training_arguments(bound)
    directory = Path(args.output_dir)
    choose_prompts(bound.prompts, llm=bound.model.get("llm"))  # a wrong file is reported before models are loaded
    if bound.check_config:
        find_resume(bound.resume_from_checkpoint, directory, bound.eval_mode)
        _check_folders(bound)
        log.info("the configuration is in order")
        return directory
    # the first process holds the folder for all; to evaluate writes records only, also while a run goes on
    with held([directory] if args.process_index == 0 and not bound.eval_mode else []):
        resume = agreed_resume(bound.resume_from_checkpoint, directory, bound.eval_mode)
        tracked = wandb_run(args, config, None if bound.eval_mode else _path(resume))
        with tracked, timeout_as_one_line(args.ddp_timeout):
            return _run(bound, config, args, resume, started)


def _check_folders(bound: TrainConfig) -> None:
    """Raise :class:`UserError` for models that are named by a folder that there is not; the Hub is not asked."""
    from src.model.llm import resolve_source

    model = bind_model_config(bound)
    named = {"model.llm": model.llm, "model.from_pretrained": bound.model.get("from_pretrained")}
    named |= {f"encoder {name}: weights.source": spec.weights.source for name, spec in model.config.encoders.items()}
    for key, name in named.items():
        is_path = name is not None and (name.startswith(("/", ".", "~")) or name.count("/") > 1)
        if name is not None and is_path and not Path(resolve_source(name)).expanduser().exists():
            raise UserError(f"{key}: folder {name!r} does not exist; expected a folder or a Hub id OWNER/NAME")


def _run(bound: TrainConfig, config: Mapping[str, Any], args: Any, resume: str | Path | None, started: float) -> Path:
    from src.model.lora import base_digest
    from src.training.arguments import step_plan
    from src.training.build import build_model
    from src.training.callbacks import draw_curves
    from src.training.data import open_data
    from src.training.trackers import open_tensorboard
    from src.training.trainer import AlarmTrainer

    seed_everything(bound.seed)
    built = build_model(bound, args.bf16)
    data = open_data(bound, built.tokenizer, built.config)
    digest = base_digest(built.model.llm)
    cache = _open_cache(bound, built, args.bf16)
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
    )
    open_tensorboard(trainer, config, None if bound.eval_mode else _path(resume))
    sampler = _add_callbacks(trainer, bound, built.tokenizer)
    ready = time.perf_counter()
    if (
        bound.eval_mode
        and resume is None
        and not (bound.model.get("from_pretrained") or bound.pretrained_adapters_dir)
    ):
        log.warning("eval_mode: no checkpoint is given (resume_from_checkpoint=C); untrained weights are evaluated")
    results = _evaluate(trainer, resume, sampler) if bound.eval_mode else _train(trainer, _path(resume))
    if cache is not None:
        cache.write()
    after = base_digest(built.model.llm)
    if after != digest:
        raise UserError(
            f"the frozen LLM changed while training (digest {digest} before, {after} after): its weights are mapped "
            "from its file, so do not rewrite that file during a run; train again"
        )
    seconds = {"start": round(ready - started, 3), "run": round(time.perf_counter() - ready, 3)}
    if args.should_save:
        digests = {"before": digest, "after": after}
        _record(trainer, config, results, resume, llm_digest=digests, seconds=seconds, prompts=prompts.record())
        draw_curves(Path(args.output_dir))
    trainer.accelerator.wait_for_everyone()
    return Path(args.output_dir)


def _add_callbacks(trainer: AlarmTrainer, config: TrainConfig, tokenizer: Any) -> SampleCallback | None:
    """Sample answers, log and curves page, in this order: the log's speed leaves answers out, the page shows both."""
    from src.training.callbacks import CurvesCallback, RunCallback
    from src.training.samples import DEFAULT_ROWS, SampleCallback

    sampler = None
    if config.sample_generations:
        rows = DEFAULT_ROWS if config.sample_generations is True else int(config.sample_generations)
        sampler = SampleCallback(trainer, tokenizer, rows, config.sample_tokens, config.bertscore_model)
        trainer.add_callback(sampler)
    RunCallback(Path(trainer.args.output_dir)).attach(trainer)
    trainer.add_callback(CurvesCallback())
    return sampler


def _open_cache(config: TrainConfig, built: Built, bf16: bool) -> EncoderCache | None:
    from src.training.encoder_cache import EncoderCache

    if not config.encoder_cache_mb:
        return None
    folder = None if config.encoder_cache_dir is None else Path(config.encoder_cache_dir)
    precision = "bfloat16" if bf16 else "float32"
    return EncoderCache(built.model.front_end, built.extractor, config.encoder_cache_mb, folder, precision)


def _record(
    trainer: AlarmTrainer, config: Mapping[str, Any], results: dict[str, Any], resume: str | Path | None, **extra: Any
) -> None:
    directory = Path(trainer.args.output_dir)
    if config.get("eval_mode"):
        write_json(directory / EVAL_FILE, results)
    write_run_record(
        directory,
        config,
        seed=trainer.args.seed,
        resumed_from=None if resume is None else str(resume),
        results=results,
        counts={
            "clips": trainer.clips_seen,
            "rows_replaced": trainer.rows_replaced,
            "steps_skipped": trainer.guard.skipped,
        },
        processes=trainer.args.world_size,
        distributed=trainer.accelerator.distributed_type.value,
        response_sets_skipped=list(trainer.data.skipped),
        **extra,
    )


def _path(resume: str | Path | None) -> Path | None:
    return None if resume is None else Path(resume)


def _train(trainer: AlarmTrainer, resume: Path | None) -> dict[str, Any]:
    from src.training.resume import steps_done

    results: dict[str, Any] = {}
    if resume is not None:
        trainer.go_on_from(resume, steps_done(resume))
    if resume is not None and _is_finished(trainer, resume):
        log.info("%s is of the last step: nothing is left to train", resume)
        trainer._load_from_checkpoint(str(resume))
    else:
        if resume is not None and trainer.shared_out:  # before the model is shared out
            trainer._load_from_checkpoint(str(resume))
        outcome = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        results = dict(outcome.metrics)
    if trainer.data.evaluation and trainer.args.eval_strategy != "no":
        done = trainer.last_evaluation
        results |= done[1] if done is not None and done[0] == trainer.state.global_step else trainer.evaluate()
    trainer.save_model()
    return results


def _is_finished(trainer: AlarmTrainer, resume: Path) -> bool:
    """Whether a checkpoint is of the last step; the Trainer would do one more."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
    return trainer.state.global_step >= trainer.last_step(len(trainer.get_train_dataloader()))


def _evaluate(trainer: AlarmTrainer, resume: str | Path | None, sampler: SampleCallback | None) -> dict[str, Any]:
    if resume is not None:
        trainer._load_from_checkpoint(str(resume))
    results = trainer.evaluate()
    return results if sampler is None else results | sampler.run()
