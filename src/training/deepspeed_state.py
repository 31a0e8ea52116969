"""Optimizer state of a run under DeepSpeed ZeRO (stages 1 and 2), stored in the same file as without.

DeepSpeed's own checkpoints would contain the frozen LLM and could be read only by unpickling and by such a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.training.fsdp_state import OPTIMIZER_FILE


def save_optimizer(engine: Any, directory: Path, write: bool) -> None:
    """Write the optimizer's state as one process would. All processes must call it; those with ``write`` write."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(engine)
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for group, flat, members in _groups(engine):
        first = len(state)
        own = engine.optimizer.optimizer.state[flat]
        for parameter in members:
            moments = [key for key, value in own.items() if isinstance(value, Tensor) and value.shape == flat.shape]
            full = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in moments}
            # Copies: torch.save stores a shared step count as one tensor, and after loading every parameter's
            # optimizer step would increment that one.
            rest = {key: copy.deepcopy(value) for key, value in own.items() if key not in full}
            state[len(state)] = {**rest, **full}
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({**settings, "params": list(range(first, len(state)))})
    if write:
        torch.save({"state": state, "param_groups": groups}, directory / OPTIMIZER_FILE)


def load_optimizer(engine: Any, directory: Path) -> None:
    """Distribute an optimizer's state that any run has written. All processes must call it."""
    from deepspeed.utils import safe_set_full_optimizer_state

    saved = torch.load(directory / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
    entries = []
    for (group, flat, members), given in zip(_groups(engine), saved["param_groups"], strict=True):
        group.update({key: value for key, value in given.items() if key != "params"})
        states = [saved["state"][place] for place in given["params"]]
        entries += list(zip(members, states, strict=True))
        own = engine.optimizer.optimizer.state[flat]
        for key, value in states[0].items():  # otherwise the optimizer creates its state at its first step
            scalar = not isinstance(value, Tensor) or value.dim() == 0
            own[key] = value if scalar else torch.zeros_like(flat)
    _link(engine)
    for parameter, state in entries:
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def _link(engine: Any) -> None:
    """Map every parameter to its part of the state: DeepSpeed does so at the start, when there is no state yet."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for _, flat, members in _groups(engine):
        lazy_init_hp_params_optimizer_state(members, flat, engine.optimizer.optimizer.state)


def _groups(engine: Any) -> Iterator[tuple[dict[str, Any], Tensor, list[Tensor]]]:
    """Parameter groups: their settings, this process's share as one flat tensor, and the parameters in order."""
    zero = engine.optimizer
    yield from zip(zero.param_groups, zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True)
