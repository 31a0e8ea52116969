"""Encoders of transformers by their source: transformers' own model called on each clip alone is the reference."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers.utils import logging as hf_logging

from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass, compose
from src.common.errors import ConfigError, UserError
from src.model.audio_embedder import AudioEmbedder, EncoderSet, build_audio_embedder, build_feature_extractor
from src.model.checkpoints import load_audio_embedder, save_checkpoint
from src.model.config import ModelConfig
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec
from src.model.encoders.load import fill_encoder, load_encoder, save_encoder
from src.model.published_config import model_config_from_published, published_from_model_config
from src.model.tensor_files import find_tensors
from tests.support import tiny_pretrained as tiny

SAMPLES = (9000, 16000, 24011, 3333, 700)
"""Lengths of the clips of a batch at 16 kHz: shorter than a chunk of one second, as long, and longer."""
KINDS: dict[str, Callable[[Path], Path]] = {
    **{kind: (lambda folder, kind=kind: tiny.save_waveform_model(kind, folder)) for kind in tiny.WAVEFORM_MODELS},
    "ast": tiny.save_ast,
    "clap": lambda folder: tiny.save_clap(folder, fused=False),
    "clap_fused": lambda folder: tiny.save_clap(folder, fused=True),
    "whisper": tiny.save_whisper,
    "w2vbert": tiny.save_w2vbert,
}
FIXED_CHUNKS = ("ast", "clap", "clap_fused")


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, KINDS[request.param](tmp_path_factory.mktemp(request.param))


def settings(kind: str, folder: Path, **more: Any) -> dict[str, Any]:
    seconds = {} if kind in FIXED_CHUNKS else {"chunk_seconds": 1.0}
    return {"encoder_name": "hf", "source": str(folder), **seconds, **more}


def spec_of(kind: str, folder: Path, **more: Any) -> EncoderSpec:
    return bind_dataclass(EncoderSpec, settings(kind, folder, **more), f"encoder {kind}")


def clips(rate: int) -> list[Waveform]:
    generator = torch.Generator().manual_seed(1)
    factor = rate // 16000
    return [Waveform(0.05 + 0.1 * torch.randn(1, factor * count, generator=generator), rate) for count in SAMPLES]


def features(spec: EncoderSpec) -> EncoderFeatures:
    return AudioFeatureExtractor({"it": spec.features})(clips(spec.features.sample_rate))["it"]


@torch.no_grad()
def encode(encoder: Encoder, batch: EncoderFeatures) -> Tensor:
    return encoder(batch.features, batch.mask, range(encoder.num_states))


@torch.no_grad()
def reference(kind: str, folder: Path, spec: EncoderSpec, clip: np.ndarray) -> Tensor:
    """(states, frames, width) of one clip alone by transformers' model and feature extractor, chunk by chunk."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rate = extractor.sampling_rate
    if kind.startswith("clap"):
        tower = transformers.ClapModel.from_pretrained(folder).audio_model.eval()
        parts = [_clap_states(tower, extractor, part, rate) for part in _split(clip, 10 * rate)]
    elif kind == "ast":
        model = transformers.ASTModel.from_pretrained(folder).eval()
        parts = [_ast_states(model, extractor, part) for part in _split(clip, rate)]
    elif kind == "whisper":
        whisper = transformers.WhisperModel.from_pretrained(folder).encoder.eval()
        positions = spec.features.chunk_frames // 2
        whisper.embed_positions = torch.nn.Embedding.from_pretrained(whisper.embed_positions.weight[:positions])
        whisper.config.max_source_positions = positions
        short = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
        parts = [
            _states(whisper, **short(part, sampling_rate=rate, return_tensors="pt")) for part in _split(clip, rate)
        ]
    elif kind == "w2vbert":
        model = transformers.Wav2Vec2BertModel.from_pretrained(folder).eval()
        rows = extractor(np.pad(clip, 160), sampling_rate=rate, return_tensors="pt", pad_to_multiple_of=None)
        values = rows["input_features"][:, : int(rows["attention_mask"].sum())]
        parts = [_states(model, input_features=part) for part in values.split(spec.features.chunk_frames, dim=1)]
    else:
        model = transformers.AutoModel.from_pretrained(folder).eval()
        values = extractor(clip, sampling_rate=rate, return_tensors="pt").input_values[0].numpy()
        shortest = 10 + 5 * (8 + 8 * 3 - 1)
        parts = [
            _states(model, input_values=torch.from_numpy(part)[None])
            for part in _split(values, rate)
            if len(part) >= shortest
        ]
    return torch.cat(parts, dim=1)


def _split(clip: np.ndarray, size: int) -> list[np.ndarray]:
    return [clip[start : start + size] for start in range(0, len(clip), size)]


def _states(model: Any, **inputs: Any) -> Tensor:
    inputs.pop("attention_mask", None)
    out = model(**inputs, output_hidden_states=True)
    return torch.stack([*out.hidden_states[:-1], out.last_hidden_state])[:, 0]


def _ast_states(model: Any, extractor: Any, part: np.ndarray) -> Tensor:
    states = _states(model, **extractor(np.pad(part, (0, max(0, 400 - len(part)))), sampling_rate=16000,
                                        return_tensors="pt"))  # fmt: skip
    steps, bands = 16, 5  # of 100 frames and 32 bins: patches of 8 in steps of 6; transformers has bands first
    return torch.stack([states[:, 2 + band * steps + step] for step in range(steps) for band in range(bands)], dim=1)


def _clap_states(tower: Any, extractor: Any, part: np.ndarray, rate: int) -> Tensor:
    values = extractor(part, sampling_rate=rate, return_tensors="pt")["input_features"].float()
    out = tower(values, is_longer=torch.zeros(1, 1, dtype=torch.bool), output_hidden_states=True)
    bands, steps = out.last_hidden_state.shape[2:]
    last = torch.stack([out.last_hidden_state[0, :, b, s] for s in range(steps) for b in range(bands)])
    image = out.hidden_states[-2][0]  # rows of the folded spectrogram: four stretches of time, two bands each
    stretch, columns = image.shape[1] // bands, image.shape[2]
    first = torch.stack(
        [image[:, s // columns * bands + b, s % columns] for s in range(stretch * columns) for b in range(bands)]
    )
    return torch.stack([first, last])


def test_every_clip_of_a_batch_equals_transformers_on_the_clip_alone(saved: tuple[str, Path]) -> None:
    kind, folder = saved
    spec = spec_of(kind, folder)
    encoder = load_encoder(kind, spec)
    batch = features(spec)
    states = encode(encoder, batch)
    lengths = encoder.calc_length(batch.lengths)
    for index, clip in enumerate(clips(spec.features.sample_rate)):
        expected = reference(kind, folder, spec, clip.mono.numpy())
        length = int(lengths[index])
        assert length == encoder.calc_length(int(batch.lengths[index]))
        padded = kind in FIXED_CHUNKS or kind == "whisper"  # their chunks are full, whatever is in them
        assert length <= expected.shape[1] if padded else length == expected.shape[1]
        torch.testing.assert_close(states[:, index, :length], expected[:, :length], atol=5e-5, rtol=1e-4)


def test_default_settings_are_those_of_the_source(saved: tuple[str, Path]) -> None:
    kind, folder = saved
    spec = bind_dataclass(EncoderSpec, {"encoder_name": "hf", "source": str(folder)}, "encoder")
    seconds = {"ast": 1.0, "clap": 10.01, "clap_fused": 10.01}.get(kind, 30.0)
    per_second = {"whisper": 100, "w2vbert": 50, "ast": 100, "clap": 100, "clap_fused": 100}.get(kind, 16000)
    assert spec.features.chunk_frames == round(seconds * per_second)
    assert spec.features.sample_rate == (48000 if kind.startswith("clap") else 16000)
    encoder = load_encoder(kind, spec)
    assert all(0 < layer < encoder.num_states for layer in spec.layers)
    assert encoder.width == spec.bound_architecture().width == (64 if kind.startswith("clap") else 32)
    assert encoder.num_states == spec.bound_architecture().num_layers + 1


@pytest.mark.parametrize("shown", [True, False])
def test_loading_leaves_progress_bars_as_they_were(
    shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stayed off for the rest of the program, the language model's included."""
    monkeypatch.setattr(hf_logging, "_tqdm_active", shown)
    load_encoder("hubert", spec_of("hubert", KINDS["hubert"](tmp_path)))
    assert hf_logging.is_progress_bar_enabled() is shown


def test_settings_in_a_checkpoint_need_no_source(saved: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = saved
    spec = spec_of(kind, folder)
    stored = {**spec.as_dict(), "weights": {"source": "nobody/nothing"}}
    again = bind_dataclass(EncoderSpec, stored, "encoder")
    assert (again.features, again.layers) == (spec.features, spec.layers)
    encoder = load_encoder(kind, spec)
    save_encoder(encoder, tmp_path)
    filled = fill_encoder(kind, again, find_tensors("encoder", str(tmp_path)))
    batch = features(spec)
    assert torch.equal(encode(filled, batch), encode(encoder, batch))


def test_bfloat16_on_the_cpu_stays_close(saved: tuple[str, Path]) -> None:
    kind, folder = saved
    spec = spec_of(kind, folder)
    encoder, half = load_encoder(kind, spec), load_encoder(kind, spec, dtype=torch.bfloat16)
    batch = features(spec)
    exact, rough = encode(encoder, batch), encode(half, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encode(encoder, batch)
    for index, length in enumerate(encoder.calc_length(batch.lengths).tolist()):
        own = exact[:, index, :length]
        for values in (rough, mixed):
            assert (values[:, index, :length].float() - own).abs().mean() < 0.05 * own.abs().mean()


def test_encoders_stay_frozen_and_no_layer_beyond_the_deepest_runs(saved: tuple[str, Path]) -> None:
    kind, folder = saved
    spec = spec_of(kind, folder)
    encoder = load_encoder(kind, spec)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    batch = features(spec)
    expected = encode(encoder, batch)
    frozen = EncoderSet({"it": encoder}).train()
    states, lengths = frozen({"it": batch}, {"it": tuple(range(encoder.num_states))})
    assert not encoder.training and not any(value.requires_grad for value in encoder.parameters())
    assert torch.equal(states["it"], expected) and states["it"].grad_fn is None
    assert torch.equal(lengths["it"], encoder.calc_length(batch.lengths))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    ran: list[int] = []
    stack = getattr(encoder, "layer_stack", None) or encoder.encoder.get_submodule(
        {"whisper": "layers", "w2vbert": "encoder.layers"}[kind]
    )
    for index, layer in enumerate(stack):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        first = encoder(batch.features, batch.mask, (0,))
    assert ran == [] and torch.equal(first[0], expected[0])


@pytest.mark.parametrize("kind", ["hubert", "wavlm_large"])
def test_normalisation_is_the_feature_extractors(kind: str, tmp_path: Path) -> None:
    plain = spec_of(kind, tiny.save_waveform_model(kind, tmp_path, do_normalize=False))
    batch = features(plain)
    for index, clip in enumerate(clips(16000)):
        count = clip.mono.shape[-1]
        assert torch.equal(batch.features[index, :count], clip.mono) and not batch.features[index, count:].any()


def test_weights_of_other_frameworks_versions_and_missing_ones(tmp_path: Path) -> None:
    folder = tiny.save_waveform_model("hubert_large", tmp_path / "model")
    weights = transformers.HubertModel.from_pretrained(folder).state_dict()
    torch.save(
        {  # as the published file: PyTorch's format, weight norm under its older names
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for name, value in weights.items()
        },
        folder / "pytorch_model.bin",
    )
    expected = load_encoder("hubert", spec_of("hubert", folder)).state_dict()
    (folder / "model.safetensors").unlink()
    older = load_encoder("hubert", spec_of("hubert", folder)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in older.items())
    del weights["encoder.layers.1.final_layer_norm.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks 1 tensors of a hubert: encoder\.layers\.1\.final_layer_norm\.bias"):
        load_encoder("hubert", spec_of("hubert", folder))
    weights["encoder.layers.1.final_layer_norm.bias"] = torch.full((32,), float("nan"))
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="not finite"):
        load_encoder("hubert", spec_of("hubert", folder))


def test_wrong_settings_end_in_one_message(tmp_path: Path) -> None:
    hubert = tiny.save_waveform_model("hubert", tmp_path / "hubert")
    clap = tiny.save_clap(tmp_path / "clap", fused=False)
    whisper = tiny.save_whisper(tmp_path / "whisper", positions=200)
    bert = tmp_path / "bert"
    transformers.BertConfig().save_pretrained(bert)
    (tmp_path / "nothing").mkdir()
    for given, message in (
        ({}, r"encoder x\.source: missing, give the encoder's folder or Hub id"),
        ({"source": str(tmp_path / "nothing")}, r"nothing has no config\.json with a model_type"),
        ({"source": str(bert)}, "is a bert, not an audio encoder that is known; known: wav2vec2, hubert"),
        ({"source": str(hubert), "chunk_second": 3}, r"x\.chunk_second: unknown key; did you mean 'chunk_seconds'"),
        ({"source": str(hubert), "chunk_seconds": -1}, "got -1, expected a number of seconds above 0"),
        ({"source": str(clap), "chunk_seconds": 5}, "chunks of the one length that its positions are for"),
        ({"source": str(whisper), "chunk_seconds": 9}, r"chunk_seconds: got 900 frames of 10 ms.* up to 400 \(4 s\)"),
    ):
        with pytest.raises((ConfigError, UserError), match=message):
            bind_dataclass(EncoderSpec, {"encoder_name": "hf", **given}, "encoder x")
    (hubert / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json, which gives sampling rate"):
        spec_of("hubert", hubert)


def embedder(folder: Path, *overrides: str) -> tuple[ModelConfig, AudioEmbedder]:
    """``model=hf_encoder`` with narrow adapters."""
    small = "config.audio_adapter_config.audio.adapter_embedding_dim=16"
    given = compose(
        "model/hf_encoder", [f"model.config.encoders.audio.source={folder}", f"model.{small}", *overrides]
    )
    config = bind_dataclass(ModelConfig, {**given["model"], "llm_embedding_dim": 24}, "model")
    torch.manual_seed(0)
    return config, build_audio_embedder(config.config, 24).eval()


@pytest.mark.parametrize(
    ("kind", "per_second"), [("hubert", 25.0), ("ast", 20.0), ("clap", 6.4), ("whisper", 25.0), ("w2vbert", 25.0)]
)
def test_adapters_give_about_25_embeddings_a_second(
    kind: str, per_second: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        config, built = embedder(KINDS[kind](tmp_path))
    rate = config.config.encoders["audio"].features.sample_rate
    clip = Waveform(0.1 * torch.randn(1, 20 * rate), rate)
    with torch.no_grad():
        frames = built(build_feature_extractor(config.config)([clip]))[0]
    assert frames.shape == (pytest.approx(20 * per_second, rel=0.01), 24)
    assert f"{per_second:.1f} embeddings" in caplog.text
    assert ("do not raise its rate to 25 a second" in caplog.text) == (kind == "clap")


def test_a_reloaded_checkpoint_gives_equal_embeddings(tmp_path: Path) -> None:
    folder = KINDS["wavlm_large"](tmp_path / "wavlm")
    config, built = embedder(folder)
    clip = clips(16000)
    with torch.no_grad():
        expected = built(build_feature_extractor(config.config)(clip))
    ours = save_checkpoint(tmp_path / "ours", built, config)
    again = load_audio_embedder(ours)
    with torch.no_grad():
        given = again.audio_embedder(again.feature_extractor(clip))
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    stored = json.loads((ours / "alarm_config.json").read_text())["model"]["config"]["encoders"]["audio"]
    assert stored["architecture"]["config"]["model_type"] == "wavlm" and stored["encoder_name"] == "hf"


def test_the_published_list_names_an_encoder_by_its_source(tmp_path: Path) -> None:
    folder = KINDS["hubert"](tmp_path)
    adapter = {"encoder_name": "hf", "adapter_name": "mlp", "adapter_embedding_dim": 16, "hidden_dim": 16}
    layers = {"audio_encoder_layers": [1, 3], "layer_fusion_config": {"layer_fusion_type": "weighted_average"}}
    config = model_config_from_published(
        {
            "llm": "some/llm",
            "llm_embedding_dim": 24,
            "config": {
                "audio_encoder_configs": [{"encoder_name": "hf", "source": str(folder), "chunk_seconds": 2}],
                "audio_adapter_configs": [{**adapter, **layers}],
                "audio_fusion_config": {"fusion_type": "sum"},
            },
        },
        "model",
    )
    spec = config.config.encoders["hf"]
    assert (spec.module_name, spec.features.chunk_frames, config.config.layers("hf")) == ("hf", 32000, (1, 3))
    with pytest.raises(ConfigError, match="the published code has no hf"):
        published_from_model_config(config)


def test_a_whisper_by_its_source_can_be_written_in_the_published_form(tmp_path: Path) -> None:
    config, _ = embedder(KINDS["whisper"](tmp_path), "model.config.encoders.audio.chunk_seconds=4")
    again = model_config_from_published(published_from_model_config(config), "model")
    assert again.config.encoders == config.config.encoders
