"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
import re
from pathlib import Path

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.lora_files import FILES

log = get_logger(__name__)
_NEEDED = ("model.safetensors", "alarm_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def find_resume(choice: bool | str | None, output_dir: Path) -> Path | None:
    """The checkpoint folder to go on from, or ``None`` for a fresh start.

    ``choice`` true means the last whole checkpoint below ``output_dir``, and a fresh start where there is none: so
    the same command can be given again after a crash. A path must be a whole checkpoint, else :class:`UserError`.
    """
    if not choice:
        return None
    if isinstance(choice, str):
        folder = Path(choice)
        lacking = missing_files(folder)
        if lacking:
            raise UserError(
                f"resume_from_checkpoint={choice}: not a whole checkpoint, it lacks {', '.join(lacking)}; "
                "give a checkpoint-N folder of a training run, or true for the last whole one"
            )
        return folder
    for folder in sorted(output_dir.glob("checkpoint-*"), key=_step, reverse=True):
        lacking = missing_files(folder)
        if not lacking:
            return folder
        log.warning("%s is passed over: it lacks %s", folder, ", ".join(lacking))
    log.info("no checkpoint in %s yet: starting from the beginning", output_dir)
    return None


def missing_files(folder: Path) -> list[str]:
    """What a checkpoint folder lacks for resuming. The trainer state is written last, so it stands for the rest."""
    lacking = [name for name in (*_NEEDED, *_of_lora(folder)) if not (folder / name).is_file()]
    if not any(folder.glob("rng_state*.pth")):
        lacking.append("rng_state.pth")
    if "trainer_state.json" not in lacking:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except ValueError:
            lacking.append("a readable trainer_state.json")
    return lacking


def _of_lora(folder: Path) -> tuple[str, ...]:
    """The files of LoRA, where the checkpoint was trained with it."""
    try:
        model = json.loads((folder / "alarm_config.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # missing, or told when it is read
    return FILES if model.get("lora") is not None else ()


def _step(folder: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1
