"""Optimizer and schedule of a published ``checkpoint-N``, for a run that continues it.

The published Trainer's optimizer has the trained parameters in the order of the published model: separators, adapters
by encoder name, fusion; those with weight decay first. This project's order is the same, so the state is loaded by
position and each shape is compared. A state that cannot be read or does not fit is started fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.common.errors import UserError, error_text
from src.common.log import get_logger

OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"

log = get_logger(__name__)


def load_published_state(folder: Path, optimizer: Any, scheduler: Any, step: int, sharded: bool) -> None:
    """Continue the optimizer and the schedule of a published checkpoint; one line reports what was started fresh.

    Args:
        folder: ``checkpoint-N``.
        optimizer: of this run, with its parameter groups.
        scheduler: of this run.
        step: optimizer steps that were done.
        sharded: whether the optimizer's state is sharded (FSDP, DeepSpeed); then it is started fresh.
    """
    fresh = "its state is sharded over the processes" if sharded else _load_optimizer(folder / OPTIMIZER, optimizer)
    if fresh:
        log.warning("%s: weights, step and schedule are continued; the optimizer starts fresh (%s)", folder, fresh)
    else:
        log.info("%s: weights, step, schedule and optimizer are continued", folder)
    _load_scheduler(folder / SCHEDULER, getattr(scheduler, "scheduler", scheduler), step)


def _load_optimizer(path: Path, optimizer: Any) -> str:
    """Load the state; returns why it cannot be loaded, or an empty text."""
    try:
        given = _read(path)
    except UserError as error:
        return str(error)
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    problem = _misfit(given, own["param_groups"], parameters)
    if problem:
        return f"{path.name}: {problem}"
    optimizer.load_state_dict({"state": given["state"], "param_groups": given["param_groups"]})
    return ""


def _misfit(given: Mapping[str, Any], groups: list[dict[str, Any]], parameters: list[Tensor]) -> str:
    theirs, state = given.get("param_groups"), given.get("state")
    if not isinstance(theirs, list) or not isinstance(state, Mapping):
        return "no state of an optimizer"
    sizes = [len(group.get("params", ())) if isinstance(group, Mapping) else -1 for group in theirs]
    expected = [len(group["params"]) for group in groups]
    if sizes != expected:
        return f"groups of {sizes} parameters, this run trains {expected}"
    order = [index for group in theirs for index in group["params"]]
    if order != list(range(len(parameters))):
        return "parameters in another order than their groups"
    for index, entry in state.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, Mapping):
            return f"an entry for the unknown parameter {index!r}"
        wanted = parameters[index].shape
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != wanted:
                return f"{name} of parameter {index} is {tuple(value.shape)}, the parameter {tuple(wanted)}"
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                return f"{name} of parameter {index} is not finite"
    return ""


def _load_scheduler(path: Path, scheduler: Any, step: int) -> None:
    """Set the schedule to ``step``: as saved, or by counting if the file is missing or of another schedule."""
    own = scheduler.state_dict()
    try:
        given = _read(path)
        rates = given.get("base_lrs")
        if given.get("last_epoch") != step or not isinstance(rates, list) or len(rates) != len(own["base_lrs"]):
            raise UserError(f"{path.name}: of another schedule, or of another step than {step}")
        scheduler.load_state_dict({**own, **{key: value for key, value in given.items() if key in own}})
    except UserError as error:
        log.warning("the schedule is continued by counting %d steps (%s)", step, error)
        scheduler.load_state_dict({**own, "last_epoch": step, "_step_count": step + 1})
    # load_state_dict of a schedule leaves the optimizer's rates as they are, until the schedule's next step
    rates = [base * rate(step) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.name} is missing")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets errors of zipfile, pickle and struct through for damaged files
        raise UserError(
            f"{path.name} cannot be read without running code from it: {error_text(error, 80)}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} contains a {type(content).__name__}")
    return content
