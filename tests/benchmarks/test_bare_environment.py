"""src.benchmarks imports and scores in an environment that has Python, numpy and PyYAML alone."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from src.common.paths import REPO_ROOT

PROBE = """
import importlib, importlib.util, pkgutil, sys
for name in ("torch", "transformers", "vllm", "datasets", "huggingface_hub"):
    assert importlib.util.find_spec(name) is None, name + " is installed here"
import src.benchmarks
names = [module.name for module in pkgutil.walk_packages(src.benchmarks.__path__, "src.benchmarks.")]
assert {"src.benchmarks.score", "src.benchmarks.answer_files", "src.benchmarks.conversion.collect"} <= set(names)
for name in names:
    importlib.import_module(name)
from src.benchmarks.evaluate import evaluate_file, evaluation_parser
for name in ("mmau", "mmar", "mmsu", "airbench"):
    cases = "tests/reference/benchmark_cases/" + name + "/text.json"
    args = evaluation_parser("x").parse_args(["--input", cases, "--output", sys.argv[1] + "/" + name])
    text, _ = evaluate_file(name, args)
    assert "95 % bootstrap intervals" in text
print("bare")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fresh environment without packages, and a folder that holds the two packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (folder / "only").mkdir()
    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "yaml"):
        if (installed / name).exists():
            (folder / "only" / name).symlink_to(installed / name)
    return folder / "env" / "bin" / "python", folder / "only"


def test_import_and_scores_need_numpy_and_yaml_alone(bare: tuple[Path, Path], tmp_path: Path) -> None:
    python, only = bare
    environment = {"PYTHONPATH": f"{only}:{REPO_ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(python), "-c", PROBE, str(tmp_path)], cwd=REPO_ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "bare"
