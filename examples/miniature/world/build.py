"""Writes the miniature world to disk as raw data sets, prompts, split indexes and a benchmark."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio, Dataset, DatasetDict, Features, Sequence, Value

from examples.miniature.world.flac import encode_flac
from examples.miniature.world.mixing import MAX_EVENTS, Clip, draw_clip
from examples.miniature.world.questions import CHOICE_KINDS, OPEN_KINDS, Question, make_choice_question, make_question
from examples.miniature.world.scene import Scene, describe
from examples.miniature.world.sounds import SOUNDS_DIR, SoundLibrary, load_sounds
from examples.miniature.world.synthesis import SAMPLE_RATE
from src.common.errors import UserError
from src.common.files import write_json
from src.common.log import get_logger
from src.common.paths import indexes_dir, prompts_dir, raw_dir
from src.common.seeds import row_seed
from src.prompts.multiple_choice import layout_question

NAME, TEST_NAME, BENCHMARK_NAME = "mini", "mini_test", "mini_mcqa"
TEST_SPLITS = {"known": "train", "unseen": "test"}
"""Splits of the two test sets, and the split of the recordings in their scenes."""
CHOICE_SHARE = 0.25
_RECIPE_VERSION = 3
_COMPLETED = ".completed"
_DRAWS = 200

_AUDIO = {"audio": Audio(sampling_rate=SAMPLE_RATE)}
_TEXT, _INTEGER, _REAL = Value("string"), Value("int64"), Value("float64")
_SCENE_TAIL = {"duration": _REAL, "scene": _TEXT}
_IDS = {"unique_id_1": _TEXT, "unique_id_2": _TEXT, "dataset_index": _INTEGER}
RAW_FEATURES = Features({**_AUDIO, "audio_description": _TEXT, **_IDS, **_SCENE_TAIL})
PROMPT_FEATURES = Features({"dataset_index": _INTEGER, "audio_description": _TEXT, "prompt": _TEXT})
TEST_FEATURES = Features(
    {
        **_AUDIO,
        "audio_description": _TEXT,
        "prompt": _TEXT,
        "answer": _TEXT,
        "kind": _TEXT,
        **_IDS,
        **_SCENE_TAIL,
    }
)
BENCHMARK_FEATURES = Features(
    {
        "question": _TEXT,
        "choices": Sequence(_TEXT),
        "answer": _TEXT,
        **_AUDIO,
        "id": _TEXT,
        "dataset_index": _INTEGER,
        "audio_description": _TEXT,
        "kind": _TEXT,
        **_SCENE_TAIL,
    }
)

SceneRow = dict[str, Any]
MakeQuestion = Callable[..., Question | None]


@dataclass(frozen=True)
class WorldSizes:
    """Numbers of scenes: training, validation, and of each split of the open and the multiple-choice test set."""

    train: int = 1600
    validation: int = 160
    test: int = 120
    choice: int = 240

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UserError(f"the number of {name} scenes is {value}; expected at least 1")


def build_mini_world(sizes: WorldSizes | None = None, seed: int = 0, force: bool = False) -> bool:
    """Write ``mini``, its prompts and indexes, ``mini_test`` and ``mini_mcqa`` below the data root.

    Every row has its own seed, so a larger set has the same first rows. A set that is complete for the same sizes,
    seed and sounds is not written again.

    Args:
        force: write every set again.

    Returns:
        Whether anything was written.
    """
    sizes = sizes or WorldSizes()
    library = load_sounds()
    common = {"seed": seed, "recipe": _RECIPE_VERSION, "sounds": _digest(SOUNDS_DIR / "sounds.json")}
    plans: list[tuple[Path, SceneRow, Callable[[Path], None]]] = [
        (
            raw_dir(NAME),
            {"train": sizes.train, "validation": sizes.validation},
            lambda folder: _write_raw(folder, sizes, seed, library),
        ),
        (raw_dir(TEST_NAME), {"test": sizes.test}, lambda folder: _write_test(folder, sizes.test, seed, library)),
        (
            raw_dir(BENCHMARK_NAME),
            {"choice": sizes.choice},
            lambda folder: _write_benchmark(folder, sizes.choice, seed, library),
        ),
    ]
    written = [_once(folder, {**common, **own}, write, force) for folder, own, write in plans]
    if written[0] or not _prompts_complete(sizes):
        _write_prompts_and_indexes(sizes, seed, library)
        written.append(True)
    return any(written)


def question_for(
    clip_for: Callable[[int | None], Clip],
    make: MakeQuestion,
    kind: str,
    place: int,
    rng: random.Random,
    names: tuple[str, ...],
) -> tuple[Clip, Question]:
    """A clip that allows a question of ``kind``, and the question.

    Args:
        clip_for: draws another clip at each call, with the given number of events or any.
        place: number of this question within its kind; questions of counting go through 1, 2, 3 in turn.
    """
    events = place % MAX_EVENTS + 1 if kind == "count" else None
    for _ in range(_DRAWS):
        clip = clip_for(events)
        question = make(clip.scene, rng, kind, names)
        if question is not None:
            return clip, question
    raise UserError(f"no scene out of {_DRAWS} allows a question of kind {kind!r}; expected scenes of 1 to 3 events")


def _once(folder: Path, config: Mapping[str, Any], write: Callable[[Path], None], force: bool) -> bool:
    """Write a set next to ``folder`` and move it there when complete; skip it if it exists with the same config."""
    mark = folder / _COMPLETED
    config_hash = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    log = get_logger(__name__)
    if not force and mark.is_file() and json.loads(mark.read_text())["config_hash"] == config_hash:
        log.info("%s is complete", folder)
        return False
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    write_json(partial / _COMPLETED, {"config_hash": config_hash, "config": config})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    log.info("wrote %s", folder)
    return True


def _write_raw(folder: Path, sizes: WorldSizes, seed: int, library: SoundLibrary) -> None:
    def rows() -> Iterator[SceneRow]:
        for index, (split, number) in enumerate(_training_places(sizes)):
            rng = np.random.default_rng(row_seed(seed, f"{NAME}/{split}/{number}"))
            clip = draw_clip(library, split, rng)
            yield {**_scene_columns(clip), **_ids(split, number, index)}

    _save(folder, {"train": rows()}, RAW_FEATURES)


def _write_test(folder: Path, size: int, seed: int, library: SoundLibrary) -> None:
    def rows(split: str) -> Iterator[SceneRow]:
        drawn = _questions(TEST_NAME, split, size, seed, library, OPEN_KINDS, make_question)
        for index, (clip, question) in enumerate(drawn):
            text = {"prompt": question.text, "answer": question.answer, "kind": question.kind}
            yield {**_scene_columns(clip), **text, **_ids(split, index, index)}

    _save(folder, {split: rows(split) for split in TEST_SPLITS}, TEST_FEATURES)


def _write_benchmark(folder: Path, size: int, seed: int, library: SoundLibrary) -> None:
    def rows(split: str) -> Iterator[SceneRow]:
        drawn = _questions(BENCHMARK_NAME, split, size, seed, library, CHOICE_KINDS, make_choice_question)
        for index, (clip, question) in enumerate(drawn):
            yield {
                **_scene_columns(clip),
                "question": question.text,
                "choices": list(question.choices or ()),
                "answer": question.answer,
                "kind": question.kind,
                "id": f"{split}_{index:05d}",
                "dataset_index": index,
            }

    _save(folder, {split: rows(split) for split in TEST_SPLITS}, BENCHMARK_FEATURES)


def _questions(
    name: str,
    split: str,
    size: int,
    seed: int,
    library: SoundLibrary,
    kinds: tuple[str, ...],
    make: MakeQuestion,
) -> Iterator[tuple[Clip, Question]]:
    """``size`` questions, kinds in turn, each about a clip of its own."""
    for index in range(size):
        row = row_seed(seed, f"{name}/{split}/{index}")
        rng = np.random.default_rng(row)

        def clip_for(events: int | None, rng: np.random.Generator = rng) -> Clip:
            return draw_clip(library, TEST_SPLITS[split], rng, events)

        kind, place = kinds[index % len(kinds)], index // len(kinds)
        yield question_for(clip_for, make, kind, place, random.Random(row), library.names)


def _write_prompts_and_indexes(sizes: WorldSizes, seed: int, library: SoundLibrary) -> None:
    """One prompt for each scene of ``mini`` (a quarter with options), and the rows of both splits."""
    raw = Dataset.load_from_disk(str(raw_dir(NAME) / "train")).select_columns(["scene", "audio_description"])

    def rows() -> Iterator[SceneRow]:
        for index, (row, (split, number)) in enumerate(zip(raw, _training_places(sizes), strict=True)):
            rng = random.Random(row_seed(seed, f"{NAME}/prompt/{split}/{number}"))
            prompt = _prompt(Scene.from_json(row["scene"]), rng, library.names)
            yield {"dataset_index": index, "audio_description": row["audio_description"], "prompt": prompt}

    folder = prompts_dir(NAME)
    shutil.rmtree(folder, ignore_errors=True)
    _save(folder, {"train": rows()}, PROMPT_FEATURES)
    indexes_dir(NAME).mkdir(parents=True, exist_ok=True)
    bounds = {"train": (0, sizes.train), "validation": (sizes.train, sizes.train + sizes.validation)}
    for split, (start, stop) in bounds.items():
        np.save(indexes_dir(NAME) / f"{split}_indexes.npy", np.arange(start, stop))


def _prompt(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> str:
    make = make_choice_question if rng.random() < CHOICE_SHARE else make_question
    question = make(scene, rng, None, names)
    assert question is not None, "every scene allows some question"
    return layout_question(question.text, question.choices) if question.choices else question.text


def _prompts_complete(sizes: WorldSizes) -> bool:
    last = indexes_dir(NAME) / "validation_indexes.npy"
    return last.is_file() and len(np.load(last)) == sizes.validation and prompts_dir(NAME).is_dir()


def _training_places(sizes: WorldSizes) -> list[tuple[str, int]]:
    """Split and number of every row of ``mini``: training rows first, as their ids sort."""
    counts = {"train": sizes.train, "validation": sizes.validation}
    return [(split, number) for split, count in counts.items() for number in range(count)]


def _scene_columns(clip: Clip) -> SceneRow:
    return {
        "audio": {"bytes": encode_flac(clip.samples), "path": None},
        "audio_description": describe(clip.scene),
        "duration": clip.scene.duration,
        "scene": clip.scene.to_json(),
    }


def _ids(split: str, number: int, index: int) -> SceneRow:
    return {"unique_id_1": split, "unique_id_2": f"{number:06d}", "dataset_index": index}


def _save(folder: Path, splits: Mapping[str, Iterator[SceneRow]], features: Features) -> None:
    sets = {}
    for split, rows in splits.items():
        columns: dict[str, list[Any]] = {name: [] for name in features}
        for row in rows:
            for name, values in columns.items():
                values.append(row[name])
        sets[split] = Dataset.from_dict(columns, features=features)
    DatasetDict(sets).save_to_disk(str(folder))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
