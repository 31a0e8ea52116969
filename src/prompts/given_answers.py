"""Answers that are given as training targets: behind empty reasoning, and with the end of the turn."""

from __future__ import annotations

from typing import Any

from src.prompts.chat import ChatTokenizer, following_ids, text_ids
from src.prompts.find_reasoning import find_reasoning
from src.prompts.reasoning import CLOSE_THOUGHTS, OPEN_THOUGHTS, THINK


class AnswerFrame:
    """Token ids of given answers for one language model.

    A reasoning model answers after its reasoning. A given answer has none, so the prompt ends with the text that
    closes the reasoning at once: exactly what generation writes with ``max_thinking_tokens=0``. The loss is over the
    answer only. An answer with reasoning of its own (``<think>…</think>``) is a target in the model's format.
    """

    def __init__(self, tokenizer: ChatTokenizer, budget_closing: str, end_ids: list[int]) -> None:
        """``budget_closing`` is that of the prompt set; ``end_ids`` follow every answer."""
        self._tokenizer: Any = tokenizer
        self._reasoning = find_reasoning(tokenizer)
        self._end_ids = end_ids
        self.closing_ids = following_ids(tokenizer, self._reasoning.close("", budget_closing) or "")
        """Ids between the assistant's header and an answer without reasoning."""

    def ids(self, answer: str) -> tuple[list[int], list[int]]:
        """Ids that end the prompt, and ids of the target."""
        closing = self.closing_ids
        if answer.startswith(OPEN_THOUGHTS) and CLOSE_THOUGHTS in answer:
            closing = []
            form, opened = self._reasoning.format, self._reasoning.opened
            if form.closing and form != THINK:
                thoughts, _, rest = answer.removeprefix(OPEN_THOUGHTS).partition(CLOSE_THOUGHTS)
                answer = form.opening + form.close(thoughts.lstrip() + CLOSE_THOUGHTS) + rest.lstrip()
            if opened:
                answer = answer.removeprefix(form.opening).lstrip("\n")
        found = text_ids(self._tokenizer, answer)
        return closing, [*found, *self._end_ids] if found else []
