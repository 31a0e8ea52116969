"""The collect commands, as users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src.common.errors import ConfigError
from src.common.paths import REPO_ROOT, raw_dir
from src.corpus.collect.commands import listing
from src.corpus.recipes import load_recipe
from src.dataset.corpus_names import all_corpora, audio_corpora, groups, resolve_names
from tests.support.upstream import IMITATIONS
from tests.support.upstream.writing import put


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of ``scripts/alarm``."""
    command = [sys.executable, str(REPO_ROOT / "scripts/alarm" / arguments[0]), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_many_corpora_in_one_command(tmp_path: Path, data_root: Path) -> None:
    for name in ("esc50", "gtzan"):
        IMITATIONS[name](tmp_path / "up" / name)
    put(tmp_path / "up/nisqa/NISQA_Corpus/NISQA_corpus_file.csv", "db,mos\n")
    done = run(
        "collect.py", "esc50", "nisqa", "gtzan", "--jobs", "0", "--from-dir", str(tmp_path / "up"), "--limit", "1"
    )
    assert done.returncode == 1 and "nisqa: " in done.stderr and "has no column filename_deg" in done.stderr
    assert "raw/esc50: train 1 rows" in done.stderr and "raw/gtzan: train 1 rows" in done.stderr
    table = {line.split()[0]: line for line in listing([]).splitlines()}
    assert "1 rows, limit" in table["esc50"] and "begun" in table["nisqa"] and len(table) == 34


def test_each_corpus_has_its_script(tmp_path: Path, data_root: Path) -> None:
    scripts = {path.stem for path in (REPO_ROOT / "scripts/alarm/dataset_collection").glob("*.py")}
    assert scripts == {*all_corpora(), "voxceleb"} and len(audio_corpora()) == 31
    IMITATIONS["mridangam"](tmp_path / "up")
    done = run("dataset_collection/mridangam.py", "--from-dir", str(tmp_path / "up"), "--jobs", "0")
    assert done.returncode == 0, done.stderr
    assert (raw_dir("mridangam") / ".completed").is_file()


def test_names_are_corpora_groups_or_all() -> None:
    assert resolve_names(["event", "gtzan", "clotho"]) == ["audiocaps", "clotho", "gtzan"]
    assert resolve_names(["all"]) == all_corpora() and len(all_corpora()) == 33
    assert list(groups()) == ["speech", "complicated_speech", "event", "music", "environment", "instruction"]
    with pytest.raises(ConfigError, match="unknown corpus 'gtzam'; did you mean 'gtzan'"):
        resolve_names(["gtzam"])


@pytest.mark.parametrize("name", all_corpora())
def test_recipes_are_complete(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.title
    needed = {"audio", "unique_id_1", "unique_id_2", "dataset_index"}
    if recipe.text_type != "none":
        needed |= {"audio_description", "duration", "text", *recipe.description}
        assert recipe.rows and recipe.hours
    assert needed <= set(recipe.columns) and set(recipe.types) <= set(recipe.columns)


def test_the_guide_tells_of_every_corpus_and_repair() -> None:
    guide = (REPO_ROOT / "DATASET.md").read_text(encoding="utf-8")
    for name in all_corpora():
        recipe = load_recipe(name)
        assert f"| `{name}` | {recipe.title} |" in guide
        assert all(f"| `{name}` | {repair} |" in guide for repair in recipe.repairs), name
        assert recipe.rows is None or f"| {recipe.rows:,} | {recipe.hours:,.2f} |" in guide
