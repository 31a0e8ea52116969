"""How far a run is in its rows: kept with every checkpoint, so that steps of another size go on at the same row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.run_record import write_json
from src.dataset.sampler import StepSampler, StepsDone
from src.model.tensor_files import read_json
from src.training.resume import STATE_FILE, is_published

FILE = "rows_done.json"


@dataclass(frozen=True)
class RowsDone:
    """``parts``: the steps of ``epoch`` that are done, in order; more than one where the size of a step changed."""

    epoch: int
    parts: tuple[StepsDone, ...]

    @property
    def rows(self) -> int:
        """Rows of the epoch that are done."""
        return sum(min(part.rows * part.steps, part.used) for part in self.parts)


def write_rows_done(folder: Path, epoch: int, parts: Sequence[StepsDone]) -> None:
    """Keep it in a checkpoint folder."""
    write_json(folder / FILE, {"epoch": epoch, "parts": [asdict(part) for part in parts]})


def read_rows_done(folder: Path, steps: StepSampler) -> RowsDone | None:
    """Record of a checkpoint folder; ``None`` for a published one, which has no size of its steps.

    A checkpoint of ours from before the record holds the rows of a process's step and as many states of random
    numbers as there were processes. Raises :class:`UserError` for a record that cannot be read.
    """
    if is_published(folder):
        return None
    path = folder / FILE
    if not path.is_file():
        return _from_state(folder, steps)
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
        raise ValueError(f"{value!r} is no whole number of at least {least}")
    return value


def _from_state(folder: Path, steps: StepSampler) -> RowsDone | None:
    state = read_json(folder / STATE_FILE, "trainer state")
    clips, done, processes = state.get("train_batch_size"), state.get("global_step"), len(_rng_states(folder))
    if type(clips) is not int or clips < 1 or type(done) is not int or not processes:
        return None
    of_epoch = steps.steps_of(steps.used, clips * processes, processes)
    epoch, part = divmod(done, max(1, of_epoch))
    return RowsDone(epoch, (StepsDone(clips * processes, part, steps.across, steps.used),))


def _rng_states(folder: Path) -> list[Path]:
    return list(folder.glob("rng_state_*.pth")) or list(folder.glob("rng_state.pth"))
