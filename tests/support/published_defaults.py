"""Defaults of this project and of the published system, next to each other."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import sys
from typing import Any

import pytest

from src.common.config import compose
from src.common.paths import REPO_ROOT

FACTS = json.loads((REPO_ROOT / "tests" / "reference" / "published_defaults.json").read_text(encoding="utf-8"))
DOCUMENT = REPO_ROOT / "docs" / "fidelity.md"
HEADING = "## Defaults that differ"
SAME_MEANING: dict[str, tuple[Any, ...]] = {
    "limit": (None, 0, -1),  # all rows
    "cuda": (None, "0"),  # the first visible GPU
    "data-dir": (None, "data"),
}
"""Values of a key (by a part of its name) that mean the same."""
Difference = dict[tuple[str, str], tuple[str, str]]


class _Parsed(Exception):
    """Carries a program's parser out of it, before anything is parsed."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def program_parser(program: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser of a program, as the program builds it."""

    def stop(self: argparse.ArgumentParser, *given: Any, **options: Any) -> None:
        raise _Parsed(self)

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        patched.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patched.setattr(sys, "argv", [program])
        try:
            runpy.run_path(str(REPO_ROOT / program), run_name="__main__")
        except _Parsed as found:
            return found.parser
    raise AssertionError(f"{program} parses no command line")


def differences(monkeypatch: pytest.MonkeyPatch) -> tuple[Difference, list[str]]:
    """Defaults that differ, (program, key) -> (published, ours) as text; and flags that there are not."""
    found: Difference = {}
    missing: list[str] = []
    for program, flags in FACTS["scripts"].items():
        if not (REPO_ROOT / program).is_file():
            missing.append(program)
            continue
        parser = program_parser(program, monkeypatch)
        for flag, fact in flags.items():
            action = parser._option_string_actions.get(flag)
            if action is None:
                missing.append(f"{program} {flag}")
            elif not fact.get("required"):
                ours = parser.get_default(action.dest)
                if fact.get("switch"):  # whether what the flag switches is on without it
                    ours = _switched(action, ours)
                if flag == "--n-jobs" and ours == processors():
                    ours = "processors"  # of whichever machine this runs on
                _compare(found, program, flag, fact["default"], ours)
    configs = {
        "train.py": (FACTS["configs"]["train"], compose("train", ["model=alarm_ca", "dataset=all_4b"])),
        "generate_vllm*.py": (FACTS["configs"]["generate"], compose("generate", [])),
        "src/configs/model": (
            FACTS["configs"]["model"],
            compose("train", ["model=alarm_ca", "dataset=all_4b"])["model"],
        ),
    }
    for program, (facts, config) in configs.items():
        for key, published in facts.items():
            value: Any = config
            for part in key.split("."):
                if not isinstance(value, dict) or part not in value:
                    missing.append(f"{program} {key}")
                    break
                value = value[part]
            else:
                _compare(found, program, key, published, value)
    return found, missing


def stated() -> Difference:
    """The table of differences in ``docs/fidelity.md``."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if re.match(r"\| `", line)
    ]
    assert all(len(row) == 5 and row[4] for row in rows), "every difference needs its reason"
    return {(row[0].strip("`"), row[1].strip("`")): (row[2].strip("`"), row[3].strip("`")) for row in rows}


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _switched(action: argparse.Action, value: Any) -> Any:
    """Default of a switch as the published parser counts it: true where a ``--no-…`` flag has not been given."""
    if isinstance(action, argparse._StoreTrueAction) and any(
        option.startswith(("--no-", "--plain")) for option in action.option_strings
    ):
        return not value
    return value


def _compare(found: Difference, program: str, key: str, published: Any, ours: Any) -> None:
    if published == ours or any(
        part in key.replace("_", "-") and published in values and ours in values
        for part, values in SAME_MEANING.items()
    ):
        return
    found[program, key] = (_text(published), _text(ours))


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
