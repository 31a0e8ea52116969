"""The house: rooms import in one direction, users' names stay, commands answer quickly without heavy imports."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "common": set(),
    "prompts": {"common"},
    "audio": {"common"},
    "model": {"prompts", "common", "audio"},
    "dataset": {"audio", "prompts", "common"},
    "collection": {"audio", "common"},
    "benchmarks": {"collection", "prompts", "common"},
    "report": {"audio", "benchmarks", "prompts", "common"},
    "quickstart": {"report", "benchmarks", "prompts", "common"},
    "training": {"model", "dataset", "report", "prompts", "common", "audio"},
    "generation": {"model", "dataset", "prompts", "common", "audio"},
    "corpus": {"collection", "generation", "dataset", "prompts", "common", "audio"},
    "serving": {"generation", "model", "report", "prompts", "common", "audio"},
}
"""What every room may import of ours, besides itself."""
NO_TORCH = {"common", "prompts", "benchmarks", "collection", "report", "quickstart"}
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
            "collect",
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


def _imports(path: Path, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _room_files() -> list[tuple[str, Path]]:
    return [(path.relative_to(ROOT / "src").parts[0], path) for path in sorted((ROOT / "src").rglob("*/*.py"))]


def test_rooms_import_in_one_direction() -> None:
    wrong = []
    for room, path in _room_files():
        assert room in ALLOWED, f"src/{room} is not on the map: add it here and to the README"
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "scripts" or (len(parts) == 1 and (ROOT / f"{name}.py").exists()):
                wrong.append(f"{path.relative_to(ROOT)} imports the entry file {name}")
            if parts[0] == "src" and len(parts) > 1 and parts[1] not in ALLOWED[room] | {room}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_light_rooms_load_without_torch() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in _room_files()
        if room in NO_TORCH
        for name in _imports(path, top_only=True)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_prints_in_src() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for _, path in _room_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not any(keyword.arg == "file" for keyword in node.keywords)
        and path.name not in {"config.py"}
    ]
    assert not wrong, "\n".join(wrong)


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


@pytest.fixture(scope="module")
def helps() -> Iterator[Callable[[str, bool], Future[subprocess.CompletedProcess[str]]]]:
    """What every script says to ``--help``, from the root or its own folder; all cores are asked at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        asked = {(script, root): pool.submit(_help, script, root) for root in (True, False) for script in ENTRIES}
        yield lambda script, from_root: asked[script, from_root]
        pool.shutdown(cancel_futures=True)


def _help(script: str, from_root: bool) -> subprocess.CompletedProcess[str]:
    path = ROOT / script
    probe = (
        "import sys, runpy\n"
        f"sys.argv = [{str(path)!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    code = end.code or 0\n"
        f"loaded = sorted(set(sys.modules) & {HEAVY!r})\n"
        "sys.exit(code or (f'loads {loaded}' if loaded else 0))\n"
    )
    folder = ROOT if from_root else path.parent
    return subprocess.run([sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("from_root", [True, False])
@pytest.mark.parametrize("script", ENTRIES)
def test_help_answers_without_heavy_imports(
    helps: Callable[[str, bool], Future[subprocess.CompletedProcess[str]]], script: str, from_root: bool
) -> None:
    done = helps(script, from_root).result()
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout) > 100, "help says next to nothing"


def test_scripts_are_thin() -> None:
    """All but the performance programs, which hold their own baselines."""
    thin = [name for name in ENTRIES if not name.startswith("scripts/perf/")]
    long = {name: count for name in thin if (count := len((ROOT / name).read_text().splitlines())) > 70}
    assert not long, f"logic belongs in src/: {long}"
