"""Checkpoints: round trip, where they are found, and one message for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import src.model.audio_embedder
import src.model.checkpoints
from src.common.errors import ConfigError, UserError
from src.model.adapter_files import load_adapters
from src.model.audio_embedder import AudioEmbedder
from src.model.checkpoints import (
    CONFIG_FILE,
    load_audio_embedder,
    open_checkpoint,
    read_config,
    save_checkpoint,
)
from src.model.config import ModelConfig
from src.model.tensor_files import WEIGHTS_FILE
from tests.support.tiny_models import mini_audio_embedder, model_config


@pytest.fixture(autouse=True)
def random_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders of these checkpoints have random weights, always the same ones."""

    def encoder(name: str, spec: object, dtype: torch.dtype) -> object:
        torch.manual_seed(7)
        return src.model.audio_embedder.build_encoder(name, spec).to(dtype)  # type: ignore[arg-type]

    monkeypatch.setattr(src.model.checkpoints, "load_encoder", encoder)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config("mini_alarm_p")


@pytest.fixture
def saved(tmp_path: Path, config: ModelConfig) -> tuple[Path, AudioEmbedder]:
    audio_embedder = mini_audio_embedder("mini_alarm_p")
    return save_checkpoint(tmp_path / "run", audio_embedder, config, {"step": 3}), audio_embedder


def test_round_trip(saved: tuple[Path, AudioEmbedder], config: ModelConfig) -> None:
    folder, audio_embedder = saved
    loaded = load_audio_embedder(folder)
    assert loaded.config == config
    assert not loaded.audio_embedder.training
    expected = audio_embedder.trained_state()
    assert loaded.audio_embedder.trained_state().keys() == expected.keys()
    for name, value in loaded.audio_embedder.trained_state().items():
        assert torch.equal(value, expected[name]), name
    assert sorted(loaded.feature_extractor.configs) == ["muq", "sslam", "w2vbert", "whisper"]


def test_a_checkpoint_is_small_and_names_the_frozen_parts(saved: tuple[Path, AudioEmbedder]) -> None:
    folder, _ = saved
    names = set(load_file(folder / WEIGHTS_FILE))
    assert names and not any(name.startswith("audio_encoder") for name in names)
    content = json.loads((folder / CONFIG_FILE).read_text())
    assert content["extra"] == {"step": 3}
    assert content["model"]["llm"] == "assets/mini/llm"
    assert content["model"]["config"]["encoders"]["muq"]["weights"]["source"] == "assets/mini/encoders/muq"


def test_the_last_checkpoint_of_a_run(saved: tuple[Path, AudioEmbedder], config: ModelConfig, tmp_path: Path) -> None:
    run = tmp_path / "trainer"
    for step in (9, 100, 20):
        save_checkpoint(run / f"checkpoint-{step}", saved[1], config)
    (run / "checkpoint-500").mkdir()  # cut off before anything was written
    assert open_checkpoint(run).folder.name == "checkpoint-100"
    save_checkpoint(run, saved[1], config)
    assert open_checkpoint(run).folder == run


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def unreachable(self: object, name: str, **options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no such folder, and the Hub did not give it \(no route\)"):
        open_checkpoint("somebody/nothing-of-that-name")


def test_missing_folders_and_files(saved: tuple[Path, AudioEmbedder], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"no {CONFIG_FILE}"):
        open_checkpoint(tmp_path / "empty")
    (saved[0] / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS_FILE} is missing"):
        load_audio_embedder(saved[0])


def test_broken_files(saved: tuple[Path, AudioEmbedder]) -> None:
    folder, _ = saved
    (folder / WEIGHTS_FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_audio_embedder(folder)
    (folder / CONFIG_FILE).write_text("{")
    with pytest.raises(UserError, match="checkpoint configuration: .*alarm_config.json cannot be read as JSON"):
        read_config(folder / CONFIG_FILE)


def test_every_misfit_is_named_at_once(saved: tuple[Path, AudioEmbedder]) -> None:
    folder, _ = saved
    state = load_file(folder / WEIGHTS_FILE)
    del state["audio_start_emb"]
    state["stranger"] = torch.zeros(1)
    state["audio_end_emb"] = torch.zeros(1, 3)
    state["audio_adapter.adapters.muq.layer_fusion.layer_weights"] = torch.tensor([float("nan"), 0.0])
    save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(UserError) as caught:
        load_audio_embedder(folder)
    message = str(caught.value)
    assert "does not fit the model config" in message
    for part in ("missing: audio_start_emb", "not expected: stranger", "(1, 3) instead of (1, 192)", "not finite: "):
        assert part in message


def test_adapters_from_other_runs(tmp_path: Path) -> None:
    for name in ("whisper", "muq"):
        single = mini_audio_embedder(f"mini_{name}", seed=hash(name) % 100)
        save_checkpoint(tmp_path / "runs" / name, single, model_config(f"mini_{name}"))
    audio_embedder = mini_audio_embedder("mini_alarm_ca", seed=5)
    load_adapters(audio_embedder, tmp_path / "runs", ["whisper", "muq"])
    for name in ("whisper", "muq"):
        given = load_file(tmp_path / "runs" / name / WEIGHTS_FILE)
        for key, value in given.items():
            if key.startswith("audio_adapter."):
                assert torch.equal(audio_embedder.trained_state()[key], value)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    run = save_checkpoint(tmp_path / "muq", mini_audio_embedder("mini_muq"), model_config("mini_muq"))
    audio_embedder = mini_audio_embedder("mini_alarm_ca")
    with pytest.raises(UserError, match="does not fit the model config: missing: audio_adapter.adapters.whisper"):
        load_adapters(audio_embedder, run, ["whisper"])
    with pytest.raises(ConfigError, match="clap"):
        load_adapters(audio_embedder, run, ["clap"])
    with pytest.raises(ConfigError, match="2 folders for 1"):
        load_adapters(audio_embedder, [run, run], ["muq"])
