"""Frame tagging: targets, masks, and that a short training learns and writes what the model loads."""

from __future__ import annotations

import json
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.miniature.encoder_pretraining import (
    PretrainingSettings,
    Tagger,
    frame_seconds,
    frame_targets,
    pretrain_encoders,
    tagging_loss,
)
from examples.miniature.world.tagging import TaggedClip, TaskSizes
from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import Waveform
from src.common.paths import ASSETS, REPO_ROOT
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.encoders.load import build_encoder, load_encoder

SIZES = TaskSizes(classes=2, loudness=2, backgrounds=3, sample_rate=24_000)
NAMES = ("whisper", "w2vbert", "sslam", "muq")


def _config(name: str) -> Path:
    return REPO_ROOT / f"src/configs/model/encoder/mini_{name}.yaml"


def _spec(name: str) -> EncoderSpec:
    import yaml

    return encoder_spec(name, yaml.safe_load(_config(name).read_text()))


def _clip(seed: int, seconds: float = 1.3) -> TaggedClip:
    rng = np.random.default_rng(seed)
    sound, level = int(rng.integers(2)), int(rng.integers(2))
    time = np.arange(int(seconds * 24_000)) / 24_000
    tone = (0.3, 0.03)[level] * np.sin(2 * np.pi * (400, 3000)[sound] * time) * (time > 0.4)
    return TaggedClip(tone.astype(np.float32), ((sound, level, 0.4, seconds),), 0)


def test_targets_are_the_covered_share_of_each_frame() -> None:
    clip = TaggedClip(np.zeros(4800, np.float32), ((1, 0, 0.05, 0.11),), 0)
    targets = frame_targets([clip], 5, 0.04, SIZES)
    assert targets.shape == (1, 5, 2, 2)
    assert torch.allclose(targets[0, :, 1, 0], torch.tensor([0.0, 0.75, 0.75, 0.0, 0.0]), atol=1e-5)
    assert targets.sum() == pytest.approx(1.5)


@pytest.mark.parametrize(("name", "seconds"), [("whisper", 0.02), ("w2vbert", 0.02), ("sslam", 0.16), ("muq", 0.04)])
def test_steps_have_their_length_and_padding_is_not_counted(name: str, seconds: float) -> None:
    spec = _spec(name)
    tagger = Tagger(build_encoder(name, spec), spec, SIZES)
    clips = [_clip(0, 1.3), _clip(1, 3.1)]
    waveforms = [Waveform(torch.from_numpy(clip.samples)[None], 24_000) for clip in clips]
    batch = AudioFeatureExtractor({name: spec.features})(waveforms)[name]
    assert frame_seconds(tagger, batch, clips) == seconds
    _, _, valid = tagger(batch)
    steps = [int(row.sum()) for row in valid]
    assert steps == pytest.approx([1.3 / seconds, 3.1 / seconds], abs=2)
    tagging_loss(tagger, batch, clips).backward()
    assert torch.isfinite(tagger.head.weight.grad).all()


def test_short_training_learns_and_is_loadable(tmp_path: Path) -> None:
    clips = [_clip(seed) for seed in range(16)]
    settings = PretrainingSettings(steps=12, batch_size=8, log_every=4, dropout=0.0)
    endless = (clip for group in repeat(clips) for clip in group)
    pretrain_encoders({"muq": _config("muq")}, SIZES, endless, {"same": clips}, {"muq": settings}, 0, tmp_path)
    losses = json.loads((tmp_path / "muq" / "run.json").read_text())["losses"]
    assert losses[-1] < losses[0]
    scores = json.loads((tmp_path / "muq" / "scores.json").read_text())["same"]
    assert scores["clips"] == scores["events"] == 16 and 0 <= scores["name"] <= 1
    assert load_encoder("muq", _spec("muq"), tmp_path / "muq").width == 96


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_load_and_name_unseen_recordings(name: str) -> None:
    folder = ASSETS / "mini" / "encoders" / name
    encoder = load_encoder(name, _spec(name), folder)
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"known", "validation", "unseen"}


def test_shipped_weights_are_small() -> None:
    files = (ASSETS / "mini" / "encoders").rglob("*.safetensors")
    assert 0 < sum(file.stat().st_size for file in files) <= 8_000_000
