"""The published data commands: every flag is accepted, and every other default is stated in docs/fidelity.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from src.common.paths import REPO_ROOT

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (REPO_ROOT / "tests" / "reference" / "published_defaults.json").read_text(encoding="utf-8")
)
COMMANDS = [
    "create_prompts_offline.py --batch-size 2048 --cuda-devices=0,1",
    "merge_with_online_alarm_corpora.py --save-name NAME --merge-filtered --data-dir data",
    "generate_responses.py --cuda-devices=0 --batch-size 2048 --model-name Qwen/Qwen3-4B-Thinking-2507 "
    "--no-use-checker --max-thinking-tokens 1536",
    "generate_instruction_responses.py --cuda-devices=0 --batch-size 2048 --model-name M "
    "--dataset-name heysquad_human",
    "generate_instruction_responses.py --model-name M --dataset-name instructs2s --only-context",
    "filter_dataset.py --dataset-name heysquad_human --threshold 0.5 --threshold_type wer",
    "create_train_val_split.py --val-size 0.10",
    "validate_and_filter_indexes.py --max-duration 60.0 --n-jobs 16",
    "validate_and_filter_answers.py --model-name M --no-use-checker --max-thinking-tokens 1536 "
    "--tokens-max-limit 612 --tokens-min-limit 100 --n-jobs 16 --force-rewrite",
    "validate_data_order.py",
    "combined_dataset.py --n-examples 2",
    "upload_dataset.py --model-name M --max-tokens 512 --max-thinking-tokens 1536 --no-use-checker --username U "
    "--repo-name R --public --remove-audio",
    "dataset_collection/instructs2s.py --limit 5",
    "dataset_collection/voxceleb.py",
]


NO_CHECKER = ("generate_responses.py", "--no-use-checker")
"""There is no checker here unless --checker-llm names one: the flag says what is so without it."""


class _Parsed(Exception):
    """Ends a command where it has read its arguments."""


def parsed(script: Path, *arguments: str) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser of a script, and what it makes of the arguments."""
    found: list[tuple[argparse.ArgumentParser, argparse.Namespace]] = []
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> argparse.Namespace:
        found.append((parser, real(parser, list(arguments))))
        raise _Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", stop), pytest.raises(_Parsed):
        runpy.run_path(str(script), run_name="__main__")
    return found[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_are_accepted(command: str) -> None:
    script, *arguments = command.split()
    parsed(REPO_ROOT / "scripts" / "alarm" / script, *arguments)


def default_of(parser: argparse.ArgumentParser, flag: str) -> Any:
    """What a flag stands for when it is not given, as the published programs write it."""
    action = parser._option_string_actions[flag]
    if isinstance(action, argparse.BooleanOptionalAction):
        return not action.default
    if action.default is None:
        return {"--limit": -1, "--data-dir": "data"}.get(flag)
    if flag == "--n-jobs" and action.default == len(os.sched_getaffinity(0)):
        return "processors"
    return action.default


def test_other_defaults_are_stated() -> None:
    text = (REPO_ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    section = text.partition("## Defaults of the data commands")[2].partition("\n## ")[0]
    stated = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            script, flag = cells[0].strip("`").split()
            stated[script, flag] = (cells[1].strip("`"), cells[2].strip("`"))
            assert len(cells[3]) > 20, f"{script} {flag} has no reason"
    differ = {}
    for path, flags in PUBLISHED.items():
        parser, _ = parsed(REPO_ROOT / path)
        for flag, default in flags.items():
            ours = True if (Path(path).name, flag) == NO_CHECKER else default_of(parser, flag)
            if ours != default:
                differ[Path(path).name, flag] = (str(default), str(ours))
    assert stated == differ


@pytest.mark.parametrize("folder", ["scripts/alarm", "."])
def test_commands_find_the_same_data_from_every_folder(folder: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ALARM_DATA_ROOT"}
    script = REPO_ROOT / "scripts" / "alarm" / "validate_data_order.py"
    command = [sys.executable, os.path.relpath(script, REPO_ROOT / folder), "no_such_corpus"]
    done = subprocess.run(command, cwd=REPO_ROOT / folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and re.search("unknown corpus 'no_such_corpus'", done.stderr)
    root = REPO_ROOT / "data" / "datasets"
    if not root.exists():
        done = subprocess.run(command[:-1], cwd=REPO_ROOT / folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and f"no corpus is collected in {root}/raw" in done.stderr and not root.exists()
