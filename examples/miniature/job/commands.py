"""Builds the commands of the main job, each as a user would type it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from examples.miniature.job.stage import Stage
from examples.miniature.report.manifest import Role, SystemRuns
from src.common.naming import ResponseName, generated_name
from src.common.paths import REPO_ROOT

ADAPTERS = {"whisper": "AL-Whisper", "w2vbert": "AL-W2V-BERT", "sslam": "AL-SSLAM", "muq": "AL-MuQ"}
"""Encoders with a single-encoder system, and the titles of these systems."""
MAIN_ENCODER = "whisper"
"""Encoder whose stream is the query of both fusions; its adapter is trained for ``Size.main_steps``."""
FUSIONS = {"alarm_ca": ("ALARM-CA", tuple(ADAPTERS)), "alarm_p": ("ALARM-P", ("whisper",))}
"""Fusion models: title, and the pretrained adapters that stay frozen."""
LAUNCH = "accelerate launch --quiet --config-file src/configs/accelerate/single.yaml train.py"
MAX_TOKENS, THINKING, TARGET_THINKING = 256, 256, 512
CACHE_MB = 2000
"""Cache of encoder states in memory: several runs train on the same clips with the same frozen encoders."""
MINI_PROMPTS = Path("src/prompts/texts/mini.yaml")


@dataclass(frozen=True)
class Size:
    """Numbers of scenes, training steps, and test questions per split."""

    train_scenes: int
    validation_scenes: int
    open_questions: int
    choice_questions: int
    main_steps: int
    adapter_steps: int
    fusion_steps: int


@dataclass(frozen=True)
class Layout:
    """Folders of data sets, checkpoints, and the job's own files (records, logs, manifest, report)."""

    data: Path
    saved: Path
    out: Path

    @classmethod
    def of(cls, out: Path, size: str, full: bool) -> Layout:
        """The default job uses the folders in the README; other jobs use folders below ``out``."""
        if size == "default" and not full:
            return cls(Path("data/datasets"), Path("saved"), out)
        return cls(out / "datasets", out / "saved", out)


@dataclass(frozen=True)
class Parts:
    """Folders of the frozen language model and encoders, and the stages that train them."""

    llm: Path = Path("assets/mini/llm")
    encoders: Path = Path("assets/mini/encoders")
    made_by: tuple[str, ...] = ()

    def overrides(self, encoders: Sequence[str]) -> str:
        """Hydra options for parts other than the shipped ones."""
        if not self.made_by:
            return ""
        sources = (f"model.config.encoders.{name}.weights.source={self.encoders / name}" for name in encoders)
        return " ".join((f"model.llm={self.llm}", *sources))


@dataclass(frozen=True)
class Answers:
    """One run over the test sets: checkpoints, input, and its name in the report."""

    key: str
    title: str
    checkpoints: tuple[str, ...]
    role: Role = "system"
    audio_input: str = "clip"
    open_questions: bool = True
    group: str | None = None
    seed: int | None = None


class Builder:
    """Builds the stages of one job; see :func:`build_job`."""

    def __init__(self, layout: Layout, size: Size, parts: Parts) -> None:
        self.layout, self.size, self.parts = layout, size, parts
        self.env = {} if layout.data == Path("data/datasets") else {"ALARM_DATA_ROOT": str(layout.data)}

    def stage(
        self, name: str, title: str, command: str, after: Sequence[str], *outputs: Path, files: Sequence[Path] = ()
    ) -> Stage:
        """A stage from a command line; ``files`` are read in addition to the outputs of earlier stages."""
        return Stage(name, title, tuple(shlex.split(command)), tuple(after), tuple(files), outputs, self.env)

    @property
    def files(self) -> list[Path]:
        """Shipped files that affect targets, trainings and answers."""
        shipped = [] if self.parts.made_by else [self.parts.llm, self.parts.encoders]
        configs = sorted((REPO_ROOT / "src" / "configs").rglob("mini*.yaml"))
        return [*shipped, MINI_PROMPTS, *(path.relative_to(REPO_ROOT) for path in configs)]

    def scenes(self) -> Stage:
        """Training scenes, prompts, indexes and both test sets."""
        size = self.size
        places = ("raw/mini", "raw/mini_test", "raw/mini_mcqa", "raw_with_prompts/mini_with_prompts", "indexes/mini")
        return self.stage(
            "scenes",
            "Mix the scenes of the miniature world",
            f"python scripts/mini/make_scenes.py --train-size {size.train_scenes} "
            f"--validation-size {size.validation_scenes} --test-size {size.open_questions} "
            f"--choice-size {size.choice_questions}",
            (),
            *(self.layout.data / place for place in places),
            files=[Path("assets/mini/sounds")],
        )

    def responses(self) -> Stage:
        """Self-generated and rephrased targets."""
        plain, rephrased = self.target_folders()
        return self.stage(
            "responses",
            "Self-generation and self-rephrasing of the training targets",
            f"python scripts/alarm/generate_responses.py --dataset mini --llm {self.parts.llm} --prompts mini "
            f"--rephrase --max-tokens 512 --max-thinking-tokens {TARGET_THINKING} "
            "--temperature 0 --max-model-len 2048",
            ("scenes", *self.parts.made_by),
            plain,
            rephrased,
            files=self.files,
        )

    def target_folders(self) -> tuple[Path, Path]:
        """Folders of the plain and of the rephrased targets."""
        plain = ResponseName("mini", self.parts.llm.name, 512)
        rephrased = replace(plain, rephrased=True, max_thinking_tokens=TARGET_THINKING)
        root = self.layout.data / "responses" / self.parts.llm.name
        return root / plain.format(), root / rephrased.format()

    def adapter(self, encoder: str, run: str, dataset: str = "mini", seed: int | None = None) -> Stage:
        """Training of one encoder's adapter."""
        return self._training(
            run,
            f"Train {ADAPTERS[encoder]}: the adapter of one encoder",
            f"model=mini_{encoder} dataset={dataset} training_args=mini",
            self.size.main_steps if encoder == MAIN_ENCODER else self.size.adapter_steps,
            (encoder,),
            ("responses",),
            seed,
        )

    def fusion(self, model: str, run: str, adapters: dict[str, str], seed: int | None = None) -> Stage:
        """Training of a fusion model on frozen adapters; ``adapters`` names the run of each."""
        title, frozen = FUSIONS[model]
        names = ",".join(f"{name}:{adapters[name]}" for name in frozen)
        options = (
            f"model=mini_{model} dataset=mini training_args=mini_fusion pretrained_adapters_dir={self.layout.saved} "
        )
        options += f"'pretrained_adapters_names={{{names}}}' freeze_adapters=true"
        if len(frozen) < len(ADAPTERS):
            options += f" 'frozen_adapters_names=[{','.join(frozen)}]'"
        return self._training(
            run,
            f"Train {title}: the fusion, on frozen adapters",
            options,
            self.size.fusion_steps,
            tuple(ADAPTERS),
            ("responses", *(f"train_{adapters[name]}" for name in frozen)),
            seed,
        )

    def _training(
        self,
        run: str,
        title: str,
        options: str,
        steps: int,
        encoders: Sequence[str],
        after: Sequence[str],
        seed: int | None,
    ) -> Stage:
        folder = self.layout.saved / run
        words = [
            LAUNCH,
            options,
            self.parts.overrides(encoders),
            f"prompts=mini training_args.output_dir={folder} training_args.max_steps={steps}",
            f"training_args.eval_strategy=steps training_args.eval_steps={max(1, steps // 2)}",
            "length_grouping=across_steps",
            f"encoder_cache_mb={CACHE_MB} encoder_cache_dir={self.layout.out / 'encoder_states'}",
            "" if seed is None else f"seed={seed}",
        ]
        command = " ".join(word for word in words if word)
        return self.stage(f"train_{run}", title, command, after, folder, files=self.files)

    def answers(self, spec: Answers) -> list[Stage]:
        """Answers to the multiple-choice benchmark and, if ``spec.open_questions``, to the open questions."""
        programs = [("choice", "generate_vllm_mcqa.py", "mini_mcqa", "multiple-choice questions")]
        if spec.open_questions:
            programs.append(("open", "generate_vllm.py", "mini_test", "open questions"))
        after = ("scenes", *self.parts.made_by, *(f"train_{name}" for name in spec.checkpoints))
        stages = []
        for short, program, dataset, about in programs:
            command = f"python {program} dataset.name={dataset} prompts=mini model.llm={self.parts.llm} "
            command += self._audio_options(spec)
            command += f"model.max_tokens={MAX_TOKENS} model.max_thinking_tokens={THINKING} greedy=true"
            name, title = f"{short}_{spec.key}", f"{spec.title}: answers to {about}"
            stages.append(
                self.stage(name, title, command, after, self.answers_folder(spec, dataset), files=self.files)
            )
        return stages

    def _audio_options(self, spec: Answers) -> str:
        """Options for checkpoints and audio input."""
        names = [str(self.layout.saved / name) for name in spec.checkpoints]
        checkpoint = names[0] if len(names) == 1 else f"[{','.join(names)}]"
        option = f"{shlex.quote(f'checkpoint_name={checkpoint}')} " if names else ""
        return option + ("" if spec.audio_input == "clip" else f"audio_input={spec.audio_input} ")

    def answers_folder(self, spec: Answers, dataset: str) -> Path:
        """Output folder of a run."""
        checkpoints = [str(self.layout.saved / name) for name in spec.checkpoints]
        suffix = "" if spec.audio_input == "clip" else f"_{spec.audio_input}"
        name = generated_name(dataset, checkpoints or "no_checkpoint", MAX_TOKENS, THINKING) + suffix
        return self.layout.data / "generated" / self.parts.llm.name / name

    def text_skill(self, after: Sequence[str]) -> Stage:
        """Score of the language model on a skill unrelated to audio, after the trainings."""
        return self.stage(
            "text_skill",
            "Score the language model's skill on text alone again",
            f"python scripts/mini/score_llm.py --llm {self.parts.llm} --tasks opposite --out {self.text_skill_file}",
            after,
            self.text_skill_file,
            files=self.files,
        )

    @property
    def text_skill_file(self) -> Path:
        """Output file of :meth:`text_skill`."""
        return self.layout.out / "text_skill.json"

    def report(self, after: Sequence[str]) -> Stage:
        """Scores and the page."""
        return self.stage(
            "report",
            "Score the answers and write the report",
            f"python scripts/mini/make_report.py --manifest {self.layout.out / 'manifest.json'} "
            f"--out {self.layout.out / 'report.html'}",
            after,
            self.layout.out / "report.html",
            self.layout.out / "results.json",
        )

    def runs(self, spec: Answers) -> SystemRuns:
        """The report's entry of a run."""
        free = str(self.answers_folder(spec, "mini_test")) if spec.open_questions else None
        choice = str(self.answers_folder(spec, "mini_mcqa"))
        return SystemRuns(spec.key, spec.title, spec.role, choice, free, spec.group, spec.seed)
