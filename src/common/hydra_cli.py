"""Hydra's own command line for the programs: its flags, sweeps, launchers and shell completion.

Three things differ from a bare ``hydra.main``:

* errors are one line with exit code 2, and ``--help`` prints the commented YAML without loading anything else;
* a single run makes no folder and no log of Hydra's; ``hydra.run.dir=FOLDER`` asks for them;
* keys of open groups need no ``+``, and ``prompts`` may name a file.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from src.common.cli import run_cli
from src.common.config import CONFIG_DIR, composition_error, open_overrides, to_plain
from src.common.errors import ConfigError, UserError
from src.common.log import get_logger, setup_logging

log = get_logger(__name__)
_TAKES_VALUE = (
    "--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "--info",
    "-i", "--experimental-rerun",
)  # fmt: skip
_OF_HYDRA = ("--hydra-help", "--shell-completion", "-sc", "--version", "--experimental-rerun")
"""Flags with which Hydra runs no program of ours."""
_SECONDS_TO_WAIT = 30.0


def hydra_cli(config_name: str, main: Callable[[dict[str, Any]], float | None], spins: bool = False) -> NoReturn:
    """Run a Hydra program: ``main`` gets the resolved configuration as plain containers.

    ``main`` returns an exit code, or a float: the value that a sweeper minimises.

    A misspelt key or group, or a missing value, ends in one message and exit code 2. ``--help`` lists the keys.
    ``-m`` calls ``main`` once for each job of a sweep; a job that fails does not keep the others from running.
    ``spins``: see :func:`~src.common.cli.set_wait_policy`.
    """
    run_cli(lambda: _run(config_name, main), spins)


def _run(config_name: str, main: Callable[[dict[str, Any]], float | None]) -> int | None:
    arguments = sys.argv[1:]
    if not any(word.partition("=")[0] in _OF_HYDRA for word in arguments):
        name = _option(arguments, "--config-name", "-cn") or config_name
        if any(word in ("--help", "-h") for word in arguments):
            print_help(name if (CONFIG_DIR / f"{name.removesuffix('.yaml')}.yaml").is_file() else config_name)
        arguments = _arguments(config_name, name, arguments)
    job = _Job(config_name, main, "-m" in arguments or "--multirun" in arguments)
    try:
        _start(config_name, job, arguments)
    except ConfigError:
        if _rank() > 0:
            time.sleep(_SECONDS_TO_WAIT)  # the first process prints the error; its launcher then ends the others
        raise
    if job.error is not None:
        raise job.error
    return job.code


class _Job:
    """The function that Hydra calls with a configuration; it can be sent to another process (joblib, submitit).

    In a single run it keeps an error, for Hydra would add lines of its own; in a sweep Hydra counts the errors.
    """

    def __init__(self, name: str, main: Callable[[dict[str, Any]], float | None], sweep: bool) -> None:
        self._name, self._main, self._sweep = name, main, sweep
        self.error: Exception | None = None
        self.code: int | None = None

    def __call__(self, config: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        setup_logging()  # a process of a launcher has none
        chosen = HydraConfig.get()
        if self._sweep:
            log.info("job %s of the sweep: %s", chosen.job.get("num"), chosen.job.override_dirname or "no overrides")
            value = self._main(_plain(self._name, config, list(chosen.overrides.task)))
            # Hydra takes what is returned for the sweeper's objective; only an exception makes a job a failed one
            if isinstance(value, int) and value:
                raise UserError(f"a job of the sweep ended with exit code {value}")
            return value
        try:
            value = self._main(_plain(self._name, config, list(chosen.overrides.task)))
            self.code = value if isinstance(value, int) else None
        except Exception as error:  # raised again by the caller
            self.error = error
        return None


def _plain(name: str, config: Any, overrides: list[str]) -> dict[str, Any]:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return to_plain(config, overrides)
    except (OmegaConfBaseException, ValueError) as error:
        raise composition_error(name, error) from error


def _start(name: str, job: _Job, arguments: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [sys.argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised instead of printed and ended
    try:
        hydra.main(version_base=None, config_path=str(CONFIG_DIR), config_name=name)(job)()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, AssertionError) as error:
        # Hydra raises the error of a sweep's job again when all jobs have ended: it is none of the configuration
        if any(frame.f_code is _Job.__call__.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        raise composition_error(name, error, [word for word in arguments if not word.startswith("-")]) from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]


def _arguments(program: str, name: str, given: Sequence[str]) -> list[str]:
    """The command line as Hydra is to see it."""
    sweep = any(word in ("-m", "--multirun") for word in given)
    flags, overrides, waiting = [], [], False
    for word in given:
        if waiting or word.startswith("-"):
            flags.append(word)
            waiting = not waiting and word in _TAKES_VALUE
        else:
            overrides.append(word)
    folder = _option(flags, "--config-path", "-cp")
    if folder is not None and not folder.startswith(("pkg://", "/")):
        # Hydra would look beside this file; users mean their folder, or that of the program, as published
        places = [Path(folder), Path(sys.argv[0]).resolve().parent / folder]
        found = next((place for place in places if place.is_dir()), places[0])
        flags = [word.replace(folder, str(found.resolve())) if folder in word else word for word in flags]
    if folder is None and _option(flags, "--config-dir", "-cd") is None:
        _check_name(name)
    overrides = open_overrides(program, overrides)
    chosen = {word.lstrip("+").partition("=")[0] for word in overrides}
    silent = {"hydra/job_logging": "none", "hydra/hydra_logging": "none", "hydra.job.name": program}
    if folder is not None:
        silent["hydra.searchpath"] = f"[file://{CONFIG_DIR}]"
    if not sweep and "hydra.run.dir" not in chosen:
        silent |= {"hydra.run.dir": ".", "hydra.output_subdir": "null"}
    overrides += [f"{key}={value}" for key, value in silent.items() if key not in chosen]
    if _rank() > 0:  # one process writes .hydra
        overrides = [word for word in overrides if not word.lstrip("+").startswith("hydra.output_subdir=")]
        overrides.append("hydra.output_subdir=null")
    folders = [
        word for word in overrides if word.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) and "${now" in word
    ]
    if folders and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{folders[0]}: each process has another time; give a fixed folder")
    return [*flags, *overrides]


def _check_name(name: str) -> None:
    if not (CONFIG_DIR / f"{name.removesuffix('.yaml')}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in CONFIG_DIR.glob("*.yaml")))
        raise ConfigError(
            f"--config-name: there is no {CONFIG_DIR / name.removesuffix('.yaml')}.yaml; known: {known}; "
            "--config-dir FOLDER adds a folder of yours"
        )


def _option(arguments: Sequence[str], *names: str) -> str | None:
    """Value of a flag, given as ``FLAG VALUE`` or ``FLAG=VALUE``; the last one counts."""
    found = None
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in names:
            found = value if equals else next(iter(arguments[place + 1 :]), "")
    return found


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))


def print_help(config_name: str) -> NoReturn:
    """Print the commented YAML of a configuration and end."""
    text = (CONFIG_DIR / f"{config_name.removesuffix('.yaml')}.yaml").read_text(encoding="utf-8")
    program = Path(sys.argv[0]).name
    print(f"usage: {program} [KEY=VALUE ...]; Hydra's flags: {program} --hydra-help\n\nKeys and defaults:\n\n{text}")
    sys.exit(0)
