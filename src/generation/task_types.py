"""Tasks of a run: free questions and multiple choice, each with its user texts and its saved columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.prompts import Prompts
from src.prompts.multiple_choice import (
    LIKELIHOOD,
    AnswerFallback,
    choice_texts,
    layout_question,
    read_choices,
    read_reply,
    shuffled_order,
)
from src.prompts.reasoning import Reasoning, reported_answer, split_response
from src.prompts.texts import AnswerStyle

Cells = Mapping[str, Any]
"""Columns of a row, or fields of its record."""


@dataclass(frozen=True)
class Task:
    """One kind of question.

    ``content`` returns the user's text of a row, or raises ``ValueError`` with the reason why there is none.
    ``columns`` returns the saved columns of a row and its record, in order; a choice is read in the answer style of
    the prompt set. With ``free_text`` rows have one text column, otherwise question and choices.
    """

    name: str
    free_text: bool
    system: Callable[[Prompts], str]
    content: Callable[[Cells, str, Prompts], str]
    columns: Callable[[Cells, str, Cells, AnswerFallback, Reasoning, AnswerStyle], dict[str, Any]]


def _free_content(row: Cells, text_column: str, prompts: Prompts) -> str:
    text = row[text_column]
    if not isinstance(text, str):
        raise ValueError(f"the row has no text in column {text_column!r}")
    return text


def _free_columns(
    row: Cells,
    text_column: str,
    record: Cells,
    fallback: AnswerFallback,
    reasoning: Reasoning,
    style: AnswerStyle = "number",
) -> dict[str, Any]:
    response = record["response"]
    split = None if response is None else split_response(response, reasoning)
    about = next((name for name in ("audio_description", "question") if name in row), None)
    described = {} if about is None else {"audio_description": row[about]}
    return {
        "context": row[text_column],
        **described,
        "llm_answer": None if response is None else reported_answer(response, reasoning),
        "answer_text": None if split is None else split.answer,
        "thoughts": None if split is None else split.thoughts,
        "response": response,
        "parse_status": "error" if split is None else split.status,
    }


def _choice_content(row: Cells, text_column: str, prompts: Prompts) -> str:
    if not isinstance(row["question"], str):
        raise ValueError("the row has no question")
    return layout_question(row["question"], read_choices(row["choices"]), prompts)


def _choice_columns(
    row: Cells,
    text_column: str,
    record: Cells,
    fallback: AnswerFallback,
    reasoning: Reasoning,
    style: AnswerStyle = "number",
) -> dict[str, Any]:
    response = record["response"]
    choices = choice_texts(row["choices"])
    parsed = None if response is None else read_reply(response, choices, fallback, reasoning, style)
    return {
        "question": row["question"],
        "choices": choices,
        "llm_answer": None if parsed is None else parsed.choice,
        "thoughts": None if response is None else split_response(response, reasoning).thoughts,
        "response": response,
        "parse_status": "error" if parsed is None else parsed.status,
    }


FREE = Task("free", True, lambda prompts: prompts.generation_system, _free_content, _free_columns)


def shuffled_choice(seed: int | None) -> Task:
    """Multiple choice with each row's options shown in an order drawn by ``seed``; None leaves them as they are.

    ``choices`` are saved in the data set's order in both cases; ``shown_order`` has their positions.
    """
    if seed is None:
        return MULTIPLE_CHOICE

    def shown(row: Cells) -> tuple[Cells, list[int]]:
        choices = read_choices(row["choices"])
        key = f"{row.get('id', '')}/{row.get('dataset_index', '')}/{row['question']}"
        order = shuffled_order(len(choices), seed, key)
        return {**row, "choices": [choices[number] for number in order]}, order

    def content(row: Cells, text_column: str, prompts: Prompts) -> str:
        return _choice_content(shown(row)[0], text_column, prompts)

    def columns(
        row: Cells,
        text_column: str,
        record: Cells,
        fallback: AnswerFallback,
        reasoning: Reasoning,
        style: AnswerStyle = "number",
    ) -> dict[str, Any]:
        try:
            changed, order = shown(row)
        except ValueError:  # it was not asked
            changed, order = row, []
        found = _choice_columns(changed, text_column, record, fallback, reasoning, style)
        return {**found, "choices": choice_texts(row["choices"]), "shown_order": order}

    return replace(MULTIPLE_CHOICE, content=content, columns=columns)


MULTIPLE_CHOICE = Task("mcqa", False, lambda prompts: prompts.mcqa_system, _choice_content, _choice_columns)


def likeliest_choice(task: Task, answers: str) -> Task:
    """Multiple choice answered by the likeliest option; the written answer is saved next to it.

    ``answers``: ``likelihood`` compares means over the tokens of an option, ``likelihood_sum`` their sums.
    """

    def columns(
        row: Cells,
        text_column: str,
        record: Cells,
        fallback: AnswerFallback,
        reasoning: Reasoning,
        style: AnswerStyle = "number",
    ) -> dict[str, Any]:
        found = task.columns(row, text_column, record, fallback, reasoning, style)
        choices, scores = choice_texts(row["choices"]), record.get("option_logprobs")
        sums = None if scores is None else [sum(option) for option in scores]
        means = None if scores is None else [sum(option) / len(option) for option in scores]
        likeliest = {
            name: None if values is None else choices[values.index(max(values))]
            for name, values in (("likelihood", means), ("likelihood_sum", sums))
        }
        unscored = "error" if record["response"] is None else "not_scored"
        return {
            **found,
            "llm_answer": likeliest[answers],
            "parse_status": unscored if scores is None else LIKELIHOOD,
            "written_answer": found["llm_answer"],
            "written_status": found["parse_status"],
            "likelihood_answer": likeliest["likelihood"],
            "likelihood_sum_answer": likeliest["likelihood_sum"],
            "option_logprobs": sums,
            "option_tokens": None if scores is None else [len(option) for option in scores],
        }

    return replace(task, columns=columns)


def find_task(name: str, config: Mapping[str, Any]) -> Task:
    """Task of a run by its name and configuration: functions of a task cannot be sent to a worker."""
    if name == FREE.name:
        return FREE
    task, answers = shuffled_choice(config.get("options_seed")), config.get("answers", "written")
    return task if answers == "written" else likeliest_choice(task, answers)
