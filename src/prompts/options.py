"""Multiple-choice questions: how options are laid out for the model."""

from __future__ import annotations

from collections.abc import Sequence


def layout_question(question: str, choices: Sequence[str]) -> str:
    """The user's text of a multiple-choice question: options numbered from 0, one a line, both parts in tags."""
    options = "\n".join(f"(Option_{number}) {choice}" for number, choice in enumerate(choices))
    return f"<question>\n{question}\n</question>\n<options>\n{options}\n</options>"
