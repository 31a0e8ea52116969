"""The published commands, flags, keys and Python names are accepted; docs/migrating.md has all of them.

``scripts/check_published_surface.py`` runs the commands as well.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.common.paths import REPO_ROOT
from tests.support import published_surface as surface

BEGIN, END = "<!-- commands: made by scripts/check_published_surface.py --table -->\n", "<!-- end of commands -->"


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        lambda: surface.parse_commands(surface.read_commands()),
        surface.parse_flags,
        surface.parse_keys,
        surface.import_names,
    ],
    ids=["commands", "flags", "keys", "names"],
)
def test_what_users_type_is_accepted(check: Callable[[], list[surface.Result]]) -> None:
    results = check()
    assert results
    refused = [result.line() for result in results if result.verdict == "refused"]
    assert not refused, "\n".join(refused)


def test_refusals_are_told_apart() -> None:
    """A flag that does not exist, a value of a wrong type, and a value that gets lost are refusals."""
    split, collect = "python3 create_train_val_split.py", "scripts/alarm/dataset_collection"
    entries: list[tuple[dict[str, Any], str]] = [
        ({"command": f"{split} esc50"}, ""),
        ({"command": f"{split} --no-such-flag 3"}, "--no-such-flag"),
        ({"command": f"{split} --seed few"}, "few"),
        ({"command": "python3 train.py model=muq dataset=all_4b no_such_key=1", "cwd": "."}, "no_such_key"),
        ({"command": "./no_such.sh", "cwd": "."}, "there is no program ./no_such.sh"),
        ({"command": "python3 cameo.py", "cwd": collect, "values": {"collects": "vctk"}}, "expected 'vctk'"),
    ]
    commands = [surface.make_command({"id": "x", "cwd": "scripts/alarm", **entry}) for entry, _ in entries]
    for result, (_, reason) in zip(surface.parse_commands(commands), entries, strict=True):
        assert result.verdict == ("refused" if reason else "accepted"), result.line()
        assert reason in result.reason


def test_every_row_of_the_fact_sheet_is_there() -> None:
    """Rows 1 to 20 are the documented commands; 21 to 23 those of the benchmarks."""
    found = {int(re.match(r"\d+", command.id)[0]) for command in surface.read_commands()}  # type: ignore[index]
    assert found == set(range(1, 24))
    words = {word for command in surface.read_commands() for word in command.words}
    for entry in surface.read_table()["commands"]:
        unknown = [word for word in entry.get("small", {}) if word not in words]
        assert not unknown or entry["command"].startswith("accelerate"), f"{entry['id']}: {unknown} is in no command"


def test_the_migration_page_has_the_table() -> None:
    page = (REPO_ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    table = page.partition(BEGIN)[2].partition(END)[0]
    assert table == surface.table_markdown(), "put the output of scripts/check_published_surface.py --table there"


def test_the_program_reports_and_ends_with_one(tmp_path: Path) -> None:
    program = str(REPO_ROOT / "scripts" / "check_published_surface.py")
    done = subprocess.run(
        [sys.executable, program, "--fast", "--only", "11b", "11c", "--json", str(tmp_path / "found.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["id"] for each in found] == ["11b", "11c"]
    assert done.returncode == int(any(each["verdict"] == "refused" for each in found)), done.stderr
    wrong = subprocess.run([sys.executable, program, "--only", "99"], capture_output=True, text=True)
    assert wrong.returncode != 0 and "no such row" in wrong.stderr


def test_the_dockerfile_builds_from_what_is_there() -> None:
    """Without a daemon: instructions are known, sources exist, the set-up takes its arguments."""
    text = re.sub(r"\\\n", " ", (REPO_ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines[0][0] == "FROM" and {word for word, _ in lines} <= {
        "FROM",
        "ARG",
        "RUN",
        "WORKDIR",
        "ENV",
        "COPY",
        "CMD",
    }
    for word, rest in lines:
        if word == "COPY":
            assert all(list(REPO_ROOT.glob(source)) for source in rest.split()[:-1] if source != ".")
    assert "RUN PYTHONDONTWRITEBYTECODE=1 scripts/setup_env.sh --$DEVICE ${CUDA:+--cuda $CUDA}" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--gpu --dry-run", "-r requirements.txt -r requirements-dev.txt"),
        ("--gpu --cuda 12.8 --dry-run", "--torch-backend cu129"),
        ("--cuda 13.0 --dry-run", "-r requirements.txt"),
        ("--cpu --dry-run", "-r requirements-cpu.txt"),
        ("--gpu --cuda 11.8", "error: --cuda 11.8: torch"),
        ("--cpu --cuda 12.8", "error: --cuda 12.8 goes with --gpu"),
        ("--cuda", "error: --cuda needs a version"),
        ("--no-such", "unknown argument '--no-such'"),
    ],
)
def test_set_up_for_other_versions(arguments: str, said: str) -> None:
    done = subprocess.run(
        [str(REPO_ROOT / "scripts" / "setup_env.sh"), *arguments.split()], capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr
    assert done.returncode == ("error" in said or "unknown" in said)


def test_the_versions_of_the_set_up_are_those_of_the_requirements() -> None:
    script = (REPO_ROOT / "scripts" / "setup_env.sh").read_text(encoding="utf-8")
    for file, package, name in (("requirements.txt", "vllm", "VLLM"), ("requirements.txt", "torch", "TORCH")):
        version = re.search(rf"^{package}==(\S+)", (REPO_ROOT / file).read_text(encoding="utf-8"), re.M)
        assert version is not None and f"\n{name}={version[1]}\n" in script


def test_licence_citation_and_hooks_can_be_read() -> None:
    assert "MIT License" in (REPO_ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "CC BY-NC 4.0" in (REPO_ROOT / "NOTICE.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((REPO_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] and citation["preferred-citation"]["url"].endswith("2603.09556")
    (repo,) = yaml.safe_load((REPO_ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local", "hooks need nothing from the network"
    assert all((REPO_ROOT / hook["entry"].split()[0]).exists() for hook in repo["hooks"])
