"""The miniature world on disk."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from examples.miniature.world.build import WorldSizes, build_mini_world, question_for
from examples.miniature.world.flac import read_flac
from examples.miniature.world.mixing import draw_clip
from examples.miniature.world.questions import CHOICE_KINDS, OPEN_KINDS, make_choice_question
from examples.miniature.world.scene import Scene, describe
from examples.miniature.world.sounds import load_sounds
from examples.miniature.world.synthesis import SAMPLE_RATE
from src.common.errors import UserError
from src.common.paths import indexes_dir, prompts_dir, raw_dir
from src.prompts.multiple_choice import layout_question

SIZES = WorldSizes(train=20, validation=6, test=18, choice=24)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALARM_DATA_ROOT", str(root))
        assert build_mini_world(SIZES, seed=3)
    return root


@pytest.fixture(autouse=True)
def _data_root(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(world))


def _raw(name: str, split: str) -> Dataset:
    return load_from_disk(str(raw_dir(name)))[split]


def _without_audio(rows: Dataset) -> list[dict]:
    return rows.remove_columns("audio").to_list()


def test_raw_set_is_an_ordinary_corpus() -> None:
    rows = _raw("mini", "train")
    wanted = ["audio", "audio_description", "unique_id_1", "unique_id_2", "dataset_index", "duration", "scene"]
    assert rows.column_names == wanted
    assert rows["dataset_index"][:] == list(range(26))
    keys = [(row["unique_id_1"], row["unique_id_2"]) for row in _without_audio(rows)]
    assert keys == sorted(set(keys))
    indexes = [np.load(indexes_dir("mini") / f"{split}_indexes.npy") for split in ("train", "validation")]
    assert [len(each) for each in indexes] == [20, 6] and sorted(np.concatenate(indexes)) == list(range(26))
    assert {keys[index][0] for index in indexes[0]} == {"train"}
    assert {keys[index][0] for index in indexes[1]} == {"validation"}


def test_description_and_audio_follow_from_the_scene() -> None:
    decoded = _raw("mini", "train")
    stored = decoded.cast_column("audio", decoded.features["audio"].__class__(decode=False))
    for row in stored:
        scene = Scene.from_json(row["scene"])
        assert row["audio_description"] == describe(scene)
        samples = read_flac(row["audio"]["bytes"])
        assert len(samples) == round(row["duration"] * SAMPLE_RATE) and row["duration"] == scene.duration


def test_prompts_stand_beside_the_raw_rows() -> None:
    rows = load_from_disk(str(prompts_dir("mini")))["train"]
    assert rows.column_names == ["dataset_index", "audio_description", "prompt"]
    assert rows["audio_description"][:] == _raw("mini", "train")["audio_description"][:]
    options = sum("<options>" in prompt for prompt in rows["prompt"])
    assert 1 <= options <= 14


@pytest.mark.parametrize("split", ["known", "unseen"])
def test_benchmark_rows(split: str) -> None:
    rows = _raw("mini_mcqa", split)
    assert rows.column_names[:6] == ["question", "choices", "answer", "audio", "id", "dataset_index"]
    rows = _without_audio(rows)
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(CHOICE_KINDS, 4)
    for row in rows:
        assert row["choices"].count(row["answer"]) == 1 and len(set(row["choices"])) == len(row["choices"])
    assert len({row["id"] for row in rows}) == len(rows)
    counts = Counter(row["answer"] for row in rows if row["kind"] == "count")
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("split", ["known", "unseen"])
def test_open_rows(split: str) -> None:
    rows = _without_audio(_raw("mini_test", split))
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(OPEN_KINDS, 2)
    for row in rows:
        scene = Scene.from_json(row["scene"])
        if row["kind"] == "first":
            assert row["answer"] == f"the first sound is a {scene.names[0]}."
        if row["kind"] == "sequence":
            assert row["answer"] == ", ".join(scene.names) + "."


def test_held_out_recordings_stay_out_of_training_scenes() -> None:
    library, rng = load_sounds(), np.random.default_rng(0)
    splits = {recording.id: recording.split for recording in library.recordings}
    for split in ("train", "validation", "test"):
        used = {name for _ in range(60) for name in draw_clip(library, split, rng).recordings if name in splits}
        assert {splits[name] for name in used} == {split}


def test_complete_sets_are_left_alone_and_growing_keeps_rows(world: Path) -> None:
    assert not build_mini_world(SIZES, seed=3)
    before = {name: _without_audio(_raw(name, "known")) for name in ("mini_test", "mini_mcqa")}
    training = _without_audio(_raw("mini", "train"))
    assert build_mini_world(WorldSizes(train=22, validation=6, test=18, choice=24), seed=3)
    after = _without_audio(_raw("mini", "train"))
    assert after[:20] == training[:20]
    assert [row["scene"] for row in after[22:]] == [row["scene"] for row in training[20:]]
    assert before == {name: _without_audio(_raw(name, "known")) for name in before}
    assert build_mini_world(SIZES, seed=3) and _without_audio(_raw("mini", "train")) == training


def test_another_seed_gives_another_world(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _raw("mini_mcqa", "known")["scene"][:]
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    build_mini_world(WorldSizes(2, 2, 9, 6), seed=4)
    assert not set(_raw("mini_mcqa", "known")["scene"][:]) & set(here)
    record = json.loads((raw_dir("mini_mcqa") / ".completed").read_text())
    assert record["config"]["seed"] == 4


def test_knowing_the_benchmark_without_hearing_is_chance() -> None:
    """Best guess by option text, position and question, learnt on one half and tried on the other."""
    library, rng = load_sounds(), np.random.default_rng(0)
    draw = random.Random(0)
    questions = []
    for place in range(540):
        kind = CHOICE_KINDS[place % len(CHOICE_KINDS)]

        def clip_for(events: int | None):
            return draw_clip(library, "train", rng, events)

        questions.append(question_for(clip_for, make_choice_question, kind, place // 6, draw, library.names)[1])
    seen, tried = questions[:270], questions[270:]
    wins = Counter((q.kind, q.answer) for q in seen)
    offers = Counter((q.kind, choice) for q in seen for choice in q.choices)
    right = 0
    for question in tried:
        rates = [wins[question.kind, c] / max(offers[question.kind, c], 1) for c in question.choices]
        right += question.choices[int(np.argmax(rates))] == question.answer
    chance = np.mean([1 / len(question.choices) for question in tried])
    spread = 3 * np.sqrt(chance * (1 - chance) / len(tried))
    assert abs(right / len(tried) - chance) < spread
    positions = Counter(q.choices.index(q.answer) for q in questions if len(q.choices) == 4)
    assert max(positions.values()) / sum(positions.values()) < 0.32


def test_layout_of_a_prompt_with_options() -> None:
    assert layout_question("q?", ["a", "b"]).count("(Option_") == 2


def test_impossible_requests_end_in_one_message() -> None:
    with pytest.raises(UserError, match="number of train scenes is 0"):
        WorldSizes(train=0)
    clip = draw_clip(load_sounds(), "train", np.random.default_rng(0), events=1)
    with pytest.raises(UserError, match="no scene out of"):
        question_for(lambda _: clip, make_choice_question, "after", 0, random.Random(0), load_sounds().names)
