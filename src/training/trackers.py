"""TensorBoard and Weights & Biases, opened with the run's configuration.

transformers' callbacks write the metrics. This module opens the trackers so that their files are stored in the run's
folder, they contain the resolved configuration, and a resumed run continues its tracked run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.errors import ConfigError, UserError

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_id.txt"
_PACKAGES = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "clearml", "swanlab")
"""Trackers whose package has the same name."""


def check_trackers(report_to: Any) -> None:
    """Raise :class:`ConfigError` for trackers of ``training_args.report_to`` that are unknown or not installed."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    missing = [name for name in names if name in _PACKAGES and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"training_args.report_to asks for {', '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}, or training_args.report_to=none"
        )
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = ["none", "all", *sorted(INTEGRATION_TO_CALLBACK)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"training_args.report_to: unknown {', '.join(unknown)}; known: {', '.join(known)}")


@contextmanager
def wandb_run(args: Any, config: Mapping[str, Any], resume: Path | None) -> Iterator[None]:
    """The W&B run of a training, with the resolved ``config``, where ``report_to`` asks for it; closed at the end.

    Project: ``WANDB_PROJECT``, else ``training_args.project``. Name: ``training_args.run_name``, else the output
    folder's. Its files are stored in the output folder (or ``WANDB_DIR``). Raises :class:`UserError` if W&B cannot
    start.
    """
    if "wandb" not in args.report_to or args.process_index != 0:
        yield
        return
    import wandb

    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or args.project,
            name=args.run_name or folder.resolve().name,
            dir=os.environ.get("WANDB_DIR") or str(folder),
            config={"config": dict(config)},
            id=os.environ.get("WANDB_RUN_ID") or _known_id(folder, resume),
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B cannot start: {' '.join(str(error).split())}. Log in with `wandb login`, set WANDB_MODE=offline, "
            "or leave it out: training_args.report_to=none"
        ) from error
    if not config.get("eval_mode"):
        (folder / WANDB_ID_FILE).write_text(f"{run.id}\n", encoding="utf-8")
    try:
        yield
    except BaseException:
        wandb.finish(exit_code=1)
        raise
    wandb.finish()


def _known_id(folder: Path, resume: Path | None) -> str | None:
    """Id of the run that is resumed, which W&B then continues."""
    file = folder / WANDB_ID_FILE
    if resume is None or not file.is_file() or resume.resolve().parent != folder.resolve():
        return None
    return file.read_text(encoding="utf-8").strip() or None


def open_tensorboard(trainer: AlarmTrainer, config: Mapping[str, Any], resume: Path | None) -> None:
    """Let TensorBoard write the configuration and metrics below the output folder, or ``TENSORBOARD_LOGGING_DIR``.

    Steps that a resumed or repeated run does again replace those written before.
    """
    from transformers.integrations import TensorBoardCallback

    found = [item for item in trainer.callback_handler.callbacks if isinstance(item, TensorBoardCallback)]
    if not found or not trainer.is_world_process_zero():
        return
    from omegaconf import OmegaConf
    from torch.utils.tensorboard import SummaryWriter

    from src.training.resume import steps_done

    folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(Path(trainer.args.output_dir) / TENSORBOARD_FOLDER)
    first = 0 if resume is None else steps_done(resume) + 1
    writer = SummaryWriter(log_dir=folder, purge_step=first if trainer.data.train is not None else None)
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), first)
    # The callback opens a writer of its own only where it has none.
    found[0].logging_dir = folder
    found[0].tb_writer = writer
