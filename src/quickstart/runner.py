"""Run stages: skip what is done, several at a time, each with its log, stop at the first failure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from src.common.errors import UserError
from src.common.json_lines import split_lines
from src.common.log import get_logger
from src.common.paths import REPO_ROOT
from src.quickstart.stage import Mark, Marks, Stage, check_stages, stage_key

logger = get_logger(__name__)
TAIL_LINES = 20


class Runner:
    """Runs stages from ``cwd`` and keeps marks and logs below ``folder``.

    Args:
        folder: gets ``stages/NAME.json`` and ``logs/NAME.log``.
        cwd: where commands run; relative outputs lie below it.
        cores: stages run side by side as long as their ``threads`` sum to no more than this.
        env: variables for every command (a stage's own win).
    """

    def __init__(
        self, folder: Path, cwd: Path = REPO_ROOT, cores: int = 1, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.cwd = cwd
        self.cores = max(1, cores)
        self.env = dict(env or {})
        self.marks = Marks(folder / "stages")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self, stages: Sequence[Stage], force: bool = False) -> dict[str, Mark]:
        """Bring every stage to done; marks by name, in order.

        A stage is skipped when its mark has the key of its present command and inputs and its outputs exist.
        ``force`` runs all of them again. Raises :class:`UserError` with the end of the log when a command fails;
        stages that run beside it are ended, and what was done stays done.
        """
        check_stages(stages)
        self._stopping = False
        done: dict[str, Mark] = {}
        waiting = list(stages)
        places = {stage.name: place for place, stage in enumerate(stages)}
        with ThreadPoolExecutor(max_workers=len(stages) or 1) as pool:
            futures: dict[Future[Mark], Stage] = {}
            try:
                while waiting or futures:
                    for stage in self._ready(waiting, done, list(futures.values())):
                        waiting.remove(stage)
                        key = stage_key(stage, {name: done[name].identity for name in stage.after}, self.cwd)
                        mark = self._skippable(stage, key, force)
                        if mark:
                            done[stage.name] = replace(mark, place=places[stage.name])
                            self.marks.write(done[stage.name])
                        else:
                            futures[pool.submit(self._execute, stage, key, places[stage.name])] = stage
                    if futures:
                        finished, _ = wait(futures, return_when=FIRST_COMPLETED)
                        for future in finished:
                            done[futures.pop(future).name] = future.result()
            except BaseException:
                self._end_all()
                raise
        return {stage.name: done[stage.name] for stage in stages}

    def run_one(self, stages: Sequence[Stage], name: str, force: bool = False) -> Mark:
        """Run the stage ``name`` alone.

        Raises :class:`UserError` if it is unknown, if a stage that it needs is not done, or if it fails.
        """
        check_stages(stages)
        by_name = {stage.name: stage for stage in stages}
        if name not in by_name:
            raise UserError(f"unknown stage {name!r}; known: {', '.join(by_name)}")
        stage = by_name[name]
        identities = {}
        for needed in stage.after:
            mark = self.marks.read(needed)
            if mark is None or not mark.done:
                raise UserError(f"stage {name!r} needs {needed!r}, which is not done; run it first (--only {needed})")
            identities[needed] = mark.identity
        key = stage_key(stage, identities, self.cwd)
        return self._skippable(stage, key, force) or self._execute(stage, key, list(by_name).index(name))

    def _ready(self, waiting: list[Stage], done: Mapping[str, Mark], running: list[Stage]) -> list[Stage]:
        """Stages to start or skip now: their inputs are done and their threads fit, in the order given."""
        free = self.cores - sum(stage.threads for stage in running)
        chosen: list[Stage] = []
        for stage in waiting:
            if any(name not in done for name in stage.after):
                continue
            needed = min(stage.threads, self.cores)
            if needed > free:
                break
            free -= needed
            chosen.append(stage)
        return chosen

    def _skippable(self, stage: Stage, key: str, force: bool) -> Mark | None:
        mark = self.marks.read(stage.name)
        if force or mark is None or not mark.done or mark.key != key:
            return None
        if any(not (self.cwd / output).exists() for output in stage.outputs):
            return None
        logger.info("%s: done before in %.0f s, skipped", stage.name, mark.seconds or 0)
        return mark

    def _execute(self, stage: Stage, key: str, place: int) -> Mark:
        self._clear_stale(stage, key)
        log = self.folder / "logs" / f"{stage.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        mark = Mark(stage.name, stage.title, stage.shown, key, log=str(log.relative_to(self.folder)), place=place)
        self.marks.write(mark)
        logger.info("%s: %s\n    $ %s", stage.name, stage.title, stage.shown)
        started = time.monotonic()
        code = self._command(stage, log)
        seconds = round(time.monotonic() - started, 2)
        if code != 0:
            raise UserError(_failure(stage, code, log))
        missing = [str(output) for output in stage.outputs if not (self.cwd / output).exists()]
        if missing:
            raise UserError(f"stage {stage.name!r} ended well but did not make {', '.join(missing)}; its log: {log}")
        logger.info("%s: done in %.0f s", stage.name, seconds)
        mark = replace(mark, done=True, seconds=seconds, finished_at=datetime.now(UTC).isoformat())
        self.marks.write(mark)
        return mark

    def _clear_stale(self, stage: Stage, key: str) -> None:
        """Remove outputs that other work made; those of an interrupted run of the same work are kept."""
        mark = self.marks.read(stage.name)
        if mark is not None and mark.key == key and not mark.done:
            return
        for output in stage.outputs:
            path = self.cwd / output
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _command(self, stage: Stage, log: Path) -> int:
        """Exit code of the stage's command, run in a process group of its own with the log as its output."""
        bin_dir = str(Path(sys.executable).parent)
        env = {**os.environ, **self.env, **(stage.env or {})}
        env["PATH"] = os.pathsep.join([bin_dir, env.get("PATH", "")])
        with log.open("wb") as sink:
            sink.write(f"$ {stage.shown}\n".encode())
            sink.flush()
            try:
                process = subprocess.Popen(
                    stage.command, cwd=self.cwd, env=env, stdout=sink, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"stage {stage.name!r} cannot start: {error} (command: {stage.shown})") from error
            self._running[stage.name] = process
            if self._stopping:
                _end(process)
            try:
                return process.wait()
            finally:
                self._running.pop(stage.name, None)

    def _end_all(self) -> None:
        self._stopping = True
        for process in list(self._running.values()):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        for _ in range(50):
            if process.poll() is not None:
                break
            time.sleep(0.1)


def _failure(stage: Stage, code: int, log: Path) -> str:
    lines = split_lines(log.read_text(encoding="utf-8", errors="replace"))
    tail = "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return (
        f"stage {stage.name!r} {how}. Command: {stage.shown}\nThe end of its log ({log}):\n{tail}\n"
        "What was done is kept: fix the cause and start the job again."
    )
