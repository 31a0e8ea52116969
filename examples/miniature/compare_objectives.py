"""Objectives of training compared on the miniature: how soon each reaches the final accuracy of cross-entropy.

Every run trains the adapter of the mini Whisper and answers evaluation rows at each save, greedily. An answer counts
as right when, after its reasoning, it equals the target's: what the language model answers when it reads the
description.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.config import compose
from src.common.files import read_json_lines
from src.common.log import get_logger
from src.prompts import load_prompts
from src.prompts.leakage import leaks_text_source
from src.prompts.reasoning import split_response
from src.training.run import run_training

log = get_logger(__name__)
OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "ce": (),
    "kl": ("objective=kl",),
    "half of each": ("objective=kl", "objective.ce_weight=0.5"),
}
"""Options of the compared runs; cross-entropy comes first."""


@dataclass(frozen=True)
class ComparedRun:
    """One run: share of right answers and of answers in a reader's words, by step."""

    objective: str
    seed: int
    accuracy: dict[int, float]
    leaks: dict[int, float]

    def reaches(self, accuracy: float) -> int | None:
        """First step whose accuracy is at least that."""
        return next((step for step, value in sorted(self.accuracy.items()) if value >= accuracy), None)

    @property
    def last(self) -> int:
        """Last step that was measured."""
        return max(self.accuracy)


def train_and_score(
    objective: str, seed: int, folder: Path, steps: int, every: int, rows: int, options: Sequence[str] = ()
) -> ComparedRun:
    """Train in ``folder``, unless that is done, and score its sample answers; ``options`` are further overrides."""
    if not (folder / "run.json").exists():
        words = [
            *("model=mini_whisper", "dataset=mini", "training_args=mini", "prompts=mini", f"seed={seed}"),
            *(f"training_args.output_dir={folder}", f"training_args.max_steps={steps}"),
            *("training_args.save_strategy=steps", f"training_args.save_steps={every}"),
            *("training_args.save_total_limit=1", "length_grouping=across_steps"),
            *(f"encoder_cache_mb={2**10}", f"encoder_cache_dir={folder.parent / 'encoder_states'}"),
            *(f"sample_generations={rows}", "sample_tokens=128"),
            *OBJECTIVES[objective],
            *options,
        ]
        run_training(compose("train", words))
    return score_samples(objective, seed, list(read_json_lines(folder / "samples.jsonl")))


def score_samples(objective: str, seed: int, lines: Sequence[Mapping[str, Any]]) -> ComparedRun:
    """Shares by step of the lines of a ``samples.jsonl``."""
    prompts = load_prompts("mini")
    right: dict[int, list[bool]] = {}
    leaks: dict[int, list[bool]] = {}
    for line in lines:
        answer, target = (split_response(str(line[key])) for key in ("answer", "target"))
        right.setdefault(line["step"], []).append(answer.answer.strip() == target.answer.strip())
        leaks.setdefault(line["step"], []).append(leaks_text_source(str(line["answer"]), prompts))
    share = {
        name: {step: sum(flags) / len(flags) for step, flags in found.items()}
        for name, found in (("right", right), ("leaks", leaks))
    }
    return ComparedRun(objective, seed, share["right"], share["leaks"])


def summary(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """A row per objective, means over its seeds.

    ``reached`` counts the seeds that reach the final accuracy of ``ce``, a mean over its seeds; ``steps`` is the mean
    of the steps at which they first do, or None.
    """
    final = statistics.mean(run.accuracy[run.last] for run in runs if run.objective == "ce")
    rows = []
    for objective in dict.fromkeys(run.objective for run in runs):
        own = [run for run in runs if run.objective == objective]
        steps = [step for run in own if (step := run.reaches(final)) is not None]
        last = [run.accuracy[run.last] for run in own]
        rows.append(
            {
                "objective": objective,
                "seeds": len(own),
                "final_accuracy": statistics.mean(last),
                "lowest": min(last),
                "highest": max(last),
                "reached": len(steps),
                "steps": statistics.mean(steps) if steps else None,
                "leaks": statistics.mean(run.leaks[run.last] for run in own),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| objective | final accuracy (range) | seeds that reach that of ce | steps to it | reader's words |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        spread = f"{row['lowest']:.1%} to {row['highest']:.1%}"
        steps = "-" if row["steps"] is None else f"{row['steps']:.0f}"
        lines.append(
            f"| {row['objective']} | {row['final_accuracy']:.1%} ({spread}) | {row['reached']} of {row['seeds']} | "
            f"{steps} | {row['leaks']:.1%} |"
        )
    return "\n".join(lines)
