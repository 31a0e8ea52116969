"""Dry runs of the stages of language models: what they count, and that nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from src.common.estimate import Estimate
from src.common.paths import data_root, raw_dir
from src.corpus.targets.dry_run import DryRun
from src.corpus.targets.instructions import estimate_instruction_responses
from src.corpus.targets.llm_settings import AnswerSettings, PromptSettings, ResponseSettings
from src.corpus.targets.prompts import estimate_prompts
from src.corpus.targets.responses import estimate_responses
from src.inference.types import Request, Result, Sampling
from src.prompts.reasoning import THINKING
from tests.corpus.targets.fakes import FakeEngine, reader_and_listener, save_prompts
from tests.corpus.targets.test_prompts import write_and_check
from tests.support.tiny_corpus import make_rows, save_raw
from tests.support.tiny_instructions import make_questions, save_questions

TOKENS, SECONDS = 10, 0.5


class TimedEngine(FakeEngine):
    """Every response has ten tokens and has taken half a second, that of a warm-up too."""

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results with time and tokens."""
        for result in super().run(requests, sampling):
            yield Result(result.key, result.text, tuple(range(TOKENS)), seconds=SECONDS, error=result.error)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of its own."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path


def stored() -> set[Path]:
    """All files of the data root."""
    return {path for path in data_root().rglob("*") if path.is_file()}


def shown(lines: list[str], found: Estimate) -> str:
    """The text, which is that of the estimate."""
    assert lines == found.lines()
    return "\n".join(lines)


def test_both_stages_of_responses_are_extrapolated(root: Path) -> None:
    save_prompts("mini", 40)
    save_raw(make_rows(40))
    settings = ResponseSettings(
        llm="org/tiny", prompts="mini", rephrase=True, max_tokens=64, max_thinking_tokens=16, max_num_seqs=4, seed=3
    )
    before, engine, lines = stored(), TimedEngine(reader_and_listener), list[str]()
    options = DryRun(rows=6, price=3600.0, json=root / "estimate.json")
    found = estimate_responses(
        ["mini"], settings, options, lines.append, start_engine=lambda llm: engine, reasoning=THINKING
    )
    assert stored() == before and engine.closed
    assert (found.rows, found.sampled, found.bad) == (40, 8, 0), "two waves of the four that fit at once"
    assert len(engine.seen) == 1 + 2 * 8, "one to warm up"
    assert found.tokens == 2 * 40 * TOKENS
    assert found.seconds == pytest.approx(2 * 40 * SECONDS / 4)
    assert found.cost == pytest.approx(found.seconds)
    assert found.hours == pytest.approx(sum(row["duration"] for row in make_rows(40)) / 3600, rel=1e-3)
    text = shown(lines, found)
    assert "rows: 40" in text and "rephrase by org/tiny: 40 requests, 10 tokens each" in text
    assert json.loads((root / "estimate.json").read_text())["run"]["tokens"] == found.tokens


def test_rows_that_fail_are_counted_again(root: Path) -> None:
    save_prompts("mini", 8)
    settings = ResponseSettings(llm="org/tiny", prompts="mini", rephrase=False, max_num_seqs=4, tries=3)
    engine = TimedEngine(lambda prompt, request: "" if len(engine.seen) % 2 else "fine")
    found = estimate_responses(
        ["mini"], settings, DryRun(8), print, start_engine=lambda llm: engine, reasoning=THINKING
    )
    assert found.bad == 4 and found.hours is None
    assert found.tokens == round(8 * TOKENS * (1 + 0.5 + 0.25))


def test_prompts_and_instruction_sets() -> None:
    save_raw(make_rows(9), "mine")
    settings = PromptSettings(llm="org/tiny", prompts="mini", max_num_seqs=4, tries=1)
    before, lines = stored(), list[str]()
    found = estimate_prompts(["mine"], settings, DryRun(4), lines.append, lambda llm: TimedEngine(write_and_check))
    assert 0 < found.rows <= 9 and found.sampled == 4 and "requests" in shown(lines, found)
    save_questions("heysquad_human", {"train": make_questions(7), "validation": make_questions(4, 100)})
    before, lines = stored(), []
    found = estimate_instruction_responses(
        ["heysquad_human"],
        AnswerSettings(llm="org/tiny", max_tokens=64, max_num_seqs=4),
        DryRun(4),
        lines.append,
        start_engine=lambda llm: TimedEngine(lambda prompt, request: "an answer"),
    )
    assert found.rows == 2 * 11 and stored() == before and raw_dir("heysquad_human").is_dir()
