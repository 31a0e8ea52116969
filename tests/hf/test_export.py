"""Exported folders beyond their tokens: the stub for users of remote code, uploads, and paths of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoProcessor

import src.hf  # noqa: F401
from src.common.paths import ASSETS, REPO_ROOT
from src.hf.export import STUB_FILE, export_transformers
from src.model.checkpoints import open_checkpoint, save_checkpoint
from src.model.export import import_published, warn_of_local_sources
from tests.support.hub_imitation import hub_imitation
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoProcessor
trusted = {"trust_remote_code": True} if sys.argv[2] == "trusted" else {}
processor = AutoProcessor.from_pretrained(sys.argv[1], **trusted)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **trusted)
clip = {"type": "audio", "audio": [0.1] * 8000}
conversation = [{"role": "user", "content": [clip, {"type": "text", "text": "What is it?"}]}]
inputs = processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True, sampling_rate=16000)
print(type(model).__module__, type(processor).__module__, model.generate(**inputs, max_new_tokens=3).shape[0])
model.save_pretrained(sys.argv[3])
processor.save_pretrained(sys.argv[3])
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    llm = save_tiny_llm(folder / "llm")
    config = model_config("mini_whisper", f"model.llm={llm}")
    return save_checkpoint(folder / "run", mini_audio_embedder("mini_whisper"), config)


@pytest.fixture(scope="module")
def with_stub(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stub") / "hf"
    command = ["scripts/convert_checkpoint.py", str(checkpoint), str(out), "--to", "transformers"]
    done = subprocess.run(
        [sys.executable, *command, "--remote-code-stub"], cwd=REPO_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def load(folder: Path, cwd: Path, trusted: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Load an exported folder in a process that imports nothing of ours itself."""
    command = [sys.executable, "-c", LOAD, str(folder), trusted, str(cwd / "again")]
    return subprocess.run(command, cwd=cwd, env=environment, input="n\n", capture_output=True, text=True)


def environment(home: Path, path: str = "") -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", **({"PYTHONPATH": path} if path else {})}


def test_the_stub_loads_the_classes_of_this_package(with_stub: Path, tmp_path: Path) -> None:
    done = load(with_stub, tmp_path, "trusted", environment(tmp_path / "hub", str(REPO_ROOT)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "src.hf.modeling src.hf.processing 1"
    written = {path.name for path in (tmp_path / "again").iterdir()}
    assert not [name for name in written if name.endswith(".py")], "no code is copied into saved folders"
    assert open_checkpoint(tmp_path / "again").digest() == open_checkpoint(with_stub).digest()


def test_without_the_package_the_stub_says_what_to_install(with_stub: Path, tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules['src'] = None\n"  # it may be installed where the tests run
    command = [sys.executable, "-c", hidden + LOAD, str(with_stub), "trusted", str(tmp_path / "again")]
    environ = environment(tmp_path / "hub")
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode != 0
    assert "ImportError: this checkpoint needs the ALARM package: in a clone" in done.stderr.splitlines()[-1]


def test_the_stub_is_only_for_those_who_ask_for_it(with_stub: Path, checkpoint: Path, tmp_path: Path) -> None:
    untrusted = load(with_stub, tmp_path, "not trusted", environment(tmp_path / "hub", str(REPO_ROOT)))
    assert untrusted.returncode != 0 and "trust_remote_code" in untrusted.stderr
    # with the documented import the registered classes are taken, and the stub is not run
    (with_stub / STUB_FILE).rename(with_stub / "hidden")
    try:
        assert type(AutoModelForCausalLM.from_pretrained(str(with_stub))).__module__ == "src.hf.modeling"
        assert type(AutoProcessor.from_pretrained(str(with_stub))).__module__ == "src.hf.processing"
    finally:
        (with_stub / "hidden").rename(with_stub / STUB_FILE)
    plain = export_transformers(open_checkpoint(checkpoint), tmp_path / "plain")
    assert not list(plain.glob("*.py"))
    assert "auto_map" not in json.loads((plain / "config.json").read_text())
    done = subprocess.run(
        [sys.executable, "scripts/convert_checkpoint.py", "A", "B", "--to", "alarm", "--remote-code-stub"],
        cwd=REPO_ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "--remote-code-stub goes with --to transformers" in done.stderr


SEND_MODEL = """
import sys
from src.hf import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1]).push_to_hub("me/alarm", private=True, max_shard_size="1MB")
"""


def test_the_model_is_sent_to_the_hub(checkpoint: Path) -> None:
    """Libraries keep clients of the Hub for the life of a process, so that the address is set for a new one."""
    with hub_imitation() as hub:
        done = subprocess.run(
            [sys.executable, "-c", SEND_MODEL, str(checkpoint)], cwd=REPO_ROOT, capture_output=True, text=True,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = set(hub.files["me/alarm"])
    assert {"config.json", "alarm_config.json", "model.safetensors.index.json"} <= files, files
    assert hub.private == {"me/alarm": True}
    assert f"me/alarm names folders of this machine: LLM ({checkpoint.parent / 'llm'})" in done.stderr


def test_paths_of_this_machine_are_named(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_published(open_checkpoint(checkpoint), tmp_path / "ours")
    (warning,) = [record.message for record in caplog.records if "folders of this machine" in record.message]
    assert str(checkpoint.parent / "llm") in warning and "encoder" not in warning, "the shipped encoder is everywhere"
    caplog.clear()
    monkeypatch.chdir(REPO_ROOT)
    assert (ASSETS / "mini" / "llm").is_dir()
    for llm in ("assets/mini/llm", "Qwen/Qwen3-4B-Thinking-2507"):
        warn_of_local_sources(model_config("mini_whisper", f"model.llm={llm}"), "here")
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]
