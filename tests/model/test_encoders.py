"""Encoders: recorded numbers, published names, independence of the batch, only the requested layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from src.common.config import CONFIG_DIR
from src.common.errors import ConfigError, UserError
from src.model.encoders.base import Encoder, split_chunks
from src.model.encoders.config import encoder_spec
from src.model.encoders.load import build_encoder
from src.model.encoders.muq import rotary_table
from src.model.encoders.whisper import WhisperEncoder
from tests.support.golden_encoders import check_encoders
from tests.support.golden_rules import goldens_dir

KINDS = ("whisper", "w2vbert", "sslam", "muq")
MINI = tuple(f"mini_{kind}" for kind in KINDS)
STATE_DICTS = {"whisper": "whisper_batch"}


def config(name: str) -> dict[str, Any]:
    text = (CONFIG_DIR / "model" / "encoder" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def mini(name: str) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, config(name)).eval()


def features(name: str, seconds: tuple[float, ...]) -> EncoderFeatures:
    generator = torch.Generator().manual_seed(1)
    clips = [Waveform(0.1 * torch.randn(1, round(24000 * s), generator=generator), 24000) for s in seconds]
    return AudioFeatureExtractor({name: encoder_spec(name, config(name)).features})(clips)[name]


@torch.no_grad()
def encode(encoder: Encoder, batch: EncoderFeatures, layers: tuple[int, ...]) -> Tensor:
    return encoder(batch.features, batch.mask, layers)


@pytest.mark.slow
def test_recorded_cases() -> None:
    results = list(check_encoders(goldens_dir()))
    assert len(results) == 11 * 2 + 2 + 4
    assert all(result.passed for result in results), [result.line() for result in results if not result.passed]


@pytest.mark.parametrize("kind", KINDS)
def test_full_size_has_the_published_names_and_shapes(kind: str) -> None:
    path = goldens_dir().parent / f"state_dict_{STATE_DICTS.get(kind, kind)}.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
    prefix = f"model.audio_encoder.encoders.{kind}."
    published = {name.removeprefix(prefix): entry[0] for name, entry in entries.items() if name.startswith(prefix)}
    with torch.device("meta"):
        encoder = build_encoder(kind, config(kind))
    assert {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()} == published


@pytest.mark.parametrize("name", (*KINDS, *MINI))
def test_configured_layers_exist_and_full_size_settings_are_the_published_ones(name: str) -> None:
    spec = encoder_spec(name, config(name))
    with torch.device("meta"):
        encoder = build_encoder(name, spec)
    assert spec.module_name in name
    assert all(0 <= layer < encoder.num_states for layer in spec.layers)
    published = {"whisper": (33, 1280, 3000), "w2vbert": (25, 1024, 1500), "sslam": (12, 768, 1024)}
    published["muq"] = (13, 1024, 720000)
    if name in published:
        assert (encoder.num_states, encoder.width, encoder.chunk_frames) == published[name]


@pytest.mark.parametrize("name", MINI)
def test_miniatures_are_small_and_have_the_real_rates(name: str) -> None:
    encoder, batch = mini(name), features(name, (3.0,))
    assert sum(parameter.numel() for parameter in encoder.parameters()) <= 500_000
    frames = 75 if name == "mini_muq" else 150
    assert encoder.calc_length(batch.lengths).tolist() == [frames]
    states = encode(encoder, batch, (0, encoder.num_states - 1))
    assert states.shape[0] == 2 and states.shape[3] == encoder.width
    assert states.shape[2] >= frames
    assert torch.isfinite(states).all()


@pytest.mark.parametrize("name", MINI)
def test_a_batch_equals_its_items_one_by_one(name: str) -> None:
    encoder = mini(name)
    layers = tuple(range(encoder.num_states))
    seconds = (1.3, 9.1, 0.01, 4.0)
    batch = features(name, seconds)
    together = encode(encoder, batch, layers)
    for index in range(len(seconds)):
        length = int(batch.lengths[index])
        own = batch.features.shape[1] if encoder.pads_chunks else length
        own = -(-length // encoder.chunk_frames) * encoder.chunk_frames if encoder.pads_chunks else own
        alone = EncoderFeatures(
            batch.features[index : index + 1, :own],
            batch.mask[index : index + 1, :own],
            batch.lengths[index : index + 1],
        )
        frames = int(encoder.calc_length(alone.lengths))
        expected = encode(encoder, alone, layers)[:, 0, :frames]
        torch.testing.assert_close(together[:, index, :frames], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", MINI)
def test_chunks_are_independent_and_padding_chunks_are_skipped(name: str) -> None:
    encoder = mini(name)
    batch = features(name, (3.9, 11.0))
    states = encode(encoder, batch, (encoder.num_states - 1,))[0]
    per_chunk = states.shape[1] * encoder.chunk_frames // batch.features.shape[1]
    assert not states[0, per_chunk:].any()
    assert states[0, : per_chunk - 10].any()
    second = slice(encoder.chunk_frames, 2 * encoder.chunk_frames)
    alone = EncoderFeatures(batch.features[1:, second], batch.mask[1:, second], batch.lengths[1:])
    expected = encode(encoder, alone, (encoder.num_states - 1,))[0, 0]
    torch.testing.assert_close(states[1, per_chunk : 2 * per_chunk], expected[:per_chunk], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", MINI)
def test_no_layer_beyond_the_deepest_requested_is_computed(name: str) -> None:
    encoder, batch = mini(name), features(name, (1.0,))
    stack = {
        "mini_whisper": lambda: encoder.encoder.layers,
        "mini_w2vbert": lambda: encoder.encoder.encoder.layers,
        "mini_sslam": lambda: encoder.encoder.model.blocks,
        "mini_muq": lambda: encoder.encoder.model.conformer.layers,
    }[name]()
    calls = [0] * len(stack)
    for index, layer in enumerate(stack):
        layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    encode(encoder, batch, (0,))
    assert calls == ([1, 0] if name == "mini_sslam" else [0, 0])


def test_states_come_in_the_order_asked_and_wrong_ones_are_named() -> None:
    encoder, batch = mini("mini_whisper"), features("mini_whisper", (1.0,))
    ascending, mixed = encode(encoder, batch, (0, 1, 2)), encode(encoder, batch, (2, 0, 2))
    assert torch.equal(mixed, ascending[[2, 0, 2]])
    for layers in ((3,), (-1,), ()):
        with pytest.raises(UserError, match="expected indices 0 to 2"):
            encode(encoder, batch, layers)


def test_masked_rows_do_not_reach_valid_ones() -> None:
    encoder, batch = mini("mini_w2vbert"), features("mini_w2vbert", (2.0,))
    mask = batch.mask.clone()
    mask[:, 60:] = 0
    changed = batch.features.clone()
    changed[:, 60:] += 1.0
    with torch.no_grad():
        before, after = (encoder(values, mask, (2,))[:, :, :60] for values in (batch.features, changed))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MINI)
def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    encoder, batch = mini(name).train(), features(name, (3.0, 2.0))
    encoder(batch.features, batch.mask, (encoder.num_states - 1,)).square().mean().backward()
    without = {
        key for key, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None
    }
    assert without <= {"encoder.masked_spec_embed"}


@pytest.mark.parametrize("name", MINI)
def test_bfloat16_autocast_stays_close(name: str) -> None:
    encoder, batch = mini(name), features(name, (2.0,))
    layers = (encoder.num_states - 1,)
    exact = encode(encoder, batch, layers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encode(encoder, batch, layers)
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean().clamp_min(1.0)


def test_a_ready_backbone_is_accepted() -> None:
    built = mini("mini_whisper")
    again = WhisperEncoder(built.encoder, built.chunk_frames).eval()
    batch = features("mini_whisper", (1.0,))
    assert torch.equal(encode(again, batch, (2,)), encode(built, batch, (2,)))


def test_rotary_table_is_the_backbones_own() -> None:
    conformer = mini("mini_muq").encoder.model.conformer
    hidden = torch.zeros(1, 17, 96)
    own = rotary_table(conformer.embed_positions.inv_freq, hidden)
    torch.testing.assert_close(own, conformer.embed_positions(hidden))


def test_split_chunks_pads_the_last() -> None:
    chunks = split_chunks(torch.arange(10).view(2, 5), 3)
    assert chunks.tolist() == [[0, 1, 2], [3, 4, 0], [5, 6, 7], [8, 9, 0]]


def test_wrong_settings_are_all_named() -> None:
    wrong = config("mini_muq")
    wrong["architecture"] |= {"widht": 3, "num_heads": "two"}
    with pytest.raises(ConfigError, match=r"widht.*did you mean 'width'.*num_heads"):
        build_encoder("muq", wrong)


def test_yaml_files_are_the_eight_encoders_and_one_for_any_other() -> None:
    files = {path.stem for path in Path(CONFIG_DIR / "model" / "encoder").glob("*.yaml")}
    assert files == {*KINDS, *MINI, "hf"}
