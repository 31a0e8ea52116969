"""Properties of the audio embedder: batch independence, frozen parts, lengths, initial values, configuration."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from src.audio.features import EncoderFeatures
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError
from src.model.adapter import WeightedAverage
from src.model.audio_embedder import AudioEmbedder, build_feature_extractor
from src.model.config import STD, AudioEmbedderConfig, LayerFusionConfig, ModelConfig
from tests.support.golden_rules import goldens_dir
from tests.support.tiny_models import (
    FULL_MODELS,
    MINI_MODELS,
    StandInEncoder,
    mini_audio_embedder,
    model_config,
    stand_in_features,
)

NAMES = ("muq", "sslam", "w2vbert", "whisper")
WIDTH, LLM = 12, 16
ENCODER = {
    "features": {"kind": "whisper", "sample_rate": 16000, "chunk_frames": 400},
    "architecture": {"width": 8, "num_layers": 1, "num_heads": 1, "ffn_dim": 8},
    "layers": [0, 2],
    "weights": {"source": "none"},
}
CONFORMER = {"use_conformer": True, "conformer_heads": 2, "conf_linear_dims": 16, "n_conf_layers": 2}
RESAMPLER = {
    "num_latents": 3,
    "num_latent_channels": 8,
    "num_cross_attention_heads": 2,
    "num_self_attention_heads": 2,
}
CONDITIONED = {"main_encoder": "whisper", "conditional_encoders": ["w2vbert", "muq", "sslam"]}
FUSIONS: dict[str, dict[str, Any]] = {
    "sum": {"fusion_type": "sum"},
    "crossattention": {
        "fusion_type": "crossattention",
        "hidden_dim": 8,
        "ffn_dims": 16,
        "num_attention_heads": 2,
        **CONDITIONED,
    },
    "perceiver": {"fusion_type": "perceiver", **RESAMPLER, **CONDITIONED},
    "multiperceiver": {"fusion_type": "multiperceiver", **RESAMPLER, **CONDITIONED},
}
BODIES: dict[str, dict[str, Any]] = {
    "batch": {"norm_type": "batch", "use_conformer": False},
    "layer_depth_2": {"norm_type": "layer", "downsampler_depth": 2, "use_conformer": False},
    "layer_depth_3": {"norm_type": "layer", "downsampler_depth": 3, "use_conformer": False},
    "conformer": {"norm_type": "batch", **CONFORMER},
    "conformer_first": {"norm_type": "layer", "conf_conv_first": True, **CONFORMER},
    "conformer_only": {"use_downsampler": False, **CONFORMER},
    "untrimmed": {"norm_type": "batch", "use_conformer": False, "trim_extra_padding": False},
    "per_layer": {"norm_type": "batch", "use_conformer": False, "pre_average": False},
}


def adapter(**options: Any) -> dict[str, Any]:
    return {"adapter_name": "downsampler_conformer", "adapter_embedding_dim": 8, **options}


def build(fusion: str, body: str = "batch", **settings: Any) -> AudioEmbedder:
    config = {
        "encoders": {name: ENCODER for name in NAMES},
        "audio_adapter_config": {name: adapter(**BODIES[body]) for name in NAMES},
        "audio_fusion_config": FUSIONS[fusion],
        **settings,
    }
    torch.manual_seed(0)
    bound = bind_dataclass(AudioEmbedderConfig, config, "test")
    audio_embedder = AudioEmbedder(bound, LLM, {name: StandInEncoder(WIDTH) for name in NAMES})
    _stir(audio_embedder)
    return audio_embedder.eval().double()  # so that rounding is far below any real difference


def _stir(audio_embedder: AudioEmbedder) -> None:
    """Larger weights than fresh ones, so that differences show, and used batch-norm statistics."""
    for name, value in audio_embedder.trained_state().items():
        if name.endswith("running_mean"):
            value.normal_()
        elif value.is_floating_point() and value.dim() > 1:
            value.mul_(10)


def batch(lengths: dict[str, list[int]]) -> dict[str, EncoderFeatures]:
    return {name: stand_in_features(given, WIDTH, seed) for seed, (name, given) in enumerate(lengths.items())}


def row(features: dict[str, EncoderFeatures], index: int) -> dict[str, EncoderFeatures]:
    """One item as it would come alone: cut to its own length."""
    alone = {}
    for name, given in features.items():
        own = slice(0, max(1, int(given.lengths[index])))
        alone[name] = EncoderFeatures(
            given.features[index : index + 1, own],
            given.mask[index : index + 1, own],
            given.lengths[index : index + 1],
        )
    return alone


LENGTHS = {
    "whisper": [37, 20, 9, 1, 0, 6],
    "w2vbert": [36, 21, 9, 2, 0, 7],
    "sslam": [37, 19, 8, 3, 0, 40],
    "muq": [38, 20, 10, 0, 1, 5],
}


@pytest.mark.parametrize("fusion", list(FUSIONS))
@pytest.mark.parametrize("body", list(BODIES))
@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch(fusion: str, body: str) -> None:
    audio_embedder = build(fusion, body)
    features = batch(LENGTHS)
    together = audio_embedder(features)
    for index, item in enumerate(together):
        alone = audio_embedder(row(features, index))[0]
        assert item.shape == alone.shape
        assert item.isfinite().all()
        torch.testing.assert_close(item, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("body", ["batch", "conformer"])
def test_padding_changes_nothing_in_train_mode_either(body: str) -> None:
    """Batch norm shares statistics over the batch, but how far the batch is padded must not count."""
    lengths = {name: [30, 20] for name in NAMES}
    results = []
    for extra in (0, 17):
        audio_embedder = build(
            "sum",
            body,
            audio_adapter_config={
                name: adapter(
                    **BODIES[body], **({} if body == "batch" else {"conf_dropout": 0.0}), trim_extra_padding=False
                )
                for name in NAMES
            },
        ).train()
        features = batch(lengths)
        if extra:
            features = {
                name: EncoderFeatures(
                    torch.nn.functional.pad(given.features, (0, 0, 0, extra), value=3.0),
                    torch.nn.functional.pad(given.mask, (0, extra)),
                    given.lengths,
                )
                for name, given in features.items()
            }
        results.append((audio_embedder(features), {k: v.clone() for k, v in audio_embedder.trained_state().items()}))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], msg=name)


def test_published_padding_lets_a_short_item_see_its_batch() -> None:
    audio_embedder = build("crossattention", mask_padding=False)
    features = batch({name: [37, 20] for name in NAMES})
    with torch.no_grad():
        difference = (audio_embedder(features)[1] - audio_embedder(row(features, 1))[0]).abs().max()
    assert difference > 1e-3


@pytest.mark.parametrize("fusion", list(FUSIONS))
@torch.no_grad()
def test_lengths_are_those_of_the_main_stream_and_latents(fusion: str) -> None:
    sizes = [len(item) for item in build(fusion)(batch(LENGTHS))]
    halves = {name: [n // 2 for n in given] for name, given in LENGTHS.items()}
    main = halves["whisper"]
    latents = {"perceiver": 3 + 2, "multiperceiver": 9 + 2}.get(fusion, 0)
    longest = [max(given[i] for given in halves.values()) for i in range(len(main))]
    expected = longest if fusion == "sum" else [n + latents for n in main]
    assert sizes == [max(1, n) for n in expected]


@pytest.mark.parametrize("name", MINI_MODELS)
@torch.no_grad()
def test_miniature_models_on_sound(name: str) -> None:
    audio_embedder = mini_audio_embedder(name)
    extractor = build_feature_extractor(audio_embedder.config)
    clips = [Waveform(torch.randn(1, int(24000 * s)) * 0.1, 24000) for s in (3.0, 1.37, 0.005, 4.4)]
    together = audio_embedder(extractor(clips))
    for clip, item in zip(clips, together, strict=True):
        alone = audio_embedder(extractor([clip]))[0]
        assert item.shape == alone.shape and item.shape[1] == 192
        torch.testing.assert_close(item, alone, rtol=0, atol=2e-4)
    extra = 3 * 16 + 2 if name == "mini_alarm_p" else 0
    assert [len(item) - extra for item in together][:2] == [75, 34]


def test_frozen_parts_get_no_gradient_and_keep_still() -> None:
    audio_embedder = build("crossattention")
    audio_embedder.freeze_adapters(["whisper", "muq"])
    before = copy.deepcopy(audio_embedder.trained_state())
    audio_embedder.train()
    assert not audio_embedder.audio_encoder.training
    assert audio_embedder.audio_adapter.adapters["w2vbert"].training
    sum(item.square().sum() for item in audio_embedder(batch(LENGTHS))).backward()
    for name, parameter in audio_embedder.named_parameters():
        frozen = any(part in name for part in ("adapters.whisper", "adapters.muq", "audio_encoder"))
        separators = "_emb" in name  # not part of the audio embedder's own output
        assert (parameter.grad is None) == (frozen or separators), name
    after = audio_embedder.trained_state()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and all("w2vbert" in name or "sslam" in name for name in moved)


def test_frozen_adapters_drift_on_request() -> None:
    audio_embedder = build("sum", frozen_adapters_drift=True)
    audio_embedder.freeze_adapters()
    audio_embedder.train()
    before = copy.deepcopy(audio_embedder.trained_state())
    audio_embedder(batch(LENGTHS))
    after = audio_embedder.trained_state()
    assert any("running_mean" in name and not torch.equal(after[name], before[name]) for name in after)


def test_a_frozen_fusion_passes_gradients_on() -> None:
    audio_embedder = build("multiperceiver")
    audio_embedder.freeze_fusion()
    audio_embedder.train()
    assert not audio_embedder.audio_fusion.training
    sum(item.square().sum() for item in audio_embedder(batch(LENGTHS))).backward()
    assert all(p.grad is None for p in audio_embedder.audio_fusion.parameters())
    assert all(p.grad is not None for p in audio_embedder.audio_adapter.parameters())


@pytest.mark.parametrize("name", ["mini_alarm_ca", "mini_alarm_p"])
@torch.no_grad()
def test_half_precision(name: str) -> None:
    audio_embedder = mini_audio_embedder(name)
    features = build_feature_extractor(audio_embedder.config)([Waveform(torch.randn(1, 48000) * 0.1, 24000)])
    expected = audio_embedder(features)[0]
    for part in (audio_embedder.audio_adapter, audio_embedder.audio_fusion):
        part.to(torch.bfloat16)
    item = audio_embedder(features)[0]
    assert item.dtype == torch.bfloat16
    assert (item.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_freezing_an_unknown_adapter_is_an_error() -> None:
    with pytest.raises(ConfigError, match="wisper"):
        build("sum").freeze_adapters(["wisper"])


def test_missing_features_are_named() -> None:
    features = batch(LENGTHS)
    del features["muq"]
    with pytest.raises(UserError, match="muq"):
        build("sum")(features)


def test_initial_values() -> None:
    torch.manual_seed(0)
    state = AudioEmbedder(
        model_config("mini_alarm_ca").config, 192, {n: StandInEncoder(96) for n in NAMES}
    ).trained_state()
    state |= {
        f"p.{name}": value
        for name, value in AudioEmbedder(
            model_config("mini_alarm_p").config, 192, {n: StandInEncoder(96) for n in NAMES}
        )
        .trained_state()
        .items()
    }
    assert {name for name in state if name.endswith("_emb")}
    for name, value in state.items():
        if name.endswith(("layer_weights", "bias", "running_mean")):
            assert value.abs().max() == 0, name
        elif name.endswith("_emb"):
            assert 0.8 < value.std() < 1.2, name
        elif "in_proj_weight" in name:
            bound = (6 / (value.shape[0] + value.shape[1])) ** 0.5
            assert 0.9 * bound < value.abs().max() <= bound, name
        elif value.dim() == 1:
            assert (value == 1).all(), name
        elif value.dim() > 1:
            assert 0.75 * STD < value.std() < 1.25 * STD, name
    single = AudioEmbedder(model_config("mini_whisper").config, 192, {"whisper": StandInEncoder(96)}).trained_state()
    weight = single["audio_adapter.adapters.whisper.llm_proj.weight"]
    assert 0.09 < weight.std() < 0.11, "its configuration asks for init_std 0.1"


@pytest.mark.parametrize("name", FULL_MODELS)
def test_full_size_names_and_shapes(name: str) -> None:
    """The trainable part has exactly the published tensors."""
    entries = json.loads((goldens_dir().parent / f"state_dict_{name}.json").read_text())["entries"]
    expected = {
        key.removeprefix("model."): tuple(shape)
        for key, (shape, _) in entries.items()
        if key.startswith(
            ("model.audio_adapter.", "model.audio_fusion.", "model.audio_start_emb", "model.audio_end_emb")
        )
    }
    widths = {"whisper": 1280, "w2vbert": 1024, "sslam": 768, "muq": 1024}
    config = model_config(name)
    encoders = {encoder: StandInEncoder(widths[encoder]) for encoder in config.config.encoders}
    assert config.llm_embedding_dim is not None
    with torch.device("meta"):
        audio_embedder = AudioEmbedder(config.config, config.llm_embedding_dim, encoders)
    assert {key: tuple(value.shape) for key, value in audio_embedder.trained_state().items()} == expected


@pytest.mark.parametrize("name", [*FULL_MODELS, *MINI_MODELS])
def test_model_configs_bind_and_come_back(name: str) -> None:
    config = model_config(name)
    assert bind_dataclass(ModelConfig, json.loads(json.dumps(config.as_dict())), "model") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.config.audio_fusion_config.fusion_type=concat",
            "known: crossattention, multiperceiver, perceiver, sum",
        ),
        ("model.config.audio_fusion_config.main_encoder=clap", "clap"),
        ("+model.config.audio_fusion_config.num_latents=3", "num_latents has no effect"),
        ("model.config.audio_fusion_config.num_hidden_layers=[1]", "num_hidden_layers has 1 values"),
        ("+model.config.audio_adapter_config.muq.norm_type=batch", "norm_type has no effect"),
        ("model.config.audio_adapter_config.muq.hidden_dim=7", "hidden_dim 7"),
        ("+model.config.audio_adapter_config.whisper.dept=2", "dept"),
        ("+model.config.audio_adapter_config.clap={adapter_name: identity}", "clap"),
    ],
)
def test_wrong_settings_are_one_message(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        model_config("mini_alarm_ca", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.config.audio_adapter_config.whisper.audio_encoder_layers=[3,9]", "hidden states 0 to"),
        ("+model.config.audio_adapter_config.whisper.encoder_embedding_dim=5", "encoder_embedding_dim is 5"),
    ],
)
def test_widths_are_checked_when_the_audio_embedder_is_built(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mini_audio_embedder("mini_alarm_ca", override)


def test_layers_are_summed_in_float32_under_autocast() -> None:
    """As published, and without a float32 copy of the states for the backward pass."""
    torch.manual_seed(0)
    fusion = WeightedAverage(LayerFusionConfig(), 4)
    torch.nn.init.normal_(fusion.layer_weights)
    states = torch.randn(4, 2, 30, 16).bfloat16()
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        with torch.autocast("cpu", torch.bfloat16):
            summed = fusion(states)
        summed.square().sum().backward()
    gradient, fusion.layer_weights.grad = fusion.layer_weights.grad, None
    expected = fusion(states.float())
    expected.square().sum().backward()
    assert summed.dtype == torch.float32
    torch.testing.assert_close(summed, expected)
    torch.testing.assert_close(gradient, fusion.layer_weights.grad)
    assert kept.pop(states.untyped_storage().data_ptr()) == states.nbytes
    assert sum(kept.values()) < states[0].nbytes * 3, "the sum for the square, and a few weights"


@pytest.mark.parametrize("autocast", [False, True])
def test_states_have_the_precision_of_autocast(autocast: bool) -> None:
    embedder = mini_audio_embedder("mini_alarm_ca").train()
    extractor = build_feature_extractor(embedder.config)
    clip = Waveform(torch.randn(1, 16000, generator=torch.Generator().manual_seed(1)), 16000)
    features = extractor([clip])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states, _ = embedder.audio_encoder(features, embedder.layers)
        (embedding,) = embedder(features)
    assert {state.dtype for state in states.values()} == {torch.bfloat16 if autocast else torch.float32}
    embedding.float().square().sum().backward()
    adapters = embedder.audio_adapter.parameters()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapters)
