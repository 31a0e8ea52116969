"""Tasks of a run: free questions and multiple choice, each with its user texts and its saved columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from src.generation.config import Answers
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
class FreeTask:
    """Questions that are answered in free text; rows have one text column.

    Of every task, ``content`` returns the user's text of a row, or raises ValueError with the reason why there is
    none, and ``columns`` returns the saved columns of a row and its record, in order.
    """

    name: ClassVar[str] = "free"
    free_text: ClassVar[bool] = True

    def system(self, prompts: Prompts) -> str:
        """The system text."""
        return prompts.generation_system

    def content(self, row: Cells, text_column: str, prompts: Prompts) -> str:
        """The text as it is stored."""
        text = row[text_column]
        if not isinstance(text, str):
            raise ValueError(f"the row has no text in column {text_column!r}")
        return text

    def columns(
        self,
        row: Cells,
        text_column: str,
        record: Cells,
        fallback: AnswerFallback,
        reasoning: Reasoning,
        style: AnswerStyle = "number",
    ) -> dict[str, Any]:
        """``llm_answer`` is as published; ``answer_text`` is without the thoughts in any case."""
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


@dataclass(frozen=True)
class ChoiceTask:
    """Multiple choice: rows have a question and its options.

    With ``options_seed`` each row's options are shown in an order drawn by it; ``shown_order`` has their positions,
    and ``choices`` are saved in the data set's order all the same. With ``answers`` other than ``written`` the answer
    is the likeliest option (``likelihood`` compares means over the tokens of an option, ``likelihood_sum`` their
    sums); the written answer is saved next to it.
    """

    name: ClassVar[str] = "mcqa"
    free_text: ClassVar[bool] = False
    options_seed: int | None = None
    answers: Answers = "written"

    def system(self, prompts: Prompts) -> str:
        """The system text."""
        return prompts.mcqa_system

    def content(self, row: Cells, text_column: str, prompts: Prompts) -> str:
        """Question and options as the prompt set lays them out."""
        if not isinstance(row["question"], str):
            raise ValueError("the row has no question")
        choices = read_choices(row["choices"])
        return layout_question(row["question"], [choices[number] for number in self._order(row)], prompts)

    def columns(
        self,
        row: Cells,
        text_column: str,
        record: Cells,
        fallback: AnswerFallback,
        reasoning: Reasoning,
        style: AnswerStyle = "number",
    ) -> dict[str, Any]:
        """The option that the reply names is read in the answer ``style`` of the prompt set."""
        response, choices = record["response"], choice_texts(row["choices"])
        try:
            order = self._order(row)
        except ValueError:  # it was not asked
            order = []
        shown = [choices[number] for number in order] or choices
        parsed = None if response is None else read_reply(response, shown, fallback, reasoning, style)
        found = {
            "question": row["question"],
            "choices": choices,
            "llm_answer": None if parsed is None else parsed.choice,
            "thoughts": None if response is None else split_response(response, reasoning).thoughts,
            "response": response,
            "parse_status": "error" if parsed is None else parsed.status,
            **({} if self.options_seed is None else {"shown_order": order}),
        }
        if self.answers == "written":
            return found
        scores = record.get("option_logprobs")
        # options are scored in the data set's order, whatever order the prompt shows them in
        sums = None if scores is None else [sum(option) for option in scores]
        means = None if scores is None else [sum(option) / len(option) for option in scores]
        likeliest = {
            name: None if values is None else choices[values.index(max(values))]
            for name, values in (("likelihood", means), ("likelihood_sum", sums))
        }
        unscored = "error" if response is None else "not_scored"
        return {
            **found,
            "llm_answer": likeliest[self.answers],
            "parse_status": unscored if scores is None else LIKELIHOOD,
            "written_answer": found["llm_answer"],
            "written_status": found["parse_status"],
            "likelihood_answer": likeliest["likelihood"],
            "likelihood_sum_answer": likeliest["likelihood_sum"],
            "option_logprobs": sums,
            "option_tokens": None if scores is None else [len(option) for option in scores],
        }

    def _order(self, row: Cells) -> list[int]:
        """Numbers of the options in the order in which they are shown. Raises ValueError if there are none."""
        count = len(read_choices(row["choices"]))
        if self.options_seed is None:
            return list(range(count))
        # benchmarks differ in which of these columns they have
        key = f"{row.get('id', '')}/{row.get('dataset_index', '')}/{row['question']}"
        return shuffled_order(count, self.options_seed, key)


Task = FreeTask | ChoiceTask
FREE = FreeTask()
MULTIPLE_CHOICE = ChoiceTask()
