"""Encoder weights: saved and published layouts, and a message that names every tensor that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.model.encoders.base import Encoder
from src.model.encoders.load import load_encoder, save_encoder
from tests.model.test_encoders import MINI, config, mini


def same(left: Encoder, right: Encoder) -> bool:
    states = left.state_dict(), right.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def published(encoder: Encoder, name: str) -> dict[str, Tensor]:
    state = {key: tensor.clone().contiguous() for key, tensor in encoder.state_dict().items()}
    if name == "mini_whisper":
        extra = {"model.decoder.layer_norm.weight": torch.ones(3), "proj_out.weight": torch.ones(3)}
        return {f"model.{key}": tensor for key, tensor in state.items()} | extra
    return {key.removeprefix("encoder."): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("name", MINI)
def test_saved_and_published_files_load(name: str, tmp_path: Path) -> None:
    encoder = mini(name)
    assert same(load_encoder(name, config(name), save_encoder(encoder, tmp_path).parent), encoder)
    (tmp_path / "published").mkdir()
    save_file(published(encoder, name), tmp_path / "published" / "model.safetensors")
    loaded = load_encoder(name, config(name), str(tmp_path / "published"))
    assert same(loaded, encoder) and not loaded.training
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_half_precision_files_are_loaded_in_float32_and_shards_are_joined(tmp_path: Path) -> None:
    encoder = mini("mini_whisper")
    state = {key: tensor.half() for key, tensor in encoder.state_dict().items()}
    keys = sorted(state)
    save_file({key: state[key] for key in keys[:5]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({key: state[key] for key in keys[5:]}, tmp_path / "model-00002-of-00002.safetensors")
    loaded = load_encoder("whisper", config("mini_whisper"), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.parameters())
    torch.testing.assert_close(loaded.encoder.conv1.weight, state["encoder.conv1.weight"].float())


def test_tensors_that_follow_from_the_settings_may_be_missing(tmp_path: Path) -> None:
    for name, missing in (("mini_sslam", "positions"), ("mini_muq", ("inv_freq", "num_batches_tracked"))):
        encoder = mini(name)
        state = {key: tensor.clone() for key, tensor in encoder.state_dict().items() if not key.endswith(missing)}
        assert len(state) < len(encoder.state_dict())
        save_file(state, tmp_path / f"{name}.safetensors")
        assert same(load_encoder(name, config(name), tmp_path / f"{name}.safetensors"), encoder)


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    encoder = mini("mini_whisper")
    state = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    for key in ("encoder.conv1.bias", "encoder.layers.0.fc1.bias"):
        del state[key]
    state["encoder.layers.7.fc1.bias"] = torch.zeros(3)
    state["encoder.conv2.bias"] = torch.zeros(4)
    state["encoder.layer_norm.bias"] = torch.full((96,), float("nan"))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_encoder("whisper", config("mini_whisper"), tmp_path)
    assert str(caught.value).split("WhisperEncoder: ")[1] == (
        "missing: encoder.conv1.bias, encoder.layers.0.fc1.bias; extra: encoder.layers.7.fc1.bias; "
        "misshapen: encoder.conv2.bias is (4,), expected (96,); not finite: encoder.layer_norm.bias"
    )


def test_bad_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("mini_muq")
    with pytest.raises(UserError, match="a/b/c do not exist"):
        load_encoder("muq", settings, "a/b/c")
    with pytest.raises(UserError, match="holds no model.safetensors"):
        load_encoder("muq", settings, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_encoder("muq", settings, tmp_path)

    def offline(repo: str, file: str, revision: str | None, **_: object) -> str:
        raise OSError(f"no connection to fetch {file}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match="owner/name at revision abc cannot be fetched.*no connection"):
        load_encoder("muq", settings, "owner/name", "abc")


def test_hub_shards_are_fetched_by_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    encoder = mini("mini_sslam")
    save_file({key: tensor.clone() for key, tensor in encoder.state_dict().items()}, tmp_path / "part.safetensors")
    index = {"weight_map": {key: "part.safetensors" for key in encoder.state_dict()}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    def fetch(repo: str, file: str, revision: str | None, **_: object) -> str:
        if not (tmp_path / file).is_file():
            raise EntryNotFoundError(f"{file} is not in {repo}")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert same(load_encoder("sslam", config("mini_sslam"), "owner/name"), encoder)
