"""Stages of the main job in order, and the manifest of its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.miniature.job.commands import ADAPTERS, FUSIONS, Answers, Builder, Layout, Parts, Size
from examples.miniature.job.stage import Stage
from examples.miniature.report.manifest import Manifest, TargetSet, TextSkill, TrainingRun

SIZES = {"default": Size(1600, 160, 120, 240, 750, 300, 500), "small": Size(48, 8, 6, 12, 4, 4, 4)}
ABLATION_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Job:
    """Stages in order, and the manifest of the report."""

    stages: tuple[Stage, ...]
    manifest: Manifest


def build_job(layout: Layout, size: Size, full: bool) -> Job:
    """The stages of the main job, or of the full one, which trains every part from scratch and adds the ablations."""
    parts = Parts()
    if full:
        parts = Parts(layout.saved / "llm", layout.saved / "encoders", ("train_llm", "train_encoders"))
    builder = Builder(layout, size, parts)
    stages = [*(_frozen_parts(builder) if full else []), builder.scenes(), builder.responses()]
    stages += [builder.adapter(name, f"mini_{name}") for name in ADAPTERS]
    adapters = {name: f"mini_{name}" for name in ADAPTERS}
    stages += [builder.fusion(name, f"mini_{name}", adapters) for name in FUSIONS]
    specs = main_answers()
    for seed in ABLATION_SEEDS if full else ():
        more, answered = _ablation(builder, seed)
        stages += more
        specs += answered
    stages += [stage for spec in specs for stage in builder.answers(spec)]
    stages.append(builder.text_skill([stage.name for stage in stages if stage.name.startswith("train_")]))
    stages.append(builder.report([stage.name for stage in stages]))
    return Job(tuple(stages), _manifest(builder, specs))


def main_answers() -> list[Answers]:
    """Systems and controls of the headline table. The oracle and "no audio" use only the language model."""
    ca = ("mini_alarm_ca",)
    return [
        Answers("alarm_ca", "ALARM-CA", ca),
        Answers("alarm_p", "ALARM-P", ("mini_alarm_p",)),
        Answers("al_whisper", "AL-Whisper", ("mini_whisper",)),
        Answers("text_oracle", "Text oracle", (), "oracle", "description"),
        Answers("no_audio", "No audio", (), "no_audio", "none", open_questions=False),
        Answers("wrong_audio", "Wrong audio", ca, "wrong_audio", "other", open_questions=False),
    ]


def _ablation(builder: Builder, seed: int) -> tuple[list[Stage], list[Answers]]:
    """Trainings and runs of one seed: single encoders, with and without rephrasing, CA, P, and the ensemble."""

    def run(name: str) -> str:
        return f"seed{seed}_{name}"

    adapters = {name: run(name) for name in ADAPTERS}
    stages = [builder.adapter(name, adapters[name], seed=seed) for name in ADAPTERS]
    stages.append(builder.adapter("whisper", run("whisper_plain"), "mini_no_rephrase", seed))
    stages += [builder.fusion(name, run(name), adapters, seed) for name in FUSIONS]
    variants: list[tuple[str, str, tuple[str, ...]]] = [
        *((name, title, (run(name),)) for name, (title, _) in FUSIONS.items()),
        ("ensemble", "ALARM-CA with AL-Whisper (ensemble)", (run("alarm_ca"), run("whisper"))),
        *((name, title, (run(name),)) for name, title in ADAPTERS.items()),
        ("whisper_plain", "AL-Whisper, targets not rephrased", (run("whisper_plain"),)),
    ]
    answers = [
        Answers(run(key), f"{title}, seed {seed}", checkpoints, open_questions=False, group=title, seed=seed)
        for key, title, checkpoints in variants
    ]
    return stages, answers


def _frozen_parts(builder: Builder) -> list[Stage]:
    """Training of the language model and the encoders from scratch."""
    llm, encoders = builder.parts.llm, builder.parts.encoders
    return [
        builder.stage(
            "train_llm",
            "Train the miniature language model, on text alone",
            f"python scripts/mini/train_llm.py --out {llm} --threads 1",
            (),
            llm,
        ),
        builder.stage(
            "train_encoders",
            "Train the miniature encoders",
            f"python scripts/mini/train_encoders.py --output {encoders}",
            (),
            encoders,
            files=[Path("assets/mini/sounds")],
        ),
    ]


def _manifest(builder: Builder, specs: Sequence[Answers]) -> Manifest:
    layout = builder.layout
    plain, rephrased = builder.target_folders()
    titles = [(f"mini_{name}", title) for name, title in ADAPTERS.items()]
    titles += [(f"mini_{name}", title) for name, (title, _) in FUSIONS.items()]
    return Manifest(
        choice_set=str(layout.data / "raw" / "mini_mcqa"),
        open_set=str(layout.data / "raw" / "mini_test"),
        systems=[builder.runs(spec) for spec in specs],
        main="alarm_ca",
        targets=[
            TargetSet("Targets as generated", str(plain), "plain"),
            TargetSet("Targets, rephrased", str(rephrased), "rephrased"),
        ],
        trainings=[TrainingRun(title, str(layout.saved / run)) for run, title in titles],
        text_skill=TextSkill(str(builder.parts.llm / "scores.json"), str(builder.text_skill_file)),
        stages=str(layout.out / "stages"),
    )
