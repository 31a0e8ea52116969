"""Optimizer state of a run whose model is sharded over processes (FSDP2), stored in the same file as without.

accelerate's own functions would write the frozen LLM too, in a form that only such a run can read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

OPTIMIZER_FILE = "optimizer.pt"
_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_optimizer(model: nn.Module, optimizer: Any, directory: Path, write: bool) -> None:
    """Write the optimizer's state as one process would. All processes must call it; those with ``write`` write."""
    named: Any = get_optimizer_state_dict(model, optimizer, options=_OPTIONS)
    if not write:
        return
    places = {name: place for place, name in enumerate(_in_groups(named["param_groups"]))}
    groups = [{**group, "params": [places[name] for name in group["params"]]} for group in named["param_groups"]]
    state = {places[name]: values for name, values in named["state"].items()}
    torch.save({"state": state, "param_groups": groups}, directory / OPTIMIZER_FILE)


def load_optimizer(model: nn.Module, optimizer: Any, directory: Path) -> None:
    """Distribute an optimizer's state that any run has written. All processes must call it."""
    named: Any = get_optimizer_state_dict(model, optimizer)
    names = _in_groups(named["param_groups"])
    saved = torch.load(directory / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
    groups = [{**group, "params": [names[place] for place in group["params"]]} for group in saved["param_groups"]]
    state = {names[place]: values for place, values in saved["state"].items()}
    full: Any = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, full, options=_OPTIONS)


def _in_groups(groups: Any) -> list[str]:
    """Names of the parameters in the order of their numbers in a plain optimizer's state dict."""
    return [name for group in groups for name in group["params"]]
