"""The programs about checkpoints with the published arguments: adapters as ``.pth``, the upload to a Hub."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from src.common.errors import ConfigError, UserError
from src.model.audio_embedder import build_audio_embedder
from src.model.checkpoints import open_checkpoint, save_checkpoint
from tests.support.hub_server import hub_server
from tests.support.published_checkpoint import RECORDED, WIDTH, by_hand, save_published
from tests.support.tiny_models import mini_audio_embedder, model_config

Program = Callable[..., str]


@pytest.fixture()
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """``program(NAME, argument, …)`` runs an entry file in this process and returns what it printed."""

    def call(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``checkpoint-7`` of the published system with the encoders whisper and muq."""
    torch.manual_seed(3)
    audio_embedder = build_audio_embedder(by_hand(), WIDTH, encoder_weights=False)
    return save_published(tmp_path_factory.mktemp("run") / "checkpoint-7", audio_embedder, RECORDED)


def test_adapters_of_both_forms_as_the_published_command_takes_them(
    program: Program, published: Path, tmp_path: Path
) -> None:
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_w2vbert"), model_config("mini_w2vbert"))
    out = tmp_path / "weights"
    done = program("get_pretrained_adapters", "--whisper", str(published), "--w2vbert", str(ours),
                   "--sslam", str(tmp_path / "nothing"), "--save-dir", str(out))  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["w2vbert.pth", "whisper.pth"]
    assert f"sslam: {tmp_path / 'nothing'} does not exist; skipped" in done
    assert "muq: saved/Qwen3-4B-Thinking-2507/music_muq/checkpoint-25522 does not exist; skipped" in done
    assert f"pretrained_adapters_dir={out} 'pretrained_adapters_names=[whisper,w2vbert]'" in done
    whisper = torch.load(out / "whisper.pth", weights_only=True)
    assert "adapter.encoder.conformer_layers.1.self_attn.in_proj_weight" in whisper and "llm_proj.bias" in whisper
    with pytest.raises(UserError, match="has no adapter of sslam; it has muq, whisper"):
        program("get_pretrained_adapters", "--sslam", str(published), "--save-dir", str(out))
    with pytest.raises(ConfigError, match="not both"):
        program("get_pretrained_adapters", str(ours), "--save-dir", str(out))


def test_the_whole_model_is_sent_as_by_the_published_command(
    program: Program, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    with hub_server() as hub:
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + template[template.index("/{") :])
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        program("upload_model", "--llm", "assets/mini/llm", "--checkpoint", str(published), "--username", "somebody",
                "--repo-name", "AL-Test")  # fmt: skip
        assert hub.uploads.private == {"somebody/AL-Test": True}
        files = hub.uploads.files["somebody/AL-Test"]
        assert {"config.json", "tokenizer.json", "model.safetensors.index.json", "README.md"} <= set(files)
        assert json.loads(files["config.json"]) == RECORDED
        program("upload_model", "--checkpoint", str(published), "--repo-name", "AL-Public", "--public")
        assert hub.uploads.private["me/AL-Public"] is False, "the account that is logged in"
        again = open_checkpoint("somebody/AL-Test")
        assert (
            again.config == open_checkpoint(published).config
            and again.digest() == open_checkpoint(published).digest()
        )
    with pytest.raises(ConfigError, match="not both"):
        program("upload_model", str(published), "a/b", "--username", "c")
