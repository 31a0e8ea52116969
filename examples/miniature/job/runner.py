"""Runs stages in parallel, each with its log; skips those that are done and stops at the first failure."""

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

from examples.miniature.job.stage import Stage, StageRecord, StageRecords, check_stages, stage_key
from src.common.errors import UserError
from src.common.files import split_lines
from src.common.log import get_logger
from src.common.paths import REPO_ROOT

logger = get_logger(__name__)
TAIL_LINES = 20


class Runner:
    """Runs stages from ``cwd`` and keeps records and logs below ``folder``.

    Args:
        folder: gets ``stages/NAME.json`` and ``logs/NAME.log``.
        cwd: where commands run; relative outputs are below it.
        cores: limit for the sum of the ``threads`` of running stages.
        env: variables for every command (a stage's own win).
    """

    def __init__(
        self, folder: Path, cwd: Path = REPO_ROOT, cores: int = 1, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.cwd = cwd
        self.cores = max(1, cores)
        self.env = dict(env or {})
        self.records = StageRecords(folder / "stages")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self, stages: Sequence[Stage], force: bool = False) -> dict[str, StageRecord]:
        """Run all stages; returns their records by name, in order.

        A stage is skipped if its record has the current key and its outputs exist; ``force`` runs all of them.
        Raises :class:`UserError` with the end of the log when a command fails; running stages are terminated, and
        completed ones stay done.
        """
        check_stages(stages)
        self._stopping = False
        done: dict[str, StageRecord] = {}
        waiting = list(stages)
        places = {stage.name: place for place, stage in enumerate(stages)}
        with ThreadPoolExecutor(max_workers=len(stages) or 1) as pool:
            futures: dict[Future[StageRecord], Stage] = {}
            try:
                while waiting or futures:
                    for stage in self._ready(waiting, done, list(futures.values())):
                        waiting.remove(stage)
                        key = stage_key(stage, {name: done[name].identity for name in stage.after}, self.cwd)
                        record = self._skippable(stage, key, force)
                        if record:
                            done[stage.name] = replace(record, place=places[stage.name])
                            self.records.write(done[stage.name])
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

    def run_one(self, stages: Sequence[Stage], name: str, force: bool = False) -> StageRecord:
        """Run only the stage ``name``.

        Raises :class:`UserError` if it is unknown, if a stage that it needs is not done, or if it fails.
        """
        check_stages(stages)
        by_name = {stage.name: stage for stage in stages}
        if name not in by_name:
            raise UserError(f"unknown stage {name!r}; known: {', '.join(by_name)}")
        stage = by_name[name]
        identities = {}
        for needed in stage.after:
            record = self.records.read(needed)
            if record is None or not record.done:
                raise UserError(f"stage {name!r} needs {needed!r}, which is not done; run it first (--only {needed})")
            identities[needed] = record.identity
        key = stage_key(stage, identities, self.cwd)
        return self._skippable(stage, key, force) or self._execute(stage, key, list(by_name).index(name))

    def _ready(self, waiting: list[Stage], done: Mapping[str, StageRecord], running: list[Stage]) -> list[Stage]:
        """Stages to start or skip now, in the given order: inputs done and threads available."""
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

    def _skippable(self, stage: Stage, key: str, force: bool) -> StageRecord | None:
        record = self.records.read(stage.name)
        if force or record is None or not record.done or record.key != key:
            return None
        if any(not (self.cwd / output).exists() for output in stage.outputs):
            return None
        logger.info("%s: done before in %.0f s, skipped", stage.name, record.seconds or 0)
        return record

    def _execute(self, stage: Stage, key: str, place: int) -> StageRecord:
        self._clear_stale(stage, key)
        log = self.folder / "logs" / f"{stage.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        record = StageRecord(
            stage.name, stage.title, stage.shown, key, log=str(log.relative_to(self.folder)), place=place
        )
        self.records.write(record)
        logger.info("%s: %s\n    $ %s", stage.name, stage.title, stage.shown)
        started = time.monotonic()
        code = self._command(stage, log)
        seconds = round(time.monotonic() - started, 2)
        if code != 0:
            raise UserError(_failure(stage, code, log))
        missing = [str(output) for output in stage.outputs if not (self.cwd / output).exists()]
        if missing:
            raise UserError(f"stage {stage.name!r} succeeded but did not write {', '.join(missing)}; its log: {log}")
        logger.info("%s: done in %.0f s", stage.name, seconds)
        record = replace(record, done=True, seconds=seconds, finished_at=datetime.now(UTC).isoformat())
        self.records.write(record)
        return record

    def _clear_stale(self, stage: Stage, key: str) -> None:
        """Delete outputs of runs with another key; those of an interrupted run with the same key are kept."""
        record = self.records.read(stage.name)
        if record is not None and record.key == key and not record.done:
            return
        for output in stage.outputs:
            path = self.cwd / output
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _command(self, stage: Stage, log: Path) -> int:
        """Run a stage's command in its own process group with the log as output; returns its exit code."""
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
    """Terminate a command and the processes it started."""
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
    how = f"was terminated by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return (
        f"stage {stage.name!r} {how}. Command: {stage.shown}\nThe end of its log ({log}):\n{tail}\n"
        "Completed stages are kept: fix the cause and start the job again."
    )
