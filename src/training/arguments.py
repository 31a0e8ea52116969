"""``training_args`` of the configuration -> transformers' ``TrainingArguments``, misspelt keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.dataset.sampler import StepPlan
from src.training.config import TrainConfig
from src.training.text_metrics import check_bertscore
from src.training.trackers import check_trackers

log = get_logger(__name__)
_OWN = {
    # Batches are made and placed by this project; the Trainer's column logic knows nothing of them.
    "remove_unused_columns": False,
    # A loss that is not finite stops the run instead of being averaged away in the log.
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    # All that is trained takes part in every step, and frozen buffers need not be sent around.
    "ddp_find_unused_parameters": False,
    "ddp_broadcast_buffers": False,
}
_NOT_ANSWERED = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
"""Messages of gloo about a process that is stopped, or gone."""
_ELSEWHERE = {
    "auto_find_batch_size": "set max_batch_positions instead",
    "torch_compile": "set compile_layers instead",
}


def training_arguments(config: TrainConfig) -> Any:
    """The Trainer's arguments; on a machine without an accelerator they ask for the CPU and gloo.

    Raises :class:`ConfigError` for unknown keys, all at once, and for values that the Trainer refuses.
    """
    import torch
    from transformers import TrainingArguments

    given = dict(config.training_args)
    fields = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    problems = [_unknown(key, fields) for key in given if key not in fields]
    problems += [f"training_args.{key}: {hint}" for key, hint in _ELSEWHERE.items() if given.get(key)]
    if problems:
        raise ConfigError("; ".join(problems))
    if config.not_finite == "skip" and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ConfigError("not_finite=skip: DeepSpeed applies a step before it can be looked at; launch without it")
    check_trackers(given.get("report_to"))
    check_bertscore(config.bertscore_model)
    values = {**_OWN, **given, "seed": config.seed}
    if values.get("dataloader_persistent_workers") is None:
        values["dataloader_persistent_workers"] = bool(values.get("dataloader_num_workers"))
    plan = step_plan(config)
    # The Trainer takes a whole optimizer step for a batch; the step is cut into micro-batches here.
    values |= {"per_device_train_batch_size": plan.step_clips, "gradient_accumulation_steps": 1}
    if not torch.cuda.is_available() and not values.get("use_cpu"):
        values["use_cpu"] = True
    if values.get("use_cpu"):
        values["dataloader_pin_memory"] = False
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            values.setdefault("ddp_backend", "gloo")
    if config.eval_mode or not config.dataset.eval:
        values["eval_strategy"] = "no"
    if not (values.get("bf16") or values.get("fp16")):
        # What the run is told decides, not the launcher's file: its precision would go unrecorded.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    try:
        _open_process_group(values)
        args = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training_args: {' '.join(str(error).split())}") from error
    if args.n_gpu > 1:
        log.warning("one of %d GPUs is used; start with accelerate launch --num-processes %d", args.n_gpu, args.n_gpu)
        args._n_gpu = 1
    return args


def _open_process_group(values: Mapping[str, Any]) -> None:
    """Connect processes on the CPU with ``ddp_timeout``, which transformers hands on for accelerators alone."""
    from torch import distributed

    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)
    several = launched and int(os.environ["WORLD_SIZE"]) > 1
    if not values.get("use_cpu") or values.get("ddp_backend") != "gloo" or not several:
        return
    if values.get("ddp_timeout") is not None and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(seconds=values["ddp_timeout"]))


@contextmanager
def timeout_as_one_line(seconds: float) -> Iterator[None]:
    """Raise :class:`UserError` when another process did not answer for ``ddp_timeout``, or has ended."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())
        if not any(sign in said for sign in _NOT_ANSWERED):
            raise
        raise UserError(
            "another process has ended, or did not answer for the "
            f"{seconds:g} s of training_args.ddp_timeout ({said[:200]}); look at the output of the others, or raise "
            "ddp_timeout; resume_from_checkpoint=true goes on from the last checkpoint"
        ) from error


def step_plan(config: TrainConfig) -> StepPlan:
    """How optimizer steps are made and cut. Raises :class:`ConfigError` for numbers below one."""
    sizes = []
    for key, default in (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1)):
        value = config.training_args.get(key, default)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"training_args.{key} is {value!r}, expected a whole number of at least 1")
        sizes.append(value)
    clips, micro_batches = sizes
    grouping = config.length_grouping
    if config.training_args.get("train_sampling_strategy") == "group_by_length":
        grouping = "across_steps"
    return StepPlan(clips, micro_batches, grouping, config.max_batch_positions)


def _unknown(key: str, fields: list[str]) -> str:
    close = difflib.get_close_matches(key, fields, n=1)
    return f"training_args.{key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
