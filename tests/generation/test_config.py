"""Keys and defaults of generation runs, as the published commands give them."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from src.common.config import CONFIG_DIR, compose
from src.common.errors import ConfigError
from src.common.hydra_cli import hydra_cli
from src.common.naming import generated_name
from src.generation.config import DEFAULT_CHECKPOINT, RunConfig, read_run_config
from src.inference.config import LlmSource
from src.inference.load import check_embedder_widths, check_width
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import model_config

FREE_COMMAND = """
dataset.name="yijingwu/HeySQuAD_human" dataset.limit=100 dataset.split="validation" dataset.shuffle=True
cuda_devices="'0,1'" batch_size=8 checkpoint_name='["Blinorot/ALARM-CA","Blinorot/AL-Whisper-Instruct-R"]'
model.max_thinking_tokens=8192 model.max_tokens=16384 push_to_hub=True hf_public=False
hf_repo_name="ALARM-E-HeySQuAD_human" save_audio=True
"""
CHOICE_COMMAND = """
model=alarm_ca checkpoint_name=C cuda_devices="'0'" dataset.name=mmsu dataset.split=null
model.llm="Qwen/Qwen3-4B-Thinking-2507" model.llm_embedding_dim=2560 batch_size=8 seed=null
model.gpu_memory_utilization=0.5 model.max_tokens=16384 model.max_thinking_tokens=8192
"""
PUBLISHED_FILE = """
defaults: [{model: alarm_ca}, _self_]
model: {llm: Qwen/Qwen3-4B-Thinking-2507, llm_embedding_dim: 2560, max_tokens: 8192, max_thinking_tokens: 1024,
  max_model_len: 16384, max_num_seq: 16, max_num_batched_tokens: 16384, gpu_memory_utilization: 0.70}
dataset: {name: mmar, limit: -1, debug_ind: -1, split: null, shuffle: false}
batch_size: 32
checkpoint_name: Blinorot/ALARM-CA
cuda_devices: "0"
seed: null
push_to_hub: false
hf_username: Blinorot
hf_repo_name: mmar
hf_public: false
save_audio: false
"""


def read(command: str) -> RunConfig:
    return read_run_config(compose("generate", shlex.split(command)))


def test_the_published_command_for_free_questions() -> None:
    config = read(FREE_COMMAND)
    assert config.checkpoints == ["Blinorot/ALARM-CA", "Blinorot/AL-Whisper-Instruct-R"]
    assert config.devices == ["0", "1"] and config.batch_size == 8 and config.seed is None
    assert (config.dataset.limit, config.dataset.split, config.dataset.shuffle) == (100, "validation", True)
    assert (config.push_to_hub, config.hf_public, config.save_audio) == (True, False, True)
    assert config.hf_repo_name == "ALARM-E-HeySQuAD_human"
    assert config.output_name() == (
        "yijingwu_HeySQuAD_human_Blinorot_ALARM-CA_Blinorot_AL-Whisper-Instruct-R_16384_8192"
    )


def test_the_published_command_for_multiple_choice() -> None:
    config = read(CHOICE_COMMAND)
    assert config.checkpoints == ["C"] and config.devices == ["0"] and config.dataset.split is None
    assert config.engine.gpu_memory_utilization == 0.5
    assert (config.model.llm, config.model.llm_embedding_dim) == ("Qwen/Qwen3-4B-Thinking-2507", 2560)
    assert config.output_name() == generated_name("mmsu", "C", 16384, 8192) == "mmsu_C_16384_8192"


def test_engine_limits_are_taken_under_their_published_names() -> None:
    config = read("model.max_num_seq=3 model.max_num_batched_tokens=4096 model.max_model_len=2048")
    engine = config.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens, engine.max_model_len) == (3, 4096, 2048)


def test_defaults_without_any_option_are_the_published_ones() -> None:
    ours, published = read(""), yaml.safe_load(PUBLISHED_FILE)
    assert ours.checkpoints == [published["checkpoint_name"]] == [DEFAULT_CHECKPOINT]
    assert ours.dataset.name == published["dataset"]["name"] and ours.dataset.limit is None
    for name in ("batch_size", "seed", "push_to_hub", "hf_public", "save_audio"):
        assert getattr(ours, name) == published[name], name
    for name in ("max_tokens", "max_thinking_tokens", "max_model_len", "max_num_batched_tokens"):
        assert getattr(ours.model, name) == published["model"][name], name


@pytest.mark.parametrize("limit", ["null", "0", "-1"])
def test_all_rows_are_asked_for_in_three_ways(limit: str) -> None:
    assert read(f"dataset.limit={limit} dataset.split=''").dataset.limit is None


@pytest.mark.parametrize("kind", ["none", "description"])
def test_no_checkpoint_is_assumed_where_no_clip_is_encoded(kind: str) -> None:
    config = read(f"audio_input={kind} model.llm=L")
    assert config.checkpoints == [] and config.output_name().startswith("mmar_no_checkpoint_")


def test_a_users_published_configuration_is_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a published generate.yaml has no engine, and names an architecture that the checkpoint knows."""
    (tmp_path / "mine.yaml").write_text(PUBLISHED_FILE)
    for group in ("model", "prompts", "engine"):
        (tmp_path / group).symlink_to(CONFIG_DIR / group)
    monkeypatch.setattr("src.common.hydra_cli.CONFIG_DIR", tmp_path)
    found: list[dict[str, Any]] = []
    for flags in (["--config-name", "mine"], ["-cn", "mine.yaml"], ["--config-name=mine"]):
        monkeypatch.setattr("sys.argv", ["generate_vllm.py", *flags, "seed=1"])
        with pytest.raises(SystemExit) as ended:
            hydra_cli("generate", found.append)  # type: ignore[arg-type]
        assert ended.value.code in (0, None)
    for raw in found:
        config = read_run_config(raw)
        assert config.seed == 1 and config.engine.max_num_seqs == 16 and config.model.llm_embedding_dim == 2560


def test_a_configuration_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["generate_vllm.py", "--config-name", "nothing"])
    with pytest.raises(SystemExit) as ended:
        hydra_cli("generate", lambda raw: 0)
    assert ended.value.code == 2 and "known: ask, generate" in capsys.readouterr().err


def test_the_stated_width_is_compared_with_the_language_model(llm: Path) -> None:
    check_width(None, str(llm))
    check_width(192, str(llm))
    with pytest.raises(ConfigError, match=r"llm_embedding_dim=2560: the embeddings of .*tiny-llm have 192 values"):
        check_width(2560, str(llm))


def test_another_llm_of_another_width_is_refused_before_anything_loads(llm: Path, tmp_path: Path) -> None:
    other = save_tiny_llm(tmp_path / "other", width=32)
    trained = SimpleNamespace(
        name="saved/run", config=model_config("mini_whisper", f"model.llm={llm}").with_width(192)
    )
    for source in (LlmSource(str(llm)), LlmSource(str(save_tiny_llm(tmp_path / "same")))):
        check_embedder_widths([trained], source)  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"'saved/run' was trained for .* 192 wide, .*other takes 32: leave"):
        check_embedder_widths([trained], LlmSource(str(other)))  # type: ignore[list-item]
