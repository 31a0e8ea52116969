"""The tutorials of docs/extending.md, followed word by word in an empty folder outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from src.common.paths import REPO_ROOT

OWN_DATA = "## Your own data\n"
"""The last tutorial, which stands alone: it has a test of its own."""
TEXT, _, OWN_DATA_TEXT = (REPO_ROOT / "docs" / "extending.md").read_text(encoding="utf-8").partition(OWN_DATA)
CLIPS = ("bd_klub_0", "drum_heavy_kick_0", "arovane_beat_a_0", "arovane_beat_b_0")
MOST_LINES = 40


def blocks(language: str, text: str = TEXT) -> list[str]:
    """Code blocks of a language, in order; the one that sets the variables is the test's own business."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if "/path/to/alarm" not in block]


def own_files() -> Iterator[tuple[str, str]]:
    """Name and text of the files that the tutorials write."""
    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, f"the first line must name the file: {block[:60]!r}"
        yield name[1], block


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tutorials' files and four clips with names and questions."""
    for name, block in own_files():
        (tmp_path / name).write_text(block, encoding="utf-8")
    clips = tmp_path / "clips"
    clips.mkdir()
    names = dict(zip("abcd", CLIPS, strict=True))
    for letter, source in names.items():
        shutil.copy(REPO_ROOT / "assets" / "mini" / "sounds" / "flac" / f"{source}.flac", clips / f"{letter}.flac")
    rows = "".join(f"{letter}.flac,{text.replace('_', ' ')}\n" for letter, text in names.items())
    (clips / "clips.csv").write_text(f"file,text\n{rows}", encoding="utf-8")
    options = list(names.values())
    questions = [
        {"q": "Which sound is this?", "options": options, "correct": options.index(text), "clip": f"{letter}.flac",
         "key": f"q{letter}", "length": "short" if letter in "ab" else "long"}
        for letter, text in names.items()
    ]  # fmt: skip
    (clips / "test.json").write_text(json.dumps(questions), encoding="utf-8")
    return tmp_path


def shell(command: str, folder: Path) -> str:
    """Run a block as a user would, with ``python`` being this one; returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "ALARM": str(REPO_ROOT),
        "ALARM_DATA_ROOT": str(folder / "data"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_tutorials_are_short() -> None:
    files = dict(own_files())
    assert len(files) == len(blocks("python")) >= 4
    assert {name: text.count("\n") for name, text in files.items() if text.count("\n") > MOST_LINES} == {}


def test_own_corpus_and_benchmark_are_collected(folder: Path) -> None:
    collect, convert = (
        next(b for b in blocks("bash") if word in b) for word in ("alarm/collect.py", "generic.py my_")
    )
    shell(collect, folder)
    shell(convert.splitlines()[0], folder)
    assert (folder / "data" / "raw" / "my_clips" / "dataset_dict.json").is_file()
    record = json.loads((folder / "data" / "raw" / "my_questions" / "run.json").read_text())
    assert record["config"]["benchmark"] == "my_benchmark:BENCHMARK"


@pytest.mark.slow
def test_every_command_of_the_tutorials(folder: Path) -> None:
    """Train, answer, score, export and ask with an encoder, a fusion, a corpus and a benchmark of one's own."""
    before = subprocess.run(["git", "-C", str(REPO_ROOT), "status", "--porcelain"], capture_output=True, text=True)
    for block in blocks("bash"):
        shell(block, folder)
    written = json.loads((folder / "saved" / "mine" / "alarm_config.json").read_text())["model"]["config"]
    assert written["encoders"]["bands"]["encoder_name"] == "my_encoder:SpectrumEncoder"
    assert written["audio_fusion_config"] == {"fusion_type": "my_fusion:GatedFusion", "hidden_dim": 32}
    state = load_file(folder / "saved" / "mine" / "model.safetensors")
    assert "audio_fusion.fusion_model.gates.bands.0.weight" in state
    (scores,) = folder.glob("data/generated/*/*/metadata/test_metadata_scores.json")
    found = json.loads(scores.read_text())
    assert (found["benchmark"], found["rows"], list(found["groups"]["length"])) == (
        "my_questions",
        4,
        ["short", "long"],
    )
    exported = json.loads((folder / "exported" / "alarm_config.json").read_text())["model"]["config"]
    assert exported == written
    (folder / "my_fusion.py").unlink()
    with pytest.raises(AssertionError, match=r"my_fusion:GatedFusion cannot be imported.*PYTHONPATH"):
        shell(f"python {REPO_ROOT}/ask.py clips/a.flac Which? checkpoint_name=saved/mine", folder)
    after = subprocess.run(["git", "-C", str(REPO_ROOT), "status", "--porcelain"], capture_output=True, text=True)
    assert after.stdout == before.stdout


@pytest.mark.slow
def test_own_data_from_json_lines_to_an_answer(tmp_path: Path) -> None:
    """200 lines, four of them wrong: imported, trained on and asked about."""
    script, *commands = *blocks("python", OWN_DATA_TEXT), *blocks("bash", OWN_DATA_TEXT)
    assert all(block.count("\n") <= MOST_LINES for block in (script, *commands)) and len(commands) == 3
    (tmp_path / "make_rows.py").write_text(script, encoding="utf-8")
    started = time.monotonic()
    imported, _, answer = (shell(command, tmp_path) for command in commands)
    seconds = time.monotonic() - started
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 200
    left_out = re.findall(r"left out: (line \d+: [\w ]+):", imported)
    assert left_out == ["line 4: missing file", "line 8: wrong role", "line 12: two clips", "line 16: empty text"]
    table = json.loads((tmp_path / "data" / "raw" / "mine" / "import_report.json").read_text())
    assert (table["rows"], table["left_out"]) == (196, 4)
    assert re.search(r"the (first|last) sound is a [a-z -]+\.", answer), answer
    assert seconds < 300, f"{seconds:.0f} s; expected less than 5 minutes on two free cores"
