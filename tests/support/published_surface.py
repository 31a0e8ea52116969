"""The published command lines: read from ``tests/reference/published_commands.yaml``, parsed or run, and judged."""

from __future__ import annotations

import glob
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from src.common.paths import REPO_ROOT
from tests.support.published_parse import HYDRA, parse_all

COMMANDS = REPO_ROOT / "tests" / "reference" / "published_commands.yaml"
Verdict = Literal["same meaning", "accepted", "refused"]
VERDICTS: tuple[Verdict, ...] = ("same meaning", "accepted", "refused")
SECONDS = 1800
"""A command in miniature that takes longer is refused."""
METADATA = "R/metadata/test_metadata.json"


@dataclass(frozen=True)
class Command:
    """One command line: ``words`` as published, and how it is made small and judged (see the YAML file's head)."""

    id: str
    words: tuple[str, ...]
    cwd: Path
    text: str
    small: Mapping[str, str | None] = field(default_factory=dict)
    add: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    parse: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    expect: tuple[Mapping[str, Any], ...] = ()

    def small_words(self, world: Path) -> list[str]:
        """The words of the run in miniature."""
        words = [self.small.get(word, word) for word in self.words]
        return [word.replace("{world}", str(world)) for word in (*words, *self.add) if word is not None]

    def small_env(self, world: Path) -> dict[str, str]:
        """Variables of the run in miniature."""
        return {name: value.replace("{world}", str(world)) for name, value in self.env.items()}


@dataclass(frozen=True)
class Result:
    """Verdict on a command, and its reason."""

    id: str
    text: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """One line for a reader."""
        shown = self.text if len(self.text) < 100 else f"{self.text[:97]}..."
        mark = {"same meaning": "accepted, same meaning", "accepted": "accepted (parsed)", "refused": "REFUSED"}
        return f"{self.id:5} {mark[self.verdict]:24} {shown}" + (f"\n      {self.reason}" if self.reason else "")


def read_table() -> dict[str, Any]:
    """The data file."""
    table: dict[str, Any] = yaml.safe_load(COMMANDS.read_text(encoding="utf-8"))
    return table


def read_commands(only: Sequence[str] = ()) -> list[Command]:
    """All commands, placeholders filled in; ``only`` names rows (``1`` takes ``1``, ``11`` also ``11a``)."""
    found = [command for entry in read_table()["commands"] for command in _expand(entry)]
    if not only:
        return found
    return [command for command in found if command.id in only or command.id.rstrip("abcdefgh") in only]


def _expand(entry: Mapping[str, Any]) -> Iterator[Command]:
    for chosen in entry.get("each", [{}]):
        names = list(chosen)
        lists = [value if isinstance(value, list) else [value] for value in chosen.values()]
        for values in itertools.product(*lists):
            yield make_command(_fill(entry, dict(zip(names, values, strict=True))))


def _fill(value: Any, given: Mapping[str, str]) -> Any:
    """``value`` with every ``<name>`` replaced."""
    if isinstance(value, str):
        for name, text in given.items():
            value = value.replace(f"<{name}>", str(text))
        return value
    if isinstance(value, Mapping):
        return {_fill(key, given): _fill(item, given) for key, item in value.items()}
    return [_fill(item, given) for item in value] if isinstance(value, list) else value


def make_command(entry: Mapping[str, Any]) -> Command:
    """The command of an entry of the data file, placeholders filled in."""
    lists = {name: tuple(entry.get(name, ())) for name in ("add", "needs", "fresh", "keeps", "expect")}
    return Command(
        id=str(entry["id"]),
        words=tuple(shlex.split(entry["command"])),
        cwd=Path(entry["cwd"]),
        text=" ".join(entry["command"].split()),
        small=entry.get("small", {}),
        env=entry.get("env", {}),
        parse=entry.get("parse", False),
        values=entry.get("values", {}),
        **lists,
    )


# ---------------------------------------------------------------------- parsing only


def parse_commands(commands: Sequence[Command]) -> list[Result]:
    """Every command as written, parsed by its program: refused, or accepted with all values that are typed."""
    jobs: list[dict[str, Any]] = []
    owners: list[int] = []
    failed: dict[int, str] = {}
    for number, command in enumerate(commands):
        words = list(command.words)
        if words[0] in ("python3", "accelerate"):
            called = [_python_job(words, REPO_ROOT / command.cwd)]
        else:
            called, failed_here = _shell_jobs(words, REPO_ROOT / command.cwd)
            if failed_here:
                failed[number] = failed_here
        jobs += called
        owners += [number] * len(called)
    for number, job, found in zip(owners, jobs, parse_all(jobs), strict=True):
        problem = _parse_problem(job, found, commands[number])
        if problem:
            failed.setdefault(number, problem)
    return [
        Result(command.id, command.text, "refused" if number in failed else "accepted", failed.get(number, ""))
        for number, command in enumerate(commands)
    ]


def _python_job(words: Sequence[str], cwd: Path) -> dict[str, Any]:
    """The program of ``python3 X …`` or ``accelerate launch … X …`` and its own arguments."""
    place = next(number for number, word in enumerate(words) if word.endswith(".py"))
    return {"script": str(cwd / words[place]), "arguments": list(words[place + 1 :]), "cwd": str(cwd)}


def _shell_jobs(words: Sequence[str], cwd: Path) -> tuple[list[dict[str, Any]], str]:
    """Commands that a shell script calls, written down by a stand-in for Python; or why it did not get there."""
    script = cwd / words[0]
    if not os.access(script, os.X_OK):
        return [], f"there is no program {words[0]}"
    with tempfile.TemporaryDirectory() as folder:
        log, stand_in = Path(folder) / "log", Path(folder) / "python3"
        record = 'import json,sys;open(sys.argv[1],"a").write(json.dumps(sys.argv[2:])+"\\n")'
        stand_in.write_text(
            f'#!/bin/sh\n{shlex.quote(sys.executable)} -c {shlex.quote(record)} {log} "$@"\n'
            f'case "$1" in *create_answer_json.py) echo {METADATA};; esac\n'
        )
        stand_in.chmod(0o755)
        (Path(folder) / "python").symlink_to(stand_in)
        env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": str(stand_in)}
        done = subprocess.run([str(script), *words[1:]], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            return [], f"exit code {done.returncode}: {_last(done.stderr)}"
        calls = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    if not calls:
        return [], f"{words[0]} calls no program"
    return [_python_job(["python3", *call], cwd) for call in calls], ""


def _parse_problem(job: Mapping[str, Any], found: Mapping[str, Any], command: Command) -> str:
    if found["code"]:
        return str(found["error"])
    for name, value in command.values.items():
        if value not in _flat(found["values"].get(name)):
            return f"{name} is {found['values'].get(name)!r}, expected {value!r}"
    if Path(job["script"]).name in HYDRA:
        return ""
    arrived = {_plain(value) for value in _flat(found["values"])}
    lost = [value for value in _typed(job["arguments"]) if _plain(value) not in arrived]
    return f"typed, but not in the parsed options: {', '.join(lost)}" if lost else ""


def _typed(arguments: Sequence[str]) -> list[str]:
    """Values among the arguments: ``--a X`` and ``--a=X``."""
    parts = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments]
    return [part for part in parts if part]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [item for each in value.values() for item in _flat(each)]
    if isinstance(value, list):
        return [item for each in value for item in _flat(each)]
    return [value]


def _plain(value: Any) -> str:
    try:
        return str(float(value))
    except (TypeError, ValueError):
        return str(value)


def parse_flags() -> list[Result]:
    """Every published flag of every program, with its published default or an example."""
    table = read_table()
    return _parse_each("flag", {
        script: (table["required"].get(script, ""), given) for script, given in table["flags"].items()
    })  # fmt: skip


def parse_keys() -> list[Result]:
    """Every published key of the Hydra programs, with its published default."""
    return _parse_each(
        "key", {script: (given["base"], given["keys"]) for script, given in read_table()["keys"].items()}
    )


def _parse_each(kind: str, programs: Mapping[str, tuple[str, Sequence[str]]]) -> list[Result]:
    """All options of a program in one command line; where that is refused, each of them alone, to know which."""

    def job(script: str, base: str, given: Sequence[str]) -> dict[str, Any]:
        path = REPO_ROOT / script
        return {"script": str(path), "arguments": shlex.split(" ".join((base, *given))), "cwd": str(path.parent)}

    found = parse_all([job(script, base, given) for script, (base, given) in programs.items()])
    refused = [script for script, answer in zip(programs, found, strict=True) if answer["code"]]
    alone = [(script, programs[script][0], option) for script in refused for option in programs[script][1]]
    errors = {
        (script, option): answer["error"]
        for (script, _, option), answer in zip(
            alone, parse_all([job(script, base, [option]) for script, base, option in alone]), strict=True
        )
        if answer["code"]
    }
    return [
        Result(kind, f"{script} {option}", "refused" if (script, option) in errors else "accepted",
               errors.get((script, option), ""))
        for script, (_, given) in programs.items() for option in given
    ]  # fmt: skip


def import_names() -> list[Result]:
    """Every published Python name, in one process: the first line settles how vLLM starts, as in users' notebooks."""
    lines = read_table().get("python", [])
    program = (
        "import json, sys\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    try:\n        exec(line, {})\n        print('NAME ok')\n"
        "    except Exception as error:\n        print('NAME', type(error).__name__, str(error).splitlines()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)], cwd=REPO_ROOT, capture_output=True, text=True
    )
    said = [line.removeprefix("NAME ") for line in done.stdout.splitlines() if line.startswith("NAME ")]
    said += [_last(done.stderr)] * (len(lines) - len(said))
    return [
        Result("name", line, "same meaning" if answer == "ok" else "refused", "" if answer == "ok" else answer)
        for line, answer in zip(lines, said, strict=True)
    ]


# ---------------------------------------------------------------------- running


def run_commands(commands: Sequence[Command], world: Any, show: Callable[[Result], None]) -> list[Result]:
    """Run every command in miniature, in this order; ``show`` is called after each."""
    results = []
    for command in commands:
        result = parse_commands([command])[0] if command.parse else _run(command, world)
        show(result)
        results.append(result)
    return results


def run_in_world(commands: Sequence[Command], folder: Path) -> list[Result]:
    """Run the commands in a scratch folder and print a line for each."""
    from tests.support.hub_server import hub_server
    from tests.support.published_world import World

    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with hub_server() as hub:
        return run_commands(commands, World(folder, hub), lambda result: print(result.line(), flush=True))


def _run(command: Command, world: Any) -> Result:
    started = time.monotonic()

    def result(verdict: Verdict, reason: str = "") -> Result:
        return Result(command.id, command.text, verdict, reason, round(time.monotonic() - started, 1))

    for pattern in command.fresh:
        for path in glob.glob(str(world.repo / pattern)):
            subprocess.run(["rm", "-rf", "--", path], check=True)
    try:
        world.need(command.needs)
    except Exception as error:  # whatever is wrong with what it needs: this command cannot be shown to work
        return result("refused", f"what it needs cannot be made: {' '.join(str(error).split())[-400:]}")
    before = {pattern: _state(world.repo / pattern) for pattern in command.keeps}
    started = time.monotonic()
    log = world.folder / "logs" / f"{command.id}-{len(list((world.folder / 'logs').glob('*')))}.log"
    try:
        done = subprocess.run(
            command.small_words(world.folder), cwd=world.repo / command.cwd, capture_output=True, text=True,
            env={**world.environment(), **command.small_env(world.folder)}, timeout=SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return result("refused", str(error))
    log.write_text(
        f"$ {shlex.join(command.small_words(world.folder))}\n{done.stdout}\n{done.stderr}", encoding="utf-8"
    )
    if done.returncode:
        return result("refused", f"exit code {done.returncode}: {_last(done.stderr)} ({log})")
    problems = [problem for check in command.expect for problem in _check(check, world, done.stdout + done.stderr)]
    problems += [
        f"{pattern} was changed" for pattern, state in before.items() if _state(world.repo / pattern) != state
    ]
    return result("refused", f"{'; '.join(problems)} ({log})") if problems else result("same meaning")


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def _last(text: str) -> str:
    """The line of an error output that says what is wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error:") or ": error:" in line]
    others = [line for line in lines if "Error:" in line and "ChildFailedError" not in line]
    return ((ours or others or lines or ["no message"])[-1])[:300]


def _check(check: Mapping[str, Any], world: Any, said: str) -> Iterator[str]:
    """Problems of one expectation."""
    (kind, wanted), *_ = check.items()
    root: Path = world.repo
    if kind == "exists":
        yield from (f"{path} was not made" for path in wanted if not (root / path).exists())
    elif kind == "absent":
        yield from (f"{path} was made" for path in wanted if (root / path).exists())
    elif kind == "glob":
        if not glob.glob(str(root / wanted), recursive=True):
            yield f"there is no {wanted}"
    elif kind == "prints":
        if wanted not in said:
            yield f"does not print {wanted!r}"
    elif kind == "json":
        yield from _check_json(
            wanted, (root / wanted["file"]).read_text() if (root / wanted["file"]).is_file() else None
        )
    elif kind == "set":
        yield from _check_set(root / wanted["path"], wanted)
    elif kind == "tensors":
        yield from _check_tensors(root / wanted["file"])
    elif kind == "hub":
        yield from _check_hub(wanted, world.hub.uploads)
    else:
        raise ValueError(f"unknown expectation {kind}")


def _check_json(wanted: Mapping[str, Any], text: str | None) -> Iterator[str]:
    if text is None:
        yield f"{wanted['file']} was not made"
        return
    value = json.loads(text)
    for part in wanted["key"].split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value != wanted["equals"]:
        yield f"{wanted['file']}: {wanted['key']} is {value!r}, expected {wanted['equals']!r}"


def _check_set(folder: Path, wanted: Mapping[str, Any]) -> Iterator[str]:
    from datasets import load_from_disk

    if not (folder / "dataset_dict.json").is_file():
        yield f"there is no saved set {wanted['path']}"
        return
    data = load_from_disk(str(folder))
    for split in wanted.get("splits", list(data)):
        if split not in data:
            yield f"{wanted['path']} has no split {split}; it has {', '.join(data)}"
            continue
        missing = [name for name in wanted["columns"] if name not in data[split].column_names]
        if missing:
            yield f"{wanted['path']} ({split}) has no column {', '.join(missing)}"
        if "rows" in wanted and len(data[split]) != wanted["rows"]:
            yield f"{wanted['path']} ({split}) has {len(data[split])} rows, expected {wanted['rows']}"


def _check_tensors(file: Path) -> Iterator[str]:
    import torch

    if not file.is_file():
        yield f"{file.name} was not written"
        return
    state = torch.load(file, weights_only=True)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        yield f"{file.name} is no state dict"
    elif any(name.startswith(("adapters.", "audio_", file.stem)) for name in state):
        yield f"{file.name}: names have a prefix: {next(iter(state))}"


def _check_hub(wanted: Mapping[str, Any], uploads: Any) -> Iterator[str]:
    owner, _, name = wanted["repo"].partition("/")
    found = [repo for repo in uploads.files if repo == wanted["repo"] or (owner == "*" and repo.endswith(f"/{name}"))]
    if not found:
        yield f"nothing was sent to {wanted['repo']}; repositories: {', '.join(uploads.files) or 'none'}"
        return
    repo, files = found[0], uploads.files[found[0]]
    if uploads.private[repo] != wanted["private"]:
        yield f"{repo} is {'private' if uploads.private[repo] else 'public'}"
    yield from (f"{repo} has no {file}" for file in wanted.get("files", ()) if file not in files)
    if "json" in wanted and wanted["json"]["file"] in files:
        yield from _check_json(wanted["json"], files[wanted["json"]["file"]].decode())


# ---------------------------------------------------------------------- the table of docs/migrating.md


def table_markdown() -> str:
    """The commands as a Markdown table: published, here, what differs."""
    lines = ["| # | published command | here | what differs |", "| --- | --- | --- | --- |"]
    for entry in read_table()["commands"]:
        if entry.get("table", True):
            words = " ".join(entry["command"].split()).replace("{world}/repo/", "").replace("|", "\\|")
            where = "" if entry["cwd"] == "." else f" (in `{entry['cwd']}`)"
            lines.append(f"| {entry['id']} | `{words}`{where} | {entry['here']} | {entry['differs']} |")
    return "\n".join(lines) + "\n"
