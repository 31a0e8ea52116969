"""The exact texts that the corpus stages show to a language model."""

from types import SimpleNamespace

from src.prompts.messages import (
    ResponseTexts,
    checker_messages,
    prompt_checker_messages,
    rephrase_messages,
    self_generation_messages,
    writer_messages,
)
from src.prompts.texts import load_prompts

USUAL = load_prompts("full")
PROMPTS = SimpleNamespace(
    self_generation_system="answer.",
    description_open="<a>",
    description_close="</a>",
    rephrase_system="rewrite.",
    rephrase_instruction="rewrite this.",
    response_tag="response",
    reasoning_tag="r",
    self_generation_user=USUAL.self_generation_user,
    rephrase_user=USUAL.rephrase_user,
    checker_user=USUAL.checker_user,
    writer_system="write. like:\n{examples}",
    prompt_checker_system="check.",
)


def test_self_generation() -> None:
    assert self_generation_messages(PROMPTS, "[00:00-00:01] |x| (duration: 1s)", "what is it?") == [
        {"role": "system", "content": "answer."},
        {"role": "user", "content": "<a>[00:00-00:01] |x| (duration: 1s)</a>\n\nwhat is it?"},
    ]


def test_rephrasing_shows_the_response_alone() -> None:
    assert rephrase_messages(PROMPTS, ResponseTexts("t", "<r>\nt\n</r>\n\na")) == [
        {"role": "system", "content": "rewrite."},
        {"role": "user", "content": "rewrite this.\n<response>\n<r>\nt\n</r>\n\na\n</response>"},
    ]


def test_checking() -> None:
    assert checker_messages(PROMPTS, "judge.", ResponseTexts("y", "x")) == [
        {"role": "system", "content": "judge."},
        {"role": "user", "content": "<response>\nx\n</response>"},
    ]


def test_writing_prompts_shows_examples_and_the_style() -> None:
    assert writer_messages(PROMPTS, ["d {examples}", "e"], "f {examples}", "ask.") == [
        {"role": "system", "content": "write. like:\n- d {examples}\n- e"},
        {"role": "user", "content": "<a>f {examples}</a>\n\nask."},
    ]


def test_checking_prompts_shows_them_numbered() -> None:
    assert prompt_checker_messages(PROMPTS, "f", ["one?", "two:\n- a"]) == [
        {"role": "system", "content": "check."},
        {"role": "user", "content": "<a>f</a>\n\n1. one?\n2. two:\n   - a"},
    ]
