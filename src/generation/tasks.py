"""The two kinds of runs: free questions and multiple choice. What is asked, and which columns are saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.prompts import Prompts
from src.prompts.options import (
    AnswerFallback,
    choice_texts,
    layout_question,
    read_choices,
    read_reply,
    shuffled_order,
)
from src.prompts.thoughts import extract_answer, split_response

Row = Mapping[str, Any]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """``content`` is the user's text of a row (raises ValueError with the reason why there is none).

    ``columns`` are the saved columns of a row and its record, in order. ``free_text`` tells that the rows hold one
    text column instead of question and choices.
    """

    name: str
    free_text: bool
    system: Callable[[Prompts], str]
    content: Callable[[Row, str, Prompts], str]
    columns: Callable[[Row, str, Record, AnswerFallback, bool], dict[str, Any]]


def _free_content(row: Row, text_column: str, prompts: Prompts) -> str:
    text = row[text_column]
    if not isinstance(text, str):
        raise ValueError(f"the row has no text in column {text_column!r}")
    return text


def _free_columns(
    row: Row, text_column: str, record: Record, fallback: AnswerFallback, inside_thoughts: bool
) -> dict[str, Any]:
    response = record["response"]
    split = None if response is None else split_response(response, inside_thoughts)
    about = next((name for name in ("audio_description", "question") if name in row), None)
    described = {} if about is None else {"audio_description": row[about]}
    return {
        "context": row[text_column],
        **described,
        "llm_answer": None if response is None else extract_answer(response),
        "answer_text": None if split is None else split.answer,
        "thoughts": None if split is None else split.thoughts,
        "response": response,
        "parse_status": "error" if split is None else split.status,
    }


def _choice_content(row: Row, text_column: str, prompts: Prompts) -> str:
    if not isinstance(row["question"], str):
        raise ValueError("the row has no question")
    return layout_question(row["question"], read_choices(row["choices"]), prompts)


def _choice_columns(
    row: Row, text_column: str, record: Record, fallback: AnswerFallback, inside_thoughts: bool
) -> dict[str, Any]:
    response = record["response"]
    choices = choice_texts(row["choices"])
    parsed = None if response is None else read_reply(response, choices, fallback, inside_thoughts)
    return {
        "question": row["question"],
        "choices": choices,
        "llm_answer": None if parsed is None else parsed.choice,
        "thoughts": None if response is None else split_response(response, inside_thoughts).thoughts,
        "response": response,
        "parse_status": "error" if parsed is None else parsed.status,
    }


FREE = Task("free", True, lambda prompts: prompts.generation_system, _free_content, _free_columns)


def shuffled_choice(seed: int | None) -> Task:
    """Multiple choice with every row's options shown in an order drawn by ``seed``; None leaves them as they are.

    ``choices`` are saved in the data set's order all the same; ``shown_order`` holds the places.
    """
    if seed is None:
        return MULTIPLE_CHOICE

    def shown(row: Row) -> tuple[Row, list[int]]:
        choices = read_choices(row["choices"])
        key = f"{row.get('id', '')}/{row.get('dataset_index', '')}/{row['question']}"
        order = shuffled_order(len(choices), seed, key)
        return {**row, "choices": [choices[number] for number in order]}, order

    def content(row: Row, text_column: str, prompts: Prompts) -> str:
        return _choice_content(shown(row)[0], text_column, prompts)

    def columns(
        row: Row, text_column: str, record: Record, fallback: AnswerFallback, inside_thoughts: bool
    ) -> dict[str, Any]:
        try:
            changed, order = shown(row)
        except ValueError:  # it was not asked
            changed, order = row, []
        found = _choice_columns(changed, text_column, record, fallback, inside_thoughts)
        return {**found, "choices": choice_texts(row["choices"]), "shown_order": order}

    return replace(MULTIPLE_CHOICE, content=content, columns=columns)


MULTIPLE_CHOICE = Task("mcqa", False, lambda prompts: prompts.mcqa_system, _choice_content, _choice_columns)


def find_task(name: str, options_seed: int | None = None) -> Task:
    """The task of a run by its name, in the process of a worker too."""
    return FREE if name == FREE.name else shuffled_choice(options_seed)
