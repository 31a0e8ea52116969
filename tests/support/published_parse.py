"""Parses command lines of the project's programs without running them: one process, a fork for each.

    python -m tests.support.published_parse < JOBS.json

In:  ``[{"script": PATH, "arguments": [...], "cwd": DIR}, …]``. Out: for each ``{"code", "values", "error"}``.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common.paths import REPO_ROOT

HYDRA = {"train.py": "train", "generate_vllm.py": "generate", "generate_vllm_mcqa.py": "generate"}
"""Programs that take ``KEY=VALUE``, and their configurations."""


def parse_all(jobs: Sequence[Mapping[str, Any]], env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Result of each program's reading of its command line. ``code`` is 0 when it would go on."""
    if not jobs:
        return []
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.published_parse"],
        input=json.dumps(list(jobs)), cwd=REPO_ROOT, env=None if env is None else dict(env),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    from hydra import compose  # noqa: F401

    import src.corpus.collect.commands
    import src.corpus.targets.llm_settings
    import src.generation.config
    import src.training.config  # noqa: F401  imported by many of them: once, before the forks

    results = [_forked(job) for job in json.load(sys.stdin)]
    print(json.dumps(results))


def _forked(job: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        values, said = Path(folder) / "values", Path(folder) / "said"
        child = os.fork()
        if not child:
            code = 70
            try:
                code = _child(job, values, said)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        reached = values.is_file()
        lines = said.read_text(encoding="utf-8").strip().splitlines()
        return {
            "code": 0 if reached else code or 1,
            "values": json.loads(values.read_text(encoding="utf-8")) if reached else {},
            "error": "" if reached else (lines[-1] if lines else "ended without parsing its command line"),
        }


def _child(job: Mapping[str, Any], values: Path, said: Path) -> int:
    script = Path(job["script"])
    out = os.open(said, os.O_CREAT | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(job["cwd"])
    sys.argv = [str(script), *job["arguments"]]
    sys.path.insert(0, str(script.parent))

    def reached(found: Mapping[str, Any]) -> None:
        values.write_text(json.dumps(found, default=str), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    if script.name in HYDRA:
        return _hydra(script.name, job["arguments"], reached)
    _stop_at_parsing(script, reached)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 1


def _hydra(name: str, arguments: list[str], reached: Any) -> int:
    from src.common.config import compose
    from src.common.errors import UserError

    try:
        config = compose(HYDRA[name], arguments)
        if name == "train.py":
            from src.training.config import bind_train_config

            bind_train_config(config)
        else:
            from src.generation.config import read_run_config

            read_run_config(config)
    except UserError as error:
        print(f"error: {error}")
        sys.stdout.flush()
        return 2
    reached(config)
    return 0


def _stop_at_parsing(script: Path, reached: Any) -> None:
    """Let the program end where its arguments are parsed; a collector where it would start to collect."""
    import src.corpus.collect.commands as collectors

    if script.parent.name == "dataset_collection" and script.parent.parent.name == "alarm":

        def collect_command(names: list[str], args: argparse.Namespace) -> int:
            reached({"collects": names, **vars(args)})
            return 0

        collectors.collect_command = collect_command
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        reached(vars(parse(self, *args, **kwargs)))

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
