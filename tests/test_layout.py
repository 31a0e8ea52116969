"""Packages import one way, names and docstrings follow the style, users' names stay, commands start quickly."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from scripts.dev.measure_style import defined_types, docstrings

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "common": set(),
    "prompts": {"common"},
    "audio": {"common"},
    "model": {"prompts", "common", "audio"},
    "dataset": {"audio", "prompts", "common"},
    "download": {"audio", "common"},
    "benchmarks": {"download", "prompts", "common"},
    "report": {"audio", "benchmarks", "prompts", "common"},
    "training": {"model", "dataset", "report", "prompts", "common", "audio"},
    "inference": {"model", "prompts", "common", "audio"},
    "hf": {"inference", "model", "prompts", "common", "audio"},
    "generation": {"inference", "model", "dataset", "prompts", "common", "audio"},
    "corpus": {"download", "inference", "generation", "dataset", "prompts", "common", "audio"},
    "serving": {"inference", "generation", "model", "report", "prompts", "common", "audio"},
}
"""Packages of ``src/`` that each package may import, besides itself."""
NO_TORCH = {"common", "prompts", "benchmarks", "download", "report"}
HEAVY = {"torch", "transformers", "vllm", "torchaudio", "torchcodec", "accelerate"}
SURFACE = [
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "DATASET.md",
    "Dockerfile",
    "LICENSE",
    "NOTICE.md",
    "README.md",
    "ask.py",
    "docs/benchmarks.md",
    "docs/fidelity.md",
    "docs/generation.md",
    "docs/installation.md",
    "docs/migrating.md",
    "docs/serving.md",
    "docs/training.md",
    "generate_vllm.py",
    "generate_vllm_mcqa.py",
    "get_pretrained_adapters.py",
    "quickstart.sh",
    "requirements-cpu.txt",
    "requirements-ray.txt",
    "requirements-serve.txt",
    "requirements.txt",
    "run_eval.sh",
    *(
        f"scripts/alarm/{name}.py"
        for name in (
            "combined_dataset",
            "corpus_report",
            "create_prompts_offline",
            "create_train_val_split",
            "dataset_statistics",
            "filter_dataset",
            "generate_instruction_responses",
            "generate_responses",
            "merge_with_online_alarm_corpora",
            "upload_dataset",
            "validate_and_filter_answers",
            "validate_and_filter_indexes",
            "validate_data_order",
        )
    ),  # fmt: skip
    *(
        f"scripts/alarm/dataset_collection/{name}.py"
        for name in (
            "alimeeting",
            "amicorpus",
            "ascend",
            "asvspoof19",
            "asvspoof5",
            "audiocaps",
            "audioset",
            "cameo",
            "clotho",
            "dailytalk",
            "disfluencyspeech",
            "esc50",
            "fma",
            "fsd50k",
            "globe_v3",
            "gtzan",
            "heysquad_human",
            "instructs2s",
            "librimix",
            "librispeech",
            "meld",
            "mls",
            "mridangam",
            "mucs",
            "nisqa",
            "noisy_vctk",
            "nsynth",
            "opensinger",
            "singmos",
            "sonicmaster",
            "vctk",
            "vocalsound",
            "voxceleb1",
        )
    ),  # fmt: skip
    *(
        f"scripts/benchmarks/{step}/{name}.py"
        for step in ("dataset_collection", "evaluation")
        for name in ("mmau", "mmar", "mmsu", "airbench")
    ),
    "scripts/benchmarks/check_cases.py",
    "scripts/benchmarks/create_answer_json.py",
    "scripts/benchmarks/dataset_collection/download_airbench.sh",
    "scripts/benchmarks/dataset_collection/download_mmsu.sh",
    "scripts/benchmarks/report.py",
    "scripts/check_kills.py",
    "scripts/import_published_prompts.py",
    "scripts/check_published_surface.py",
    "scripts/plot_curves.py",
    "scripts/setup_env.sh",
    "serve.py",
    "src/configs/accelerate/cpu.yaml",
    "src/configs/accelerate/fsdp.yaml",
    "src/configs/accelerate/multigpu.yaml",
    "src/configs/dataset/alarm_corpora.yaml",
    "src/configs/dataset/mini.yaml",
    "src/configs/engine/ray.yaml",
    "src/configs/generate.yaml",
    "src/configs/lora/default.yaml",
    "src/configs/model/default_inference.yaml",
    *(
        f"src/configs/model/{name}.yaml"
        for name in ("alarm_ca", "alarm_p", "whisper_batch", "w2vbert", "sslam", "muq")
    ),
    *(f"src/configs/model/mini_{name}.yaml" for name in ("alarm_ca", "alarm_p", "whisper")),
    "src/model/wrapped_llms/qwen3.py",
    "test.sh",
    "train_alarm_ca.sh",
    "train_alarm_p.sh",
    "train.py",
    "upload_model.py",
]
ENTRIES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", "scripts/**/*.py")
    for path in ROOT.glob(pattern)
    if not path.name.startswith("_")
)


FILES = [path for folder in ("src", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
SOURCE = [(path.relative_to(ROOT / "src").parts[0], path) for path in FILES if (ROOT / "src") in path.parents]

# Exceptions of the checks below. They shrink: a check also fails when one of its exceptions is not needed any more.
UPWARD_IMPORTS: set[str] = set()
"""``FILE imports MODULE`` pairs that point against :data:`ALLOWED`."""
CYCLES: dict[str, set[str]] = {}
"""By package: modules and subpackages that import one another."""
TYPE_NAMES: set[str] = set()
"""Public type names that more than one module of ``src/`` defines."""
WHAT_DOCSTRINGS: set[str] = set()
"""Files with docstrings that begin with "What" or "Whatever"."""
WORDS: set[str] = set()
"""Words of :data:`AVOIDED` that identifiers of ``src/`` and ``examples/`` still use."""

AVOIDED = {
    "bridge", "betrayal", "betraying", "betrays", "deaf", "ear", "ears", "finisher", "heard",
    "hearing", "hears", "inbox", "mend", "mended", "mends", "patience", "ruling", "rulings", "settle",
    "settled", "settles", "teller", "tells", "ticket", "tickets", "told", "unheard", "unread",
}  # fmt: skip
"""Private words. The usual ones are ensemble, scheduler, encode, transcript, leak, queue, update, writer, hint,
unparsed, send, sent, result."""
AVOIDED_NAMES = {
    "AudioFrontEnd", "Core", "Drawing", "Fault", "Flight", "Hears", "Judged", "Heard", "Lost", "Pass", "RemoteCore",
    "Tell", "VllmCore", "find_fault", "hold_as_autocast", "hold_unused", "shared_out", "stale",
}  # fmt: skip
AVOIDED_FILES = {
    "anchors", "assemble", "bridge", "ears", "evidence", "flight", "front_end", "guard", "layouts", "listener",
    "outcomes", "parts", "placement", "printout", "requests", "respond", "saved", "saved_set", "sharded", "shards",
    "shared_engine", "space", "tally", "tasks", "text_engine", "thoughts", "trial", "volumes", "work", "writing",
    "zero",
}  # fmt: skip
STORED_WORDS = {"betraying_phrases", "heard", "Pass"}
"""Keys of files or of configuration, which keep their words; ``Pass`` is Python's ``ast.Pass``."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path, top_only: bool = False) -> set[str]:
    """Modules that a file imports; for ``from a import b`` also ``a.b``."""
    names: set[str] = set()
    for node in _tree(path).body if top_only else ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _modules(names: Set[str]) -> set[str]:
    """Those names that are modules of this repository's ``src``."""
    return {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists() or _is_package(name)}


def _is_package(name: str) -> bool:
    return name.startswith("src.") and (ROOT / name.replace(".", "/")).is_dir()


def _same(found: Set[str], known: Set[str]) -> None:
    """Fail for what is found beside the exceptions, and for exceptions that are not needed."""
    assert not found - known, "\n".join(sorted(found - known))
    assert not known - found, f"not needed any more, delete them here: {sorted(known - found)}"


def test_packages_import_in_one_direction() -> None:
    wrong = set()
    for package, path in SOURCE:
        if path.parent == ROOT / "src":
            continue
        assert package in ALLOWED, f"src/{package} is not in ALLOWED: add it there and to the README's code map"
        for name in _modules(_imports(path)):
            parts = name.split(".")
            if parts[0] == "src" and parts[1] not in ALLOWED[package] | {package}:
                wrong.add(f"{_name(path)} imports {name}")
    _same(wrong, UPWARD_IMPORTS)


def test_src_imports_no_examples_scripts_tests_or_entry_files() -> None:
    outside = {"examples", "scripts", "tests"} | {path.stem for path in ROOT.glob("*.py")}
    wrong = [
        f"{_name(path)} imports {name}"
        for _, path in SOURCE
        for name in _imports(path)
        if name.split(".")[0] in outside
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_modules_of_a_package_import_in_one_direction(package: str) -> None:
    """Children of a package (modules, and subpackages as one each) do not import one another in a circle."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "src" / package).rglob("*.py"):
        child = path.relative_to(ROOT / "src" / package).with_suffix("").parts[0]
        for name in _modules(_imports(path)):
            parts = name.split(".")
            if parts[:2] == ["src", package] and len(parts) > 2 and parts[2] != child:
                graph[child].add(parts[2])
    graph.pop("__init__", None)  # it may offer names of its modules
    _same(_in_cycles(graph), CYCLES.get(package, set()))


def _in_cycles(graph: Mapping[str, Set[str]]) -> set[str]:
    reached = {node: set(targets) for node, targets in graph.items()}
    changed = True
    while changed:
        changed = False
        for targets in reached.values():
            more = set().union(*(reached.get(target, set()) for target in targets)) - targets
            changed, _ = changed or bool(more), targets.update(more)
    return {node for node, targets in reached.items() if node in targets}


def test_light_packages_load_without_torch() -> None:
    wrong = [
        f"{_name(path)} imports {name}"
        for package, path in SOURCE
        if package in NO_TORCH
        for name in _imports(path, top_only=True)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_prints_in_src() -> None:
    wrong = [
        f"{_name(path)}:{node.lineno}"
        for _, path in SOURCE
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not any(keyword.arg == "file" for keyword in node.keywords)
        and path.name not in {"hydra_cli.py"}
    ]
    assert not wrong, "\n".join(wrong)


def test_a_public_type_name_means_one_thing() -> None:
    """Classes and type aliases of ``src/``."""
    _same({name for name, files in defined_types([path for _, path in SOURCE]).items() if len(files) > 1}, TYPE_NAMES)


def test_docstrings_name_the_thing() -> None:
    found = {_name(path) for path in FILES if any(text.startswith("What") for text in docstrings(_tree(path)))}
    _same(found, WHAT_DOCSTRINGS)


def test_identifiers_use_the_words_of_the_field() -> None:
    found: set[str] = set()
    for path in FILES:
        names = {name for name in _identifiers(_tree(path)) if name not in STORED_WORDS}
        found |= names & AVOIDED_NAMES
        found |= {word for name in names for word in _words(name) if word in AVOIDED}
        found |= {path.name for stem in AVOIDED_FILES if path.stem == stem}
    _same(found, WORDS)


def _identifiers(tree: ast.Module) -> Iterator[str]:
    """Names that a file defines or uses: classes, functions, parameters, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _words(name: str) -> list[str]:
    """Words of an identifier in snake or camel case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


@pytest.mark.parametrize("name", SURFACE)
def test_names_that_users_rely_on_are_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_pages_link_to_what_is_there() -> None:
    wrong = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("assets/**/*.md")]
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not wrong, "\n".join(wrong)


def test_the_names_that_scripts_import_are_there() -> None:
    with patch.dict(os.environ):  # the import prepares vLLM
        from generate_vllm import get_response
    from src.model.wrapped_llms.qwen3 import Qwen3AudioWrappedFeatureExtractor

    asked = ["prompts", "audio_list", "llm", "feature_extractor", "sample", "tokenizer", "system_prompt"]
    asked += ["max_thinking_tokens", "debug"]
    assert list(inspect.signature(get_response).parameters)[: len(asked)] == asked
    made = list(inspect.signature(Qwen3AudioWrappedFeatureExtractor).parameters)
    assert made == ["model_config", "checkpoint_name", "tokenizer"]
    published = ["llm", "max_tokens", "max_thinking_tokens", "max_model_len", "max_num_seq", "max_num_batched_tokens"]
    known = (ROOT / "src/configs/model/default_inference.yaml").read_text()
    assert all(f"\n{name}:" in known for name in [*published, "gpu_memory_utilization", "seed"])


FORKS = """
import json, os, runpy, sys, traceback
import argparse, hydra, numpy, omegaconf, yaml  # loaded once; nothing of the repository, whose path is not known yet
root, scripts, heavy = sys.argv[1], json.loads(sys.argv[2]), set(sys.argv[3].split())
for script in scripts:
    for from_root in (True, False):
        path = os.path.join(root, script)
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.dup2(writing, 1), os.dup2(writing, 2)
            os.chdir(root if from_root else os.path.dirname(path))
            sys.argv, sys.path[0] = [path, "--help"], os.path.dirname(path)
            code = 0
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
            loaded = sorted(set(sys.modules) & heavy)
            if loaded:
                print("loads", *loaded)
            sys.stdout.flush()
            os._exit(1 if code or loaded else 0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as output:
            said = output.read()
        code = os.waitstatus_to_exitcode(os.wait()[1])
        print(json.dumps({"script": script, "from_root": from_root, "code": code, "said": said}), flush=True)
"""
"""Starts every script with ``--help`` in a fork of one process that has loaded what parses command lines."""


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, bool], tuple[int, str]]:
    """Exit code and output of every script's ``--help``, from the root (True) or from its own folder."""
    arguments = [str(ROOT), json.dumps(ENTRIES), " ".join(HEAVY)]
    # -I: neither the current folder nor PYTHONPATH, so that scripts find src/ by themselves as users start them
    command = [sys.executable, "-I", "-c", FORKS, *arguments]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {(each["script"], each["from_root"]): (each["code"], each["said"]) for each in answers}


@pytest.mark.parametrize("from_root", [True, False])
@pytest.mark.parametrize("script", ENTRIES)
def test_help_answers_without_heavy_imports(
    helps: dict[tuple[str, bool], tuple[int, str]], script: str, from_root: bool
) -> None:
    code, said = helps[script, from_root]
    assert code == 0, said[-2000:]
    assert len(said) > 100, "help says next to nothing"


def test_scripts_are_thin() -> None:
    """All but the performance programs, which contain their own baselines, and tools for the code itself."""
    thin = [name for name in ENTRIES if not name.startswith(("scripts/perf/", "scripts/dev/"))]
    long = {name: count for name in thin if (count := len((ROOT / name).read_text().splitlines())) > 70}
    assert not long, f"logic belongs in src/: {long}"
