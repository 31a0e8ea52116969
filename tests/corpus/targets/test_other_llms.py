"""Targets by language models of other families: without reasoning, or with another format of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk

from src.common.errors import UserError
from src.common.paths import REPO_ROOT, responses_dir
from src.corpus.analysis.response_sets import measure_responses
from src.corpus.targets.answer_filter import LengthLimits, require_rows
from src.corpus.targets.llm_settings import ResponseSettings
from src.corpus.targets.responses import adapt_to_llm, generate_responses
from src.inference.types import Request
from src.prompts.find_reasoning import choose_reasoning
from src.prompts.reasoning import FORMATS, THINKING, Reasoning
from tests.corpus.targets.fakes import FakeEngine, is_rephrase, response_in, save_prompts
from tests.prompts.families import FAMILIES

ROWS = 6


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    save_prompts("mini", ROWS)
    return tmp_path


def llm(folder: Path, family: str) -> str:
    """A folder with the tokenizer of a family, named as a model."""
    FAMILIES[family].tokenizer().save_pretrained(folder / "other")
    return str(folder / "other")


def brief(prompt: str, request: Request) -> str:
    assert not is_rephrase(prompt)
    return "the description says a kick."


def test_a_model_that_does_not_reason_is_not_rephrased_and_that_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ResponseSettings(llm(root, "SmolLM2"), prompts="full")
    engine = FakeEngine(brief)
    with caplog.at_level(logging.INFO):
        summary = generate_responses(["mini"], settings, start_engine=lambda name: engine)
    assert len(engine.seen) == ROWS and list(summary) == ["mini_other_512"]
    assert "does not reason, by its chat template: self-generation without self-rephrasing" in caplog.text
    result = summary["mini_other_512"]
    assert (result["ok"], result["unfinished_thoughts"], result["filter"]["train"]["kept"]) == (ROWS, 0, ROWS)
    assert result["betraying"] == {"response": ROWS, "thoughts": 0, "answer": ROWS}
    record = json.loads((responses_dir("other", "mini_other_512") / "run.json").read_text())
    assert record["reasoning"] == {"format": "think", "opened": False, "expected": False}
    assert measure_responses("mini_other_512", None, 0)[0]["forms"] == {"answered": ROWS}
    again = generate_responses(["mini"], settings, start_engine=lambda name: pytest.fail("an engine was started"))
    assert again["mini_other_512"]["rows"] == ROWS


@pytest.mark.parametrize(
    ("family", "chosen", "expected"),
    [
        ("SmolLM2", None, (False, Reasoning(expected=False))),
        ("SmolLM2", "think", (True, Reasoning())),
        ("Qwen3 hybrid", None, (True, Reasoning())),
        ("Qwen3 hybrid", "none", (False, Reasoning(FORMATS["none"], expected=False))),
        ("Qwen3 Thinking", None, (True, THINKING)),
        ("Granite 3.3", None, (False, Reasoning(FORMATS["granite"], expected=False))),
        ("Granite 3.3", "granite", (True, Reasoning(FORMATS["granite"]))),
    ],
)
def test_rephrasing_follows_the_template_or_the_named_format(
    root: Path, family: str, chosen: str | None, expected: tuple[bool, Reasoning]
) -> None:
    settings, reasoning = adapt_to_llm(ResponseSettings(llm(root, family), reasoning=chosen))
    assert (settings.rephrase, reasoning) == expected
    assert settings.length_limits(reasoning).tokens_min == (100 if expected[0] else 1)
    given = dataclasses.replace(settings, tokens_min=7)
    assert given.length_limits(reasoning).tokens_min == 7


@pytest.mark.parametrize("name", ["harmony", "think_brackets", "granite"])
def test_a_model_with_another_format_is_rephrased_in_it(root: Path, name: str) -> None:
    form = FORMATS[name]

    def write(thoughts: str, answer: str) -> str:
        return f"{form.opening}{thoughts}{form.close('</think>')}{answer}{form.answer_closing}"

    def reply(prompt: str, request: Request) -> str:
        if not is_rephrase(prompt):
            return write("the description says a kick.", "a kick.")
        text = response_in(prompt)
        assert not any(mark in text for mark in form.marks)
        return write("easy.", f"<answer>{text.replace('the description says', 'i hear')}</answer>")

    engine = FakeEngine(reply)
    engine.tokenizer.chat_template = None  # type: ignore[attr-defined]
    choose_reasoning(engine.tokenizer, name)
    settings = ResponseSettings("org/other", prompts="mini", reasoning=name)
    summary = generate_responses(["mini"], settings, start_engine=lambda llm: engine, reasoning=Reasoning(form))
    plain, final = summary.values()
    assert plain["betraying"] == {"response": ROWS, "thoughts": ROWS, "answer": 0}
    assert (final["ok"], final["betraying"]["response"], final["unfinished_thoughts"]) == (ROWS, 0, 0)
    folder = responses_dir("other", list(summary)[1])
    rows = load_from_disk(str(folder))["train"].to_list()
    assert {row["llm_answer_with_context"] for row in rows} == {write("i hear a kick.", "a kick.")}
    assert measure_responses(folder.name, None, 0)[0]["forms"] == {"answered": ROWS}


def test_a_filter_that_leaves_nothing_is_an_error_after_the_sets_are_written(root: Path) -> None:
    settings = ResponseSettings("org/other", prompts="full", rephrase=False)

    def run(settings: ResponseSettings, engine: FakeEngine) -> None:
        generate_responses(["mini"], settings, start_engine=lambda llm: engine, reasoning=THINKING)

    with pytest.raises(
        UserError, match=rf"leaves no row to train on: {ROWS} too_short; .* 100 to 612 tokens"
    ) as raised:
        run(settings, FakeEngine(brief))
    assert "--tokens-min" in str(raised.value)
    assert len(load_from_disk(str(responses_dir("other", "mini_other_512")))["train"]) == ROWS
    engine = FakeEngine(brief)
    run(dataclasses.replace(settings, tokens_min=1), engine)
    assert not engine.seen, "the responses are kept"
    counts = {"train": {"before": 2, "kept": 1, "dropped": {"too_long": 1}}, "validation": {"kept": 0, "dropped": {}}}
    require_rows("name", counts, LengthLimits())
    require_rows("name", {"train": {"kept": 0, "dropped": {"no_answer": 6}}}, LengthLimits())


def test_the_filters_own_command_fails_too(root: Path) -> None:
    settings = ResponseSettings("org/other", prompts="full", rephrase=False, tokens_min=1)
    save_prompts("esc50", ROWS)
    generate_responses(["esc50"], settings, start_engine=lambda llm: FakeEngine(brief), reasoning=THINKING)
    command = [sys.executable, "scripts/alarm/validate_and_filter_answers.py", "esc50", "--llm", "other"]
    done = subprocess.run([*command, "--max-tokens", "512", "--plain"], cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "leaves no row to train on" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
