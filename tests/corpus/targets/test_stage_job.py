"""Rows through stages with retries, over a scripted engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from src.corpus.targets.engine_pool import EnginePool
from src.corpus.targets.stage_job import Stage, StageJob, run_jobs
from src.inference.types import Request, Result
from src.prompts.messages import Messages
from tests.corpus.targets.fakes import FakeEngine

KEYS = np.array([10, 11, 12, 13], dtype=np.int64)


class World:
    """Two stages, ``draft`` by one model and ``polish`` by another; says which requests were made."""

    def __init__(self, folder: Path, second_llm: str = "org/second") -> None:
        self.folder, self.second_llm = folder, second_llm
        self.texts = ["a", "b", "c", "d"]
        self.bad: set[tuple[str, str]] = set()
        self.seen: list[tuple[str, str]] = []
        self.starts: list[str] = []
        self.pool = EnginePool(self.start)

    def start(self, llm: str) -> FakeEngine:
        """An engine that repeats what it is asked."""
        self.starts.append(llm)
        return FakeEngine(lambda prompt, request: self.reply(prompt, request), room=1)

    def reply(self, prompt: str, request: Request) -> str:
        asked = prompt.partition("user\n")[2].partition("<")[0]
        stage, text = asked.split(" ")
        self.seen.append((stage, text))
        return "bad" if (stage, text) in self.bad else f"{stage}({text})"

    def job(self, split: str, rows: Sequence[int] | None = None) -> StageJob:
        """A job of two stages."""

        def read(result: Result, needed: Any, tokenizer: Any) -> dict[str, Any]:
            return {"status": "failed" if result.text == "bad" else "ok", "text": result.text}

        def stage(name: str, llm: str, first: bool) -> Stage:
            def ask(row: int, inputs: Sequence[str]) -> tuple[Messages, None]:
                return [{"role": "user", "content": f"{name} {inputs[0]}"}], None

            def inputs(row: int, previous: Any) -> tuple[str]:
                return (self.texts[row] if first else previous["text"],)

            return Stage(name, llm, {"max_tokens": 8, "max_thinking_tokens": -1}, {"llm": llm}, inputs, ask, read)

        stages = [stage("draft", "org/first", True), stage("polish", self.second_llm, False)]
        some = None if rows is None else np.array(rows)
        texts: Any = SimpleNamespace(keys=KEYS)
        return StageJob("corpus", split, texts, stages, self.folder / split, 0, rows=some)


def run(world: World, attempts: int, *jobs: StageJob) -> None:
    world.seen.clear()
    run_jobs(jobs, attempts, world.pool, "rows")
    for job in jobs:
        job.close()


def test_an_attempt_takes_up_the_rows_that_have_not_passed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.bad = {("draft", "b"), ("polish", "draft(c)")}
    job = world.job("train")
    run(world, 2, job)
    first = [("draft", text) for text in "abcd"] + [("polish", f"draft({text})") for text in "acd"]
    assert world.seen == [*first, ("draft", "b"), ("draft", "c"), ("polish", "draft(c)")]
    assert job.passed.tolist() == [0, -1, -1, 0] and job.attempts == 2
    world.bad.clear()
    job = world.job("train")
    run(world, 3, job)
    assert world.seen == [("draft", "b"), ("draft", "c"), ("polish", "draft(b)"), ("polish", "draft(c)")]
    assert job.passed.tolist() == [0, 2, 2, 0], "what was logged before is not asked again"


def test_a_changed_input_is_asked_again_with_what_depends_on_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    run(world, 1, world.job("train"))
    world.texts[2] = "new"
    run(world, 1, world.job("train"))
    assert world.seen == [("draft", "new"), ("polish", "draft(new)")]


def test_engines_are_started_once_for_all_jobs(tmp_path: Path) -> None:
    world = World(tmp_path)
    run(world, 1, world.job("train", [0]), world.job("validation", [3]))
    assert world.starts == ["org/first", "org/second"]
    assert [stage for stage, _ in world.seen] == ["draft", "draft", "polish", "polish"]
    alone = World(tmp_path / "one model", "org/first")
    run(alone, 1, alone.job("train", [0]), alone.job("validation", [3]))
    assert alone.starts == ["org/first"]
    assert [stage for stage, _ in alone.seen] == ["draft", "polish", "draft", "polish"], "job by job"
