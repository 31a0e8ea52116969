"""Losses and gradients that are not finite stop the run, or their step is skipped; the rows are recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from src.common.errors import UserError
from src.common.files import write_json
from src.common.log import get_logger
from src.dataset.examples import Batch

log = get_logger(__name__)
_HINT = "Look at these clips, lower training_args.learning_rate, or set not_finite=skip; then resume"


class NonfiniteGuard:
    """Checks every step before it is applied; all processes get the same result.

    With ``skip`` bad steps are skipped and counted in ``skipped``; their rows are recorded in either case.
    """

    def __init__(self, directory: Path, accelerator: Any, skip: bool = False) -> None:
        self.directory = directory
        self.accelerator = accelerator
        self.skip = skip
        self.skipped = 0
        self._keys: list[str] = []
        self._bad = False

    def check_losses(self, losses: Tensor, batches: Sequence[Batch], step: int) -> bool:
        """Whether the micro-batches' losses ``(micro_batches,)`` of all processes are finite.

        Raises :class:`UserError` in every process if they are not and nothing is to be skipped.
        """
        self._keys = [key for batch in batches for key in batch.keys]
        bad = ~torch.isfinite(losses)
        # before anything is raised, so that all processes stop at the same step and none waits for another
        several = self.accelerator.num_processes > 1
        anywhere = self.accelerator.reduce(bad.any().float(), reduction="sum") if several else bad.any()
        self._bad = bool(anywhere)
        if not self._bad:
            return True
        rows = [key for batch, wrong in zip(batches, bad.tolist(), strict=True) if wrong for key in batch.keys]
        value = next((loss for loss in losses.tolist() if not math.isfinite(loss)), None)
        self._report(f"the loss is {value}" if rows else "the loss of another process is not finite", rows, step)
        return False

    def check_gradient(self, norm: Any, step: int) -> bool:
        """Whether the step may be applied: its losses were finite and so is the gradient's norm.

        Raises :class:`UserError` if the norm is not finite and nothing is to be skipped.
        """
        if self._bad:
            return False
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(norm):
            return True
        self._report(f"the gradient's norm is {norm}", self._keys, step)
        return False

    def _report(self, what: str, rows: list[str], step: int) -> None:
        rank = self.accelerator.process_index
        # a file of each process, which alone knows its rows
        path = self.directory / f"not_finite_{step}_{rank}.json"
        write_json(path, {"step": step, "found": what, "rows": rows, "skipped": self.skip})
        self.skipped += 1
        message = f"{what} at step {step}; rows of the batch: {', '.join(rows) or 'none'} (written to {path})"
        if not self.skip:
            raise UserError(f"{message}. {_HINT}")
        log.warning("%s; the step is skipped", message)
