"""``training_args`` of the configuration -> transformers' ``TrainingArguments``; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from src.common.config import wrong_numbers
from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.common.memory import keep_freed_memory
from src.dataset.sampler import StepPlan
from src.model.precision import computes_bfloat16
from src.training.config import TrainConfig
from src.training.text_metrics import METRICS, check_bertscore
from src.training.trackers import check_trackers

log = get_logger(__name__)
_FIXED = {
    # The Trainer would drop columns by the names of forward's arguments; batches here have no columns.
    "remove_unused_columns": False,
    # A loss that is not finite stops the run; the filter would replace it by a mean in the log.
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    # All trained parameters take part in every step, and frozen buffers are equal in all processes.
    "ddp_find_unused_parameters": False,
    "ddp_broadcast_buffers": False,
}
_NO_ANSWER = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
"""Messages of gloo about a process that is stopped, or has ended."""
_REPLACED_BY = {
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
    problems = []
    for key in given:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)  # the fields are too many to list
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"training_args.{key}: unknown key{hint}")
    problems += wrong_numbers(TrainingArguments, given, "training_args")
    problems += [f"training_args.{key}: {hint}" for key, hint in _REPLACED_BY.items() if given.get(key)]
    if problems:
        raise ConfigError("; ".join(problems))
    if config.not_finite == "skip" and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ConfigError(
            "not_finite=skip: DeepSpeed applies a step before it can be checked; launch without DeepSpeed"
        )
    check_trackers(given.get("report_to"))
    check_bertscore(config.bertscore_model)
    for metric in config.sample_metrics:
        METRICS.load(metric, "sample_metrics")
    values = {**_FIXED, **given, "seed": config.seed}
    if values.get("dataloader_persistent_workers") is None:
        values["dataloader_persistent_workers"] = bool(values.get("dataloader_num_workers"))
    # A batch of the Trainer is a whole optimizer step, which AlarmTrainer cuts into micro-batches.
    values |= {"per_device_train_batch_size": step_plan(config).step_clips, "gradient_accumulation_steps": 1}
    if not torch.cuda.is_available() and not values.get("use_cpu"):
        values["use_cpu"] = True
    if values.get("use_cpu"):
        values["dataloader_pin_memory"] = False
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            values.setdefault("ddp_backend", "gloo")
    if config.eval_mode or not config.dataset.eval:
        values["eval_strategy"] = "no"
    if not (values.get("bf16") or values.get("fp16")):
        # accelerate would take the precision of the launcher's file, which no record of the run mentions.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    try:
        _open_process_group(values)
        args = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training_args: {' '.join(str(error).split())}") from error
    if args.device.type == "cpu":
        keep_freed_memory()
    if args.bf16 and not computes_bfloat16(args.device.type):
        log.warning(
            "training_args.bf16=true: this CPU has no instructions for bfloat16, and torch takes many times longer; "
            "training_args.bf16=false computes in float32"
        )
    if args.n_gpu > 1:
        # The Trainer would use nn.DataParallel in one process.
        log.warning("one of %d GPUs is used; start with accelerate launch --num-processes %d", args.n_gpu, args.n_gpu)
        args._n_gpu = 1
    return args


def _open_process_group(values: Mapping[str, Any]) -> None:
    """Connect processes on the CPU with ``ddp_timeout``, which transformers passes on for accelerators only."""
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
        message = " ".join(str(error).split())
        if not any(sign in message for sign in _NO_ANSWER):
            raise
        raise UserError(
            f"another process has ended, or did not answer for the {seconds:g} s of training_args.ddp_timeout "
            f"({message[:200]}); look at the output of the others, or raise ddp_timeout; "
            "resume_from_checkpoint=true continues from the last checkpoint"
        ) from error


@contextmanager
def data_error_as_one_line() -> Iterator[None]:
    """Raise the error of a data worker as it was; PyTorch puts the worker's traceback in front of its message."""
    # https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_utils.py, ExceptionWrapper.reraise
    try:
        yield
    except UserError as error:
        kind, text = type(error), str(error)
        if not text.startswith(f"Caught {kind.__name__} in DataLoader worker"):
            raise
        raise kind(text.rsplit(f"{kind.__name__}: ", 1)[-1].strip()) from error


def step_plan(config: TrainConfig) -> StepPlan:
    """How optimizer steps are made and cut; without a bound of positions while it is ``auto``.

    Raises :class:`ConfigError` for numbers below one.
    """
    sizes = []
    for key, default in (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1)):
        value = config.training_args.get(key, default)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"training_args.{key} is {value!r}, expected a whole number of at least 1")
        sizes.append(value)
    grouping = config.length_grouping
    if config.training_args.get("train_sampling_strategy") == "group_by_length":
        grouping = "across_steps"
    positions = None if config.max_batch_positions == "auto" else config.max_batch_positions
    return StepPlan(sizes[0], sizes[1], grouping, positions, config.packing)
