"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.lora_files import FILES
from src.model.tensor_files import INDEX_FILE, WEIGHTS_FILE, TensorFiles, folder_files, read_json

log = get_logger(__name__)
CONFIG_FILE = "alarm_config.json"
STATE_FILE = "trainer_state.json"
_NEEDED = (WEIGHTS_FILE, CONFIG_FILE, "optimizer.pt", "scheduler.pt", STATE_FILE)


def find_resume(choice: bool | str | None, output_dir: Path, eval_mode: bool = False) -> str | Path | None:
    """The checkpoint folder to go on from, or ``None`` for a fresh start.

    ``choice`` true means the last whole checkpoint below ``output_dir``, and a fresh start where there is none: so
    the same command can be given again after a crash. A path must be a whole checkpoint, else :class:`UserError`;
    with ``eval_mode`` only weights are read, so any checkpoint will do, and the name is returned as it is.
    """
    if not choice:
        return None
    if isinstance(choice, str) and eval_mode:
        return choice
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


def is_published(folder: Path) -> bool:
    """Whether a checkpoint folder is one of the published system: the whole model, and no configuration of ours."""
    return not (folder / CONFIG_FILE).is_file() and any(
        (folder / file).is_file() for file in (INDEX_FILE, WEIGHTS_FILE)
    )


def steps_done(folder: Path) -> int:
    """Optimizer steps of a checkpoint folder. Raises :class:`UserError` when its trainer state does not say."""
    step = read_json(folder / STATE_FILE, "trainer state").get("global_step")
    if type(step) is not int or step < 0:
        raise UserError(f"{folder / STATE_FILE}: global_step is {step!r}, expected a number of steps")
    return step


def missing_files(folder: Path) -> list[str]:
    """Files that a checkpoint folder lacks for resuming, damaged ones included; the trainer state is written last.

    Of a published one the weights and the trainer state are needed: optimizer and schedule can start fresh.
    """
    if is_published(folder):
        lacking = _lacking_weights(folder) + ([] if (folder / STATE_FILE).is_file() else [STATE_FILE])
    else:
        lacking = [name for name in (*_NEEDED, *_of_lora(folder)) if not (folder / name).is_file()]
        if not any(folder.glob("rng_state*.pth")):
            lacking.append("rng_state.pth")
        files = [folder / "optimizer.pt", folder / "scheduler.pt", *sorted(folder.glob("rng_state*.pth"))]
        lacking += [f"a readable {path.name}" for path in files if path.is_file() and not zipfile.is_zipfile(path)]
        if WEIGHTS_FILE not in lacking:
            lacking += _lacking_weights(folder)
    for name in (STATE_FILE, CONFIG_FILE):
        if (folder / name).is_file():
            try:
                steps_done(folder) if name == STATE_FILE else read_json(folder / name, "")
            except UserError:
                lacking.append(f"a readable {name}")
    return lacking


def _lacking_weights(folder: Path) -> list[str]:
    """Safetensors files that are missing or cut; only their headers are read."""
    try:
        tensors = TensorFiles.open(str(folder), folder_files(folder))
    except UserError:
        return ["readable weights"]
    lacking = []
    for file in sorted(set(tensors.file_of.values())) if tensors else []:
        if not (folder / file).is_file():
            lacking.append(file)
            continue
        try:
            TensorFiles.of_files(str(folder), [folder / file])
        except UserError:
            lacking.append(f"a readable {file}")
    return lacking


def _of_lora(folder: Path) -> tuple[str, ...]:
    """The files of LoRA, where the checkpoint was trained with it."""
    try:
        model = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # missing, or told when it is read
    return FILES if model.get("lora") is not None else ()


def _step(folder: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1
