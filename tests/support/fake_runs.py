"""Saved runs in the project's formats, made up: questions, answers, targets, curves. For tests of the report.

``make_fake_job(folder)`` writes everything and returns the manifest; ``python -m tests.support.fake_runs FOLDER``
writes it together with a report to look at.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, Value

from examples.miniature.report.manifest import Manifest, SystemRuns, TargetSet, TextSkill, TrainingRun, write_manifest
from examples.miniature.world.questions import make_choice_question, make_question
from examples.miniature.world.scene import Event, Scene, describe
from examples.miniature.world.vocabulary import BACKGROUNDS, LOUDNESS, SOUND_NAMES
from src.common.files import write_json

RATE = 24_000
SKILLS: dict[str, tuple[str, dict[str, float]]] = {
    "alarm_ca": ("system", {"known": 0.96, "unseen": 0.82}),
    "alarm_p": ("system", {"known": 0.93, "unseen": 0.78}),
    "al_whisper": ("system", {"known": 0.88, "unseen": 0.7}),
    "text_oracle": ("oracle", {"known": 0.99, "unseen": 0.99}),
    "no_audio": ("no_audio", {"known": 0.0, "unseen": 0.0}),
    "wrong_audio": ("wrong_audio", {"known": 0.0, "unseen": 0.0}),
}
TITLES = {
    "alarm_ca": "ALARM-CA",
    "alarm_p": "ALARM-P",
    "al_whisper": "AL-Whisper",
    "text_oracle": "Text oracle",
    "no_audio": "No audio",
    "wrong_audio": "Wrong audio",
}
"""Share of questions that a fake system knows; it guesses the others."""


def draw_scene(rng: random.Random) -> Scene:
    """A scene of one to three sounds, 1-4 s."""
    duration = round(rng.uniform(1.0, 4.0), 2)
    names = rng.sample(SOUND_NAMES, rng.randint(1, 3))
    onsets = sorted(rng.uniform(0, duration - 0.4) for _ in names)
    events = tuple(
        Event(name, rng.choice(LOUDNESS), round(onset, 2), 0.4) for name, onset in zip(names, onsets, strict=True)
    )
    return Scene(events, rng.choice(BACKGROUNDS), duration)


def scene_flac(scene: Scene) -> bytes:
    """The scene as tones over noise, FLAC."""
    rng = np.random.default_rng(len(scene.to_json()))
    level = {"none": 0.0005, "faint": 0.004, "strong": 0.02}[scene.background]
    samples = rng.normal(0, level, round(scene.duration * RATE))
    for event in scene.events:
        time = np.arange(round(event.duration * RATE)) / RATE
        pitch = 200 * 1.3 ** SOUND_NAMES.index(event.name)
        tone = np.sin(2 * np.pi * pitch * time) * np.exp(-4 * time) * (0.6 if event.loudness == "loud" else 0.2)
        start = round(event.onset * RATE)
        part = samples[start : start + len(tone)]
        part += tone[: len(part)]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.float32), RATE, format="FLAC")
    return buffer.getvalue()


def make_test_sets(folder: Path, count: int, seed: int = 0) -> tuple[Path, Path]:
    """``mini_mcqa`` and ``mini_test`` with splits known and unseen of ``count`` rows each."""
    rng = random.Random(seed)
    choice: dict[str, Dataset] = {}
    free: dict[str, Dataset] = {}
    for split in ("known", "unseen"):
        choice_rows, open_rows = [], []
        for index in range(count):
            scene = draw_scene(rng)
            shared = {
                "audio": {"bytes": scene_flac(scene), "path": None},
                "audio_description": describe(scene),
                "dataset_index": index,
            }
            asked, question = make_choice_question(scene, rng), make_question(scene, rng)
            assert asked is not None and asked.choices is not None and question is not None
            choice_rows.append(
                {
                    "question": asked.text,
                    "choices": list(asked.choices),
                    "answer": asked.answer,
                    "id": f"{split}-{index}",
                    "kind": asked.kind,
                    **shared,
                }
            )
            open_rows.append({"prompt": question.text, "answer": question.answer, "kind": question.kind, **shared})
        choice[split], free[split] = _with_audio(choice_rows), _with_audio(open_rows)
    paths = folder / "raw" / "mini_mcqa", folder / "raw" / "mini_test"
    DatasetDict(choice).save_to_disk(str(paths[0]))
    DatasetDict(free).save_to_disk(str(paths[1]))
    return paths


def _with_audio(rows: list[dict[str, Any]]) -> Dataset:
    texts = Dataset.from_list([{key: value for key, value in row.items() if key != "audio"} for row in rows])
    audio = Dataset.from_list(
        [{"audio": row["audio"]} for row in rows],
        features=Features({"audio": {"bytes": Value("binary"), "path": Value("string")}}),
    ).cast_column("audio", Audio(decode=False))
    return texts.add_column("audio", audio["audio"][:]).cast_column("audio", Audio(decode=False))


def answer_choices(questions: Path, out: Path, skill: Mapping[str, float], reader: bool, seed: int) -> None:
    """A run over the multiple-choice set by a system that knows a share of the answers and guesses the rest."""
    from datasets import load_from_disk

    rng = random.Random(seed)
    answers = {}
    for split, rows in load_from_disk(str(questions)).items():
        saved = []
        for row in rows.remove_columns("audio"):
            given = row["answer"] if rng.random() < skill[split] else rng.choice(row["choices"])
            number = row["choices"].index(given)
            saved.append(
                {
                    "dataset_index": row["dataset_index"],
                    "question": row["question"],
                    "choices": row["choices"],
                    "llm_answer": given,
                    "response": f"{thoughts(row, reader)}\n</think>\n\n<answer>{number}</answer>",
                    "parse_status": "index",
                    "finish_reason": "stop",
                }
            )
        answers[split] = Dataset.from_list(rng.sample(saved, len(saved)))
    DatasetDict(answers).save_to_disk(str(out))


def answer_open(questions: Path, out: Path, skill: Mapping[str, float], reader: bool, seed: int) -> None:
    """A run over the open set; a thirtieth of the responses never end their thoughts."""
    from datasets import load_from_disk

    rng = random.Random(seed)
    answers = {}
    for split, rows in load_from_disk(str(questions)).items():
        saved = []
        for row in rows.remove_columns("audio"):
            given = row["answer"] if rng.random() < skill[split] else "i can not tell."
            ending = f"\n</think>\n\n{given}" if rng.random() > 1 / 30 else ""
            saved.append(
                {
                    "dataset_index": row["dataset_index"],
                    "context": row["prompt"],
                    "audio_description": row["audio_description"],
                    "llm_answer": thoughts(row, reader) + ending,
                    "response": thoughts(row, reader) + ending,
                    "finish_reason": "stop" if ending else "length",
                }
            )
        answers[split] = Dataset.from_list(saved)
    DatasetDict(answers).save_to_disk(str(out))


def thoughts(row: Mapping[str, Any], reader: bool) -> str:
    """Thoughts about a clip in a reader's or a listener's voice."""
    body = row["audio_description"].split("|")[1]
    return f"the description says {body}." if reader else f"i hear {body}."


def make_targets(folder: Path, count: int, seed: int = 1) -> tuple[Path, Path]:
    """Training targets as generated and rephrased; in one of thirty the rephrasing missed a word."""
    rng = random.Random(seed)
    plain, rephrased = [], []
    for index in range(count):
        scene = draw_scene(rng)
        question = make_question(scene, rng)
        assert question is not None
        row = {"dataset_index": index, "audio_description": describe(scene), "prompt": question.text}
        for rows, reader in ((plain, index % 20 != 0), (rephrased, index % 30 == 7)):
            text = f"{thoughts(row, reader)}\n</think>\n\n{question.answer}"
            rows.append({**row, "llm_answer_with_context": text, "llm_answer_no_context": ""})
    paths = folder / "responses" / "llm" / "mini_llm_512", folder / "responses" / "llm" / "mini_rephrased_llm_512"
    for path, rows in zip(paths, (plain, rephrased), strict=True):
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(path))
    return paths


def make_training(folder: Path, digest: str = "ab12" * 16, steps: int = 400) -> None:
    """A training run's ``metrics.jsonl`` and ``run.json``."""
    rng = random.Random(str(folder.name))
    lines = []
    for step in range(10, steps + 1, 10):
        loss = 4.0 * 2.718 ** (-step / 70) + 0.06 + rng.uniform(0, 0.03)
        lines.append({"step": step, "loss": loss, "learning_rate": 1e-3})
        if step % 100 == 0:
            lines.append({"step": step, "eval_loss": loss + 0.08})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_json(folder / "run.json", {"llm_digest": {"before": digest, "after": digest}, "seed": 1})


def make_marks(folder: Path) -> None:
    """Marks of three stages, two done."""
    for place, (name, seconds) in enumerate((("scenes", 12.5), ("train_whisper", 95.0), ("unfinished", None))):
        write_json(
            folder / f"{name}.json",
            {
                "name": name, "title": f"Stage {name}", "command": f"python {name}.py --seed 1", "key": "k",
                "done": seconds is not None, "seconds": seconds, "place": place,
            },
        )  # fmt: skip


def make_fake_job(folder: Path, count: int = 60, seeds: int = 0) -> Manifest:
    """Everything a report reads, below ``folder``; with ``seeds`` also an ablation over that many seeds."""
    choice_set, open_set = make_test_sets(folder, count)
    systems = []
    for place, (key, (role, skill)) in enumerate(SKILLS.items()):
        choice, free = folder / "generated" / f"mini_mcqa_{key}", folder / "generated" / f"mini_test_{key}"
        answer_choices(choice_set, choice, skill, role == "oracle", seed=10 + place)
        answer_open(open_set, free, skill, role == "oracle", seed=50 + place)
        systems.append(SystemRuns(key, TITLES[key], role, str(choice), str(free)))  # type: ignore[arg-type]
    for seed in range(1, seeds + 1):
        for group, level in (("rephrased", 0.9), ("not rephrased", 0.8)):
            out = folder / "generated" / f"{group} {seed}"
            answer_choices(choice_set, out, {"known": level, "unseen": level - 0.15}, group[0] == "n", seed)
            systems.append(
                SystemRuns(f"{group}-{seed}", f"{group}, seed {seed}", "system", str(out), None, group, seed)
            )
    plain, rephrased = make_targets(folder, 200)
    for name in ("mini_whisper", "mini_alarm_ca", "mini_alarm_p"):
        make_training(folder / "saved" / name)
    scores = folder / "scores.json"
    write_json(scores, {"held_out": {"opposite": {"n": 100, "exact": 0.99}, "all": {"n": 400, "exact": 0.985}}})
    make_marks(folder / "stages")
    manifest = Manifest(
        choice_set=str(choice_set),
        open_set=str(open_set),
        systems=systems,
        main="alarm_ca",
        targets=[
            TargetSet("Targets as generated", str(plain), "plain"),
            TargetSet("Targets, rephrased", str(rephrased), "rephrased"),
        ],
        trainings=[
            TrainingRun(title, str(folder / "saved" / name))
            for title, name in (
                ("AL-Whisper", "mini_whisper"),
                ("ALARM-CA", "mini_alarm_ca"),
                ("ALARM-P", "mini_alarm_p"),
            )
        ],
        text_skill=TextSkill(str(scores), str(scores)),
        stages=str(folder / "stages"),
    )
    write_manifest(folder / "manifest.json", manifest)
    return manifest


if __name__ == "__main__":
    from examples.miniature.report.build import build_report

    target = Path(sys.argv[1])
    build_report(make_fake_job(target, seeds=3), target / "report.html")
