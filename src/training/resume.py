"""Checkpoint from which a run continues, and how many rows of the epoch it has trained.

The rows are recorded so that a run whose steps have another size (other processes, other batch) continues at the same
row.
"""

from __future__ import annotations

import json
import re
import socket
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.errors import ConfigError, UserError
from src.common.files import write_json
from src.common.log import get_logger
from src.dataset.sampler import StepSampler, StepsDone
from src.model.lora_files import FILES
from src.model.tensor_files import INDEX_FILE, WEIGHTS_FILE, TensorFiles, folder_files, read_json

log = get_logger(__name__)
CONFIG_FILE = "alarm_config.json"
STATE_FILE = "trainer_state.json"
ROWS_FILE = "rows_done.json"
_NEEDED = (WEIGHTS_FILE, CONFIG_FILE, "optimizer.pt", "scheduler.pt", STATE_FILE)


def find_resume(choice: bool | str | None, output_dir: Path, eval_mode: bool = False) -> str | Path | None:
    """The checkpoint folder to continue from, or ``None`` for a fresh start.

    ``choice`` true means the last complete checkpoint below ``output_dir``, and a fresh start if there is none, so
    that the same command can be given again after a crash. A path must be a complete checkpoint, else
    :class:`UserError`; with ``eval_mode`` only weights are read: any checkpoint will do, and its name is returned.
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


def agreed_resume(choice: bool | str | None, output_dir: Path, eval_mode: bool = False) -> str | Path | None:
    """Call :func:`find_resume` in all processes and compare the results.

    Raises :class:`ConfigError` in every process if they would not continue from the same step, for example on
    machines that do not share the output folder.
    """
    from torch import distributed

    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if not several or not choice or (eval_mode and isinstance(choice, str)):
        return find_resume(choice, output_dir, eval_mode)
    found: str | Path | None = None
    problem = None
    try:
        found = find_resume(choice, output_dir, eval_mode)
        place = (Path(found).name, steps_done(Path(found))) if found is not None else ("no checkpoint", 0)
    except UserError as error:
        problem, place = str(error), ("", -1)
    answers: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(answers, (socket.gethostname(), *place, problem))
    if len({answer[1:] for answer in answers}) == 1:  # only the host names differ
        if problem is not None:
            raise ConfigError(problem)
        return found
    listed = [
        f"process {rank} ({host}) " + (f"cannot go on ({why})" if why else f"from step {step} ({name})")
        for rank, (host, name, step, why) in enumerate(answers)
    ]
    shortened = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
    shown = f"true in {output_dir}" if choice is True else choice
    raise ConfigError(
        f"resume_from_checkpoint={shown}: the processes would not go on from one checkpoint: {shortened}; "
        "expected one for all: let training_args.output_dir be a folder that all machines share, or copy the same "
        "checkpoint-N to each of them"
    )


def is_published(folder: Path) -> bool:
    """Whether a checkpoint folder is one of the published system: weights without a configuration of ours."""
    return not (folder / CONFIG_FILE).is_file() and any(
        (folder / file).is_file() for file in (INDEX_FILE, WEIGHTS_FILE)
    )


def steps_done(folder: Path) -> int:
    """Optimizer steps of a checkpoint folder; :class:`UserError` if its trainer state does not say."""
    step = read_json(folder / STATE_FILE, "trainer state").get("global_step")
    if type(step) is not int or step < 0:
        raise UserError(f"{folder / STATE_FILE}: global_step is {step!r}, expected a number of steps")
    return step


def missing_files(folder: Path) -> list[str]:
    """Files that a checkpoint folder lacks for resuming, damaged ones included.

    Of a published one only weights and trainer state are needed: optimizer and schedule can start fresh.
    """
    if is_published(folder):
        lacking = _lacking_weights(folder) + ([] if (folder / STATE_FILE).is_file() else [STATE_FILE])
    else:
        lacking = [name for name in (*_NEEDED, *_of_lora(folder)) if not (folder / name).is_file()]
        if not any(folder.glob("rng_state*.pth")):
            lacking.append("rng_state.pth")
        files = [folder / "optimizer.pt", folder / "scheduler.pt", *sorted(folder.glob("rng_state*.pth"))]
        # torch.save writes zip files, whose directory is at the end: one that was cut is none.
        lacking += [f"a readable {path.name}" for path in files if path.is_file() and not zipfile.is_zipfile(path)]
        if WEIGHTS_FILE not in lacking:
            lacking += _lacking_weights(folder)
    for name in (STATE_FILE, CONFIG_FILE, ROWS_FILE, *_of_lora(folder)):
        if (folder / name).is_file():
            try:
                if name == STATE_FILE:
                    steps_done(folder)
                elif name.endswith(".safetensors"):
                    TensorFiles.of_files(str(folder), [folder / name])
                else:
                    read_json(folder / name, "")
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
        return ()  # missing or damaged: reported by missing_files
    return FILES if model.get("lora") is not None else ()


def _step(folder: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1


@dataclass(frozen=True)
class RowsDone:
    """``parts``: the steps of ``epoch`` that are done, in order; more than one where the size of a step changed."""

    epoch: int
    parts: tuple[StepsDone, ...]

    @property
    def rows(self) -> int:
        """Rows of the epoch that are done."""
        return sum(min(part.rows * part.steps, part.used) for part in self.parts)


def write_rows_done(
    folder: Path, epoch: int, parts: Sequence[StepsDone], stream: Mapping[str, Any] | None = None
) -> None:
    """Write the record into a checkpoint folder; ``stream`` is what the order of the rows depends on."""
    record = {"epoch": epoch, "parts": [asdict(part) for part in parts]}
    write_json(folder / ROWS_FILE, record if stream is None else record | {"stream": dict(stream)})


def check_stream(folder: Path, stream: Mapping[str, Any] | None) -> None:
    """Compare what the order of the rows depends on with the record of a checkpoint; older ones without it pass.

    Raises :class:`UserError` if the order is another one: rows would be trained twice, and others not at all.
    """
    if stream is None or not (folder / ROWS_FILE).is_file():
        return
    before = read_json(folder / ROWS_FILE, "record of the rows that are done").get("stream")
    if before is None and "digest" not in stream:
        return
    if before != dict(stream):
        raise UserError(
            f"{folder}: its run had another seed, other shards, rows of them or shuffle_rows ({before}, "
            f"now {dict(stream)}), "
            "so that its place in the data cannot be found again; give the same, or start a new run from its weights "
            "with model.from_pretrained"
        )


def read_rows_done(folder: Path, steps: StepSampler) -> RowsDone | None:
    """Record of a checkpoint folder; ``None`` for a published one, which does not say the size of its steps.

    Raises :class:`UserError` for a record that cannot be read.
    """
    if is_published(folder):
        return None
    path = folder / ROWS_FILE
    if not path.is_file():
        return _rows_from_state(folder, steps)
    record = read_json(path, "record of the rows that are done")
    try:
        return RowsDone(_number(record["epoch"]), tuple(_part(part) for part in record["parts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {error!r}, expected an epoch and parts of rows, steps, across_steps and used; resume from "
            "another checkpoint, or remove the file if the size of a step did not change"
        ) from error


def _part(part: dict[str, Any]) -> StepsDone:
    across = part["across_steps"]
    if not isinstance(across, bool):
        raise ValueError(f"across_steps is {across!r}")
    return StepsDone(_number(part["rows"], 1), _number(part["steps"]), across, _number(part["used"]))


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is not a whole number of at least {least}")
    return value


def _rows_from_state(folder: Path, steps: StepSampler) -> RowsDone | None:
    """Rows done of a checkpoint that was written before there was ``rows_done.json``."""
    # The trainer state has the clips of a process's step, and each process wrote the state of its random numbers.
    state = read_json(folder / STATE_FILE, "trainer state")
    processes = len(list(folder.glob("rng_state_*.pth")) or list(folder.glob("rng_state.pth")))
    clips, done = state.get("train_batch_size"), state.get("global_step")
    if type(clips) is not int or clips < 1 or type(done) is not int or not processes:
        return None
    steps_of_epoch = steps.steps_of(steps.used, clips * processes, processes)
    epoch, part = divmod(done, max(1, steps_of_epoch))
    return RowsDone(epoch, (StepsDone(clips * processes, part, steps.across, steps.used),))
