"""Callbacks of a run: order of each epoch, log of metrics, page with curves."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from src.common.errors import UserError
from src.common.files import json_lines, read_json_lines
from src.common.log import get_logger
from src.report.curves import write_curves

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.html"
_NOT_KEPT = ("_runtime", "_samples_per_second", "_steps_per_second", "total_flos")


class RunCallback(TrainerCallback):
    """Sets the order of each epoch, measures speed, and writes ``metrics.jsonl``.

    A line contains ``step`` and ``epoch`` and either ``loss`` (per target token), ``learning_rate``, ``grad_norm``,
    ``clips_per_second``, ``rows_replaced`` and ``steps_skipped``, or evaluation losses, or scores of sample answers.
    A resumed run drops the lines of steps that it repeats. Callbacks that take time must be added before this one:
    their time is then left out of the speed.
    """

    def __init__(self, trainer: AlarmTrainer) -> None:
        """``trainer`` has the counts; it logs the speed with its loss from now on."""
        self.trainer = trainer
        self.path = Path(trainer.args.output_dir) / METRICS_FILE
        self._clips = 0
        self._seconds = 0.0
        self._mark = time.perf_counter()
        trainer.measure = self._speed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the log, or cut it back to the step from which the run continues."""
        self._mark = time.perf_counter()
        if state.is_world_process_zero:
            cut_back(self.path, state.global_step)
        cut_back(self.trainer.draws_file, state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the sampler's epoch; a run that is resumed within an epoch calls this too."""
        assert self.trainer.train_steps is not None
        # state.epoch is a fraction in a run that is resumed within an epoch
        self.trainer.train_steps.set_epoch(int(state.epoch or 0))
        self.trainer.epoch_began_at = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the time of a step, including the wait for its batches."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude evaluation from the speed."""
        self._mark = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude saving from the speed."""
        self._mark = time.perf_counter()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Write one line."""
        line = {key: value for key, value in (logs or {}).items() if not key.endswith(_NOT_KEPT)}
        if not state.is_world_process_zero or not set(line) - {"epoch"}:
            return
        line = {"step": state.global_step} | line
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log.info(", ".join(f"{key} {_short(value)}" for key, value in line.items()))

    def _speed(self) -> dict[str, float]:
        clips, seconds = self.trainer.clips_seen - self._clips, self._seconds
        self._clips, self._seconds = self.trainer.clips_seen, 0.0
        return {
            "clips_per_second": clips / max(seconds, 1e-9),
            "rows_replaced": self.trainer.rows_replaced,
            "steps_skipped": self.trainer.guard.skipped,
        }


class CurvesCallback(TrainerCallback):
    """Draws ``curves.html`` from the run's files at evaluations and saves; must follow :class:`RunCallback`."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Draw after the last evaluation set: the mean of all sets is logged last."""
        if state.is_world_process_zero and "eval_loss" in (logs or {}):
            draw_curves(Path(args.output_dir))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw with the sample answers of this save."""
        if state.is_world_process_zero:
            draw_curves(Path(args.output_dir))


def draw_curves(directory: Path) -> None:
    """Write ``curves.html`` of a run; a page that cannot be written is a warning, not an error."""
    try:
        write_curves([directory], directory / CURVES_FILE)
    except (OSError, ValueError, UserError) as error:
        log.warning("%s is not written: %s", directory / CURVES_FILE, error)


def cut_back(path: Path, step: int) -> None:
    """Keep the lines of a JSON-lines log up to ``step``, none of them at step 0."""
    kept = [line for line in read_metrics(path) if line["step"] <= step] if step else []
    path.parent.mkdir(parents=True, exist_ok=True)
    if kept or path.exists():
        path.write_text(json_lines(kept), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a ``metrics.jsonl`` in order, none without the file; a line that a kill cut short is skipped."""
    return list(read_json_lines(path, skip_broken=True))


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
