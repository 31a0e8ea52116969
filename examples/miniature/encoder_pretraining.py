"""Pretrains small audio encoders as frame taggers.

A linear head on the mean of the states that the adapters use predicts for every frame the active sounds, their
loudness and the background level. Only the encoders are kept: their frames encode these labels linearly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from examples.miniature.world.tagging import TaggedClip, TaskSizes
from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from src.common.files import write_json
from src.common.log import get_logger
from src.common.run_record import write_run_record
from src.common.seeds import seed_everything
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.encoders.load import build_encoder, save_encoder

SSLAM_TOKENS_PER_STEP = 8
RARE_LOGIT = -3.5
"""Initial bias of every sound's activity: a sound fills about one frame in thirty."""


@dataclass(frozen=True)
class PretrainingSettings:
    """Steps, learning rate and regularisation of one encoder's training.

    ``wide_init`` initialises the encoder's matrices with a standard deviation of one over the square root of their
    inputs: transformers' 0.02 suits widths of a thousand, and gives small encoders outputs close to zero.
    """

    steps: int = 1000
    learning_rate: float = 2e-3
    wide_init: bool = False
    batch_size: int = 16
    weight_decay: float = 0.05
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    dropout: float = 0.1
    log_every: int = 50


SETTINGS = {
    "whisper": PretrainingSettings(steps=2200, learning_rate=8e-3, wide_init=True),
    "w2vbert": PretrainingSettings(steps=1300, learning_rate=4e-3, wide_init=True),
    "sslam": PretrainingSettings(steps=2500, learning_rate=3e-3, wide_init=True),
    "muq": PretrainingSettings(steps=800, learning_rate=2e-3),
}
"""Settings of the shipped miniature encoders."""


class Tagger(nn.Module):
    """An encoder and its linear head.

    Args:
        encoder: trained along with the head.
        spec: its configuration; the mean of the states ``spec.layers`` is read.
        sizes: the task.
    """

    def __init__(self, encoder: Encoder, spec: EncoderSpec, sizes: TaskSizes) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = spec.layers
        self.features = spec.features
        self.sizes = sizes
        self.tokens_per_step = SSLAM_TOKENS_PER_STEP if spec.module_name == "sslam" else 1
        self.head = nn.Linear(encoder.width, sizes.classes * sizes.loudness + sizes.backgrounds)
        nn.init.constant_(self.head.bias[: -sizes.backgrounds], RARE_LOGIT)

    def forward(self, batch: EncoderFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Activity logits ``(batch, steps, tokens, classes, loudness)``, background logits ``(batch, steps, tokens,
        levels)``, and valid steps ``(batch, steps)``. A step in time has one token, eight for SSLAM."""
        states = self.encoder(batch.features, batch.mask, self.layers).mean(0)
        logits = self.head(states.unflatten(1, (-1, self.tokens_per_step)))
        activity, background = logits.split([logits.shape[-1] - self.sizes.backgrounds, self.sizes.backgrounds], -1)
        lengths = -(-self.encoder.calc_length(batch.lengths) // self.tokens_per_step)
        valid = torch.arange(logits.shape[1]) < lengths[:, None]
        return activity.unflatten(-1, (self.sizes.classes, self.sizes.loudness)), background, valid


def frame_targets(clips: Sequence[TaggedClip], frames: int, seconds: float, sizes: TaskSizes) -> Tensor:
    """Share of each frame that a sound fills: ``(batch, frames, classes, loudness)``, frames ``seconds`` long."""
    targets = torch.zeros(len(clips), frames, sizes.classes, sizes.loudness)
    starts = torch.arange(frames) * seconds
    for row, clip in enumerate(clips):
        for sound, loudness, start, end in clip.stretches:
            covered = (starts + seconds).clamp(max=end) - starts.clamp(min=start)
            targets[row, :, sound, loudness] = (covered / seconds).clamp(0, 1)
    return targets


def tagging_loss(tagger: Tagger, batch: EncoderFeatures, clips: Sequence[TaggedClip]) -> Tensor:
    """Mean over frames of the activity's binary cross-entropy, summed over classes, plus the background's."""
    activity, background, valid = tagger(batch)
    seconds = frame_seconds(tagger, batch, clips)
    targets = frame_targets(clips, activity.shape[1], seconds, tagger.sizes)[:, :, None].expand(activity.shape)
    per_token = binary_cross_entropy_with_logits(activity, targets, reduction="none").sum((-1, -2))
    levels = torch.tensor([clip.background for clip in clips])[:, None, None].expand(background.shape[:-1])
    return per_token[valid].mean() + cross_entropy(background[valid].flatten(0, 1), levels[valid].flatten())


def frame_seconds(tagger: Tagger, batch: EncoderFeatures, clips: Sequence[TaggedClip]) -> float:
    """Length of one output step in seconds: 0.02 at 50 Hz, 0.04 at 25 Hz, 0.16 for the steps of SSLAM."""
    longest = max(range(len(clips)), key=lambda row: int(batch.lengths[row]))
    frames = int(tagger.encoder.calc_length(batch.lengths[longest])) / tagger.tokens_per_step
    exact = len(clips[longest].samples) / tagger.sizes.sample_rate / frames
    return min((0.02, 0.04, 0.16), key=lambda known: abs(math.log(known / exact)))


def pretrain_encoders(
    configs: Mapping[str, Path],
    sizes: TaskSizes,
    clips: Iterator[TaggedClip],
    score_sets: Mapping[str, Sequence[TaggedClip]],
    settings: Mapping[str, PretrainingSettings],
    seed: int,
    output: Path,
) -> None:
    """Train the encoders and write ``output/NAME/{model.safetensors, scores.json, run.json}``.

    Args:
        configs: encoder YAML by name; weights start at random.
        sizes: of the tagging task.
        clips: endless training clips.
        score_sets: clips to score on, by title.
        settings: by name; batches are shared, so their sizes must be equal.
        seed: of the first weights and the dropout.
        output: parent of the encoders' folders.
    """
    seed_everything(seed)
    specs = {name: encoder_spec(name, yaml.safe_load(path.read_text())) for name, path in configs.items()}
    taggers = {name: Tagger(_new_encoder(name, spec, settings[name]), spec, sizes) for name, spec in specs.items()}
    start = time.process_time()
    losses = train_taggers(taggers, clips, settings)
    seconds = round(time.process_time() - start)
    scores = score_all(taggers, score_sets)
    for name, tagger in taggers.items():
        save_encoder(tagger.encoder, output / name)
        write_json(output / name / "scores.json", scores[name])
        record = {"settings": asdict(settings[name]), "encoder": asdict(specs[name]), "seed": seed}
        write_run_record(output / name, record, losses=losses[name], cpu_seconds_of_all=seconds)
        get_logger(__name__).info("%s: %s", name, scores[name])


def _new_encoder(name: str, spec: EncoderSpec, settings: PretrainingSettings) -> Encoder:
    encoder = build_encoder(name, replace(spec, architecture={**spec.architecture, "dropout": settings.dropout}))
    if settings.wide_init:
        for module in encoder.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return encoder


def train_taggers(
    taggers: Mapping[str, Tagger], clips: Iterator[TaggedClip], settings: Mapping[str, PretrainingSettings]
) -> dict[str, list[float]]:
    """Train all taggers on the same clips, each by its own optimizer and for its own number of steps.

    Returns the mean loss of every ``log_every`` steps by name.
    """
    log = get_logger(__name__)
    optimizers = {name: _optimizer(tagger, settings[name]) for name, tagger in taggers.items()}
    losses: dict[str, list[float]] = {name: [] for name in taggers}
    for tagger in taggers.values():
        tagger.train()
    active: dict[str, Tagger] = {}
    for step in range(max(settings[name].steps for name in taggers)):
        left = {name: tagger for name, tagger in taggers.items() if step < settings[name].steps}
        if left.keys() != active.keys():
            active, extractor, some = left, _extractor(left), next(iter(left))
        drawn = list(islice(clips, settings[some].batch_size))
        features = extractor(_waveforms(drawn, active[some].sizes))
        for name, tagger in active.items():
            loss = tagging_loss(tagger, features[name], drawn)
            loss.backward()
            nn.utils.clip_grad_norm_(tagger.parameters(), settings[name].max_grad_norm)
            for part in optimizers[name]:
                part.step()
            tagger.zero_grad(set_to_none=True)
            losses[name].append(float(loss.detach()))
        if (step + 1) % settings[some].log_every == 0:
            recent = {name: round(fmean(losses[name][-settings[name].log_every :]), 3) for name in active}
            log.info("step %d: %s", step + 1, recent)
    return {name: _means(values, settings[name].log_every) for name, values in losses.items()}


def _means(values: Sequence[float], every: int) -> list[float]:
    return [round(fmean(values[start : start + every]), 4) for start in range(0, len(values), every)]


def _extractor(taggers: Mapping[str, Tagger]) -> AudioFeatureExtractor:
    return AudioFeatureExtractor({name: tagger.features for name, tagger in taggers.items()})


@dataclass(frozen=True)
class TaggingScores:
    """Shares of events whose class, and class and loudness, is right over the event's frames, and of clips whose
    background and whose whole list of sounds with loudness (strongest answer of 50 ms above one half) is right."""

    name: float
    name_and_loudness: float
    background: float
    whole_clip: float
    events: int
    clips: int


@torch.no_grad()
def score_tagger(tagger: Tagger, name: str, clips: Sequence[TaggedClip]) -> TaggingScores:
    """Score a trained tagger on ``clips``."""
    extractor = _extractor({name: tagger})
    tagger.eval()
    right = dict.fromkeys(("name", "name_and_loudness", "background", "whole_clip"), 0)
    events = 0
    for start in range(0, len(clips), 16):
        group = clips[start : start + 16]
        batch = extractor(_waveforms(group, tagger.sizes))[name]
        activity, background, valid = tagger(batch)
        seconds = frame_seconds(tagger, batch, group)
        for row, clip in enumerate(group):
            frames = int(valid[row].sum())
            probability = activity[row, :frames].mean(1).sigmoid()
            right["background"] += int(background[row, :frames].mean((0, 1)).argmax()) == clip.background
            right["whole_clip"] += _found(probability, seconds) == {(s, level) for s, level, _, _ in clip.stretches}
            for sound, level, begin, end in clip.stretches:
                inside = probability[int(begin / seconds) : max(math.ceil(end / seconds), int(begin / seconds) + 1)]
                best = divmod(int(inside.mean(0).flatten().argmax()), tagger.sizes.loudness)
                right["name"] += best[0] == sound
                right["name_and_loudness"] += best == (sound, level)
                events += 1
    per_event = {key: round(right[key] / events, 4) for key in ("name", "name_and_loudness")}
    per_clip = {key: round(right[key] / len(clips), 4) for key in ("background", "whole_clip")}
    return TaggingScores(**per_event, **per_clip, events=events, clips=len(clips))


def score_all(
    taggers: Mapping[str, Tagger], sets: Mapping[str, Sequence[TaggedClip]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by encoder and by set of clips."""
    return {
        name: {title: asdict(score_tagger(tagger, name, clips)) for title, clips in sets.items()}
        for name, tagger in taggers.items()
    }


def _found(probability: Tensor, seconds: float) -> set[tuple[int, int]]:
    """Sounds with loudness in ``probability (frames, classes, loudness)``: one loudness a class, the stronger."""
    window = max(1, round(0.05 / seconds))
    smooth = probability.flatten(1).T[None]
    smooth = nn.functional.avg_pool1d(smooth, min(window, smooth.shape[-1]), 1)[0].amax(-1)
    strongest = smooth.view(probability.shape[1:]).max(-1)
    levels = strongest.indices.tolist()
    return {(sound, levels[sound]) for sound, value in enumerate(strongest.values.tolist()) if value > 0.5}


def _waveforms(clips: Sequence[TaggedClip], sizes: TaskSizes) -> list[Waveform]:
    return [Waveform(torch.as_tensor(clip.samples)[None], sizes.sample_rate) for clip in clips]


def _optimizer(
    tagger: Tagger, settings: PretrainingSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    matrices = [p for p in tagger.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in tagger.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    warmup = max(1, int(settings.warmup * settings.steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))

    pace: Callable[[int], float] = factor
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
