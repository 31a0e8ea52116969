"""``dry_run=true``: trains a few steps of a run without its output folder, and estimates what the whole run costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from src.common.errors import UserError
from src.common.estimate import Estimate, price_of, report
from src.common.log import get_logger
from src.dataset.examples import Batch
from src.training.arguments import data_error_as_one_line, timeout_as_one_line, training_arguments
from src.training.build import build_trainer
from src.training.callbacks import RunCallback
from src.training.config import TrainConfig
from src.training.data import TrainingData
from src.training.resume import agreed_resume, steps_done
from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
WARM_UP_STEPS = 2  # the first steps allocate memory, choose kernels and, with compile_layers, compile
FitMemory = Callable[[AlarmTrainer, TrainConfig, bool], None]
_BUSY_SHARE = 0.1
"""Share of the time for which a training may wait for its data before it is worth a remark."""


def dry_run(config: TrainConfig, fit_memory: FitMemory) -> Path:
    """Log the estimate of a run; returns its output folder, in which nothing is written.

    With ``resume_from_checkpoint`` the estimate is that of the remaining steps. All processes take part.
    ``fit_memory`` is what the run itself does to choose the size of its micro-batches.
    """
    directory = Path(config.training_args["output_dir"])
    with tempfile.TemporaryDirectory() as scratch:
        short = {
            **config.training_args,
            "output_dir": scratch,
            "max_steps": WARM_UP_STEPS + config.dry_run_steps,
            "save_strategy": "no",
            "eval_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "push_to_hub": False,
        }
        args = training_arguments(replace(config, training_args=short, sample_generations=False))
        with timeout_as_one_line(args.ddp_timeout), data_error_as_one_line():
            found = _measure(config, args, directory, fit_memory)
            if args.process_index == 0:
                report([("", found)], config.dry_run_json, log.info)
    return directory


@dataclass
class _Counts:
    """Counts of the sample, of the first process only."""

    clips: int = 0
    replaced: int = 0
    seconds: float = 0.0
    targets: int = 0
    texts: int = 0


class _MeasuredTrainer(AlarmTrainer):
    """Counts what goes into the steps."""

    counts = _Counts()

    def training_step(
        self, model: nn.Module, inputs: Sequence[Batch], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Count, and train."""
        for batch in inputs:
            self.counts.clips += len(batch)
            self.counts.replaced += batch.num_replaced
            self.counts.targets += batch.num_targets
            self.counts.texts += sum(map(len, batch.starts)) + sum(map(len, batch.mains)) + batch.num_targets
            self.counts.seconds += sum(clip.duration for clip in batch.waveforms or () if clip is not None)
        return super().training_step(model, inputs, num_items_in_batch)

    def _record_draws(self, batches: Sequence[Batch]) -> None:
        """Nothing is kept of a dry run."""


@dataclass
class _StepTimes(TrainerCallback):
    """Seconds of every step after those that warm up, and of them the wait for its batches."""

    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    _mark: float = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The batches of the step are there."""
        self.waits.append(time.perf_counter() - self._mark)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is done, on the device too."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self._mark)
        self._mark = now


def _measure(config: TrainConfig, args: Any, directory: Path, fit_memory: FitMemory) -> Estimate:
    resume = agreed_resume(config.resume_from_checkpoint, directory)
    # Without the folder of the encoder cache: a run that is not begun neither reads nor adds states.
    trainer, _ = build_trainer(replace(config, encoder_cache_dir=None), args, _MeasuredTrainer)
    assert isinstance(trainer, _MeasuredTrainer)
    fit_memory(trainer, config, False)
    trainer.counts = _Counts()  # the steps that fit_memory tried do not count
    times = _StepTimes()
    trainer.add_callback(RunCallback(trainer))
    trainer.add_callback(times)
    trainer.train()
    measured, waits = times.steps[WARM_UP_STEPS:], times.waits[WARM_UP_STEPS:]
    if not measured:
        raise UserError(f"dry_run: all {len(times.steps)} steps of the run are needed to warm up; train it instead")
    assert trainer.train_steps is not None
    steps = _steps_of(config, len(trainer.train_steps)) - (0 if resume is None else steps_done(Path(resume)))
    return _estimate(config, trainer, max(0, steps), float(np.mean(measured)), float(np.mean(waits)))


def _steps_of(config: TrainConfig, per_epoch: int) -> int:
    """Steps of the whole run, as the Trainer counts them."""
    limit = config.training_args.get("max_steps", -1)
    if limit is not None and limit > 0:
        return int(limit)
    epochs = config.training_args.get("num_train_epochs")
    return int(np.ceil((3.0 if epochs is None else float(epochs)) * per_epoch))


def _estimate(config: TrainConfig, trainer: _MeasuredTrainer, steps: int, step: float, wait: float) -> Estimate:
    args, data, counts, planned = trainer.args, trainer.data, trainer.counts, trainer.train_steps
    assert data.train is not None and planned is not None
    rows = round(steps * planned.used / max(1, len(planned)))
    seconds = data.train.rows.seconds()
    mean = counts.seconds / max(1, counts.clips)
    hours = None if seconds is None else rows * _mean_seconds(seconds, mean) / 3600
    per_row = rows / max(1, counts.clips)
    device, total = "GPU" if args.device.type == "cuda" else "CPU", steps * step
    mixture = f"{len(data.train)} rows"
    if seconds is not None:
        mixture += f", {len(data.train) * _mean_seconds(seconds, mean) / 3600:.2f} h of audio"
    notes = [
        ("data set", f"{mixture}, {len(planned)} steps of {planned.step_rows} rows"),
        ("steps", f"{steps}, {step:.3g} s each, {planned.step_rows / step:.3g} rows/s"),
        ("text tokens read", f"about {round(per_row * counts.texts)}, targets included"),
        ("waiting for data", f"{wait / step:.0%} of the time" + _hint(wait / step, args.dataloader_num_workers)),
        ("not included", _left_out(config, data)),
    ]
    if device == "GPU":
        notes.insert(3, ("peak memory", f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"))
    return Estimate(
        rows=rows,
        sampled=counts.clips * args.world_size,
        bad=counts.replaced,
        hours=hours,
        tokens=round(per_row * counts.targets),
        seconds=total,
        workers=args.world_size,
        device=device,
        devices=args.world_size,
        token_kind="target tokens",
        bad_kind="rows that cannot be used",
        notes=tuple(notes),
        cost=price_of(args.world_size * total / 3600, config.dry_run_price),
    )


def _mean_seconds(seconds: np.ndarray, sampled: float) -> float:
    """Mean length of a clip; of sets that do not state it, that of the sample."""
    return float(np.where(np.isnan(seconds), sampled, seconds).mean())


def _hint(share: float, workers: int) -> str:
    if share <= _BUSY_SHARE:
        return ""
    return f": raise training_args.dataloader_num_workers (now {workers})"


def _left_out(config: TrainConfig, data: TrainingData) -> str:
    parts = ["start of the programs", "checkpoints"]
    if data.evaluation and config.training_args.get("eval_strategy") not in (None, "no"):
        parts.append(f"evaluation of {sum(map(len, data.evaluation.values()))} rows each time")
    if config.sample_generations:
        parts.append("sample answers")
    return ", ".join(parts)
