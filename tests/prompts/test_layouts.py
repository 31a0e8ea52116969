"""The exact texts that the corpus stages show to a language model."""

from types import SimpleNamespace

from src.prompts.layouts import checker_messages, rephrase_messages, self_generation_messages

PROMPTS = SimpleNamespace(
    self_generation_system="answer.",
    description_open="<a>",
    description_close="</a>",
    rephrase_system="rewrite.",
    rephrase_instruction="rewrite this.",
    response_tag="response",
)


def test_self_generation() -> None:
    assert self_generation_messages(PROMPTS, "[00:00-00:01] |x| (duration: 1s)", "what is it?") == [
        {"role": "system", "content": "answer."},
        {"role": "user", "content": "<a>[00:00-00:01] |x| (duration: 1s)</a>\n\nwhat is it?"},
    ]


def test_rephrasing_shows_the_response_alone() -> None:
    assert rephrase_messages(PROMPTS, "<r>\nt\n</r>\n\na") == [
        {"role": "system", "content": "rewrite."},
        {"role": "user", "content": "rewrite this.\n<response>\n<r>\nt\n</r>\n\na\n</response>"},
    ]


def test_checking() -> None:
    assert checker_messages("judge.", "response", "x") == [
        {"role": "system", "content": "judge."},
        {"role": "user", "content": "<response>\nx\n</response>"},
    ]
