"""Scenes: what is drawn, what is heard, and that both agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from examples.miniature.world.mixing import (
    EVENT_DB,
    EVENT_DB_SPREAD,
    MIN_GAP,
    NOISE_DB,
    Clip,
    draw_clip,
    level_db,
    set_level,
    shift_pitch,
)
from examples.miniature.world.sounds import load_sounds
from examples.miniature.world.synthesis import SAMPLE_RATE
from examples.miniature.world.tagging import STRONG, tag, tagged_clips


def _part(clip: Clip, start: float, stop: float) -> np.ndarray:
    return clip.samples[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    rng = np.random.default_rng(0)
    return [draw_clip(load_sounds(), "train", rng) for _ in range(240)]


def test_same_seed_same_clip() -> None:
    one, other = (draw_clip(load_sounds(), "test", np.random.default_rng(7)) for _ in range(2))
    assert one.scene == other.scene and one.recordings == other.recordings
    assert np.array_equal(one.samples, other.samples)


def test_events_fit_and_keep_their_distance(clips: list[Clip]) -> None:
    for clip in clips:
        scene = clip.scene
        assert 1.0 <= scene.duration <= 4.0 and len(clip.samples) == round(scene.duration * SAMPLE_RATE)
        onsets = [event.onset for event in scene.events]
        assert all(b - a >= MIN_GAP - 1e-3 for a, b in zip(onsets, onsets[1:], strict=False))
        assert all(event.duration > 0.02 for event in scene.events)
        assert all(event.onset + event.duration <= scene.duration + 2e-3 for event in scene.events)
        assert np.abs(clip.samples).max() <= 1.0


def test_numbers_of_events_are_equally_likely(clips: list[Clip]) -> None:
    counts = Counter(len(clip.scene.events) for clip in clips)
    assert all(55 <= counts[number] <= 105 for number in (1, 2, 3))


def test_some_events_overlap(clips: list[Clip]) -> None:
    pairs = [pair for clip in clips for pair in zip(clip.scene.events, clip.scene.events[1:], strict=False)]
    overlapping = sum(a.onset + a.duration > b.onset + 0.01 for a, b in pairs)
    assert 0.05 < overlapping / len(pairs) < 0.7


def test_sound_is_where_the_scene_says_it_is(clips: list[Clip]) -> None:
    """Without background, the clip is silent outside its events and each event starts with sound."""
    quiet = [clip for clip in clips if clip.scene.background == "none"]
    assert quiet
    for clip in quiet:
        covered = np.zeros(len(clip.samples), bool)
        for event in clip.scene.events:
            start, stop = (round(at * SAMPLE_RATE) for at in (event.onset, event.onset + event.duration))
            covered[max(start - 30, 0) : stop + 60] = True
            assert level_db(_part(clip, event.onset, event.onset + event.duration)) > EVENT_DB["soft"] - 6
        assert not clip.samples[~covered].any()


def test_loud_and_soft_are_apart_and_noise_is_below(clips: list[Clip]) -> None:
    """An event that ends before the next begins is heard at the level its word stands for."""
    for clip in clips:
        ends = [event.onset for event in clip.scene.events[1:]] + [clip.scene.duration]
        before = 0.0
        for event, end in zip(clip.scene.events, ends, strict=True):
            stop = event.onset + event.duration
            if stop <= end and before <= event.onset:
                level = level_db(_part(clip, event.onset, stop))
                assert abs(level - EVENT_DB[event.loudness]) < EVENT_DB_SPREAD + 1.0, clip.scene
            before = max(before, stop)
    assert max(level for level in NOISE_DB.values() if level) < EVENT_DB["soft"] - 6 < EVENT_DB["loud"] - 12


def test_background_level_is_the_stated_one(clips: list[Clip]) -> None:
    for clip in clips:
        start = clip.scene.events[0].onset - 0.01
        stated = NOISE_DB[clip.scene.background]
        if start > 0.2 and stated is not None:
            rms = 10 * np.log10(np.mean(np.square(_part(clip, 0, start), dtype=np.float64)))
            assert abs(rms - stated) < 5


def test_level_and_pitch_helpers() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    assert level_db(set_level(tone, -20.0)) == pytest.approx(-20.0, abs=0.01)
    higher = shift_pitch(tone, 12.0)
    assert len(higher) == pytest.approx(len(tone) / 2, abs=1)
    assert np.abs(np.fft.rfft(higher, SAMPLE_RATE)).argmax() == pytest.approx(880, abs=2)


def test_tags_are_the_scene_in_numbers(clips: list[Clip]) -> None:
    names = load_sounds().names
    clip = replace(clips[0])
    tagged = tag(clip, names)
    assert [names[sound] for sound, *_ in tagged.stretches] == list(clip.scene.names)
    assert [start for _, _, start, _ in tagged.stretches] == [event.onset for event in clip.scene.events]
    one, other = (next(tagged_clips(load_sounds(), "train", 3, STRONG, full=True)) for _ in range(2))
    assert np.array_equal(one.samples, other.samples) and one.stretches == other.stretches
