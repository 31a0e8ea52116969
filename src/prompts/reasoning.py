"""A response's parts (reasoning, answer, the text inside answer tags), in the format of the language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from src.common.errors import UserError

OPEN_THOUGHTS, CLOSE_THOUGHTS = "<think>", "</think>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"

ResponseStatus = Literal["answered", "unfinished_thoughts", "empty_answer"]


@dataclass(frozen=True)
class ReasoningFormat:
    """The texts with which a family of models separates its reasoning from its answer; empty where it has none.

    ``opening`` begins the reasoning and ``closing`` ends it. ``answer_opening`` may stand before the answer, also in
    a response without reasoning, and ``answer_closing`` ends it. ``inner`` texts separate pieces of the reasoning.
    """

    name: str
    opening: str = ""
    closing: str = ""
    answer_opening: str = ""
    answer_closing: str = ""
    inner: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All its texts."""
        found = (self.opening, self.closing, self.answer_opening, self.answer_closing, *self.inner)
        return tuple(mark for mark in found if mark)

    def close(self, budget_closing: str) -> str:
        """A prompt set's ``budget_closing``, written with ``</think>``, in this format."""
        if self.closing == CLOSE_THOUGHTS and not self.answer_opening:
            return budget_closing
        closing = self.closing
        # without its opening the model might reason again; harmony's closing ends with it
        if not closing.endswith(self.answer_opening):
            closing += self.answer_opening
        return budget_closing.partition(CLOSE_THOUGHTS)[0].rstrip() + closing


THINK = ReasoningFormat("think", OPEN_THOUGHTS, CLOSE_THOUGHTS)
FORMATS: dict[str, ReasoningFormat] = {
    each.name: each
    for each in (
        # https://github.com/openai/harmony/blob/main/docs/format.md
        ReasoningFormat(
            "harmony",
            opening="<|channel|>analysis<|message|>",
            closing="<|end|><|start|>assistant<|channel|>final<|message|>",
            answer_opening="<|channel|>final<|message|>",
            inner=tuple(
                f"<|end|><|start|>assistant<|channel|>{name}<|message|>" for name in ("analysis", "commentary")
            ),
        ),
        # Magistral from 2507 on; 2506 wrote <think>: https://docs.mistral.ai/capabilities/reasoning
        ReasoningFormat("think_brackets", "[THINK]", "[/THINK]"),
        # before THINK, which has the same tags: https://github.com/ggml-org/llama.cpp/pull/14864
        ReasoningFormat("granite", OPEN_THOUGHTS, CLOSE_THOUGHTS, "<response>", "</response>"),
        THINK,
        ReasoningFormat("none"),
    )
}
"""Known formats by name; where a template has the texts of several, the first one is taken."""


@dataclass(frozen=True)
class Reasoning:
    """How the responses of one language model with its chat template are built.

    ``opened``: the assistant's header already opens the reasoning, so that a response begins inside it. ``expected``:
    the model reasons with this template; without, a response in its format is still understood.
    """

    format: ReasoningFormat = THINK
    opened: bool = False
    expected: bool = True

    def close(self, text: str, budget_closing: str) -> str | None:
        """Text that ends the reasoning of a response so far (``text``); ``None`` if there is none to end."""
        form, text = self.format, text.lstrip()
        if not form.closing or self.mark_before_answer(text):
            return None
        if self.opened or text.startswith(form.opening):
            return form.close(budget_closing)
        if not (self.expected and form.opening.startswith(text)):
            return None
        # the budget ends before the model has opened its reasoning: without this it would reason afterwards
        return form.opening[len(text) :] + form.close(budget_closing)

    def mark_before_answer(self, text: str) -> str:
        """The mark in ``text`` behind which its answer begins, if there is one."""
        form = self.format
        if form.answer_opening and text.lstrip().startswith(form.answer_opening):
            return form.answer_opening
        return form.closing if form.closing in text else ""

    def record(self) -> dict[str, Any]:
        """For run records; empty for a model as the published one."""
        found = {"format": self.format.name, "opened": self.opened, "expected": self.expected}
        return {} if self == THINKING else {"reasoning": found}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Reasoning:
        """From a record that :meth:`record` is part of."""
        found = record.get("reasoning")
        if not isinstance(found, Mapping):
            return THINKING
        return cls(find_format(str(found.get("format"))), bool(found.get("opened")), bool(found.get("expected")))


THINKING = Reasoning(THINK, opened=True)
"""The published language model's: Qwen3-4B-Thinking-2507."""


def find_format(name: str) -> ReasoningFormat:
    """The format of this name, or of two texts with a blank between them: ``<seed:think> </seed:think>``.

    Raises :class:`UserError` for an unknown one.
    """
    opening, _, closing = " ".join(name.split()).partition(" ")
    if closing:
        return ReasoningFormat(name, opening, closing)
    if name not in FORMATS:
        raise UserError(
            f"reasoning format {name!r}: expected {', '.join(FORMATS)}, or the two texts around the reasoning with a "
            "blank between them; leave it out to find it by the chat template"
        )
    return FORMATS[name]


@dataclass(frozen=True)
class SplitResponse:
    """Thoughts and answer of a response, both stripped; the answer is empty while the thoughts are unfinished."""

    thoughts: str
    answer: str
    status: ResponseStatus

    def __iter__(self) -> Iterator[str]:
        """Unpack as ``thoughts, answer``."""
        return iter((self.thoughts, self.answer))


def split_response(text: str, reasoning: Reasoning = THINKING) -> SplitResponse:
    """Split a response at the first end of its reasoning.

    Where the header opened the reasoning, a text without an end is all thoughts; otherwise such a text is all answer
    unless it opens the thoughts itself. An answer that begins by opening them again is more thoughts.
    """
    form, body = reasoning.format, text.lstrip()
    opened = bool(form.opening) and body.startswith(form.opening)
    direct = bool(form.answer_opening) and body.startswith(form.answer_opening)
    if form.closing and not direct:
        blocks: list[str] = []
        while opened or form.closing in body or (reasoning.opened and body and not blocks):
            before, closed, body = body.removeprefix(form.opening).partition(form.closing)
            for mark in form.inner:
                before = before.replace(mark, "\n\n")
            blocks.append(before.strip())
            thoughts = "\n\n".join(filter(None, blocks))
            if not closed:
                return SplitResponse(thoughts, "", "unfinished_thoughts")
            opened = bool(form.opening) and body.lstrip().startswith(form.opening)
            if not opened:
                return _answered(thoughts, body, form)
            body = body.lstrip()
    return _answered("", body, form)


def _answered(thoughts: str, answer: str, form: ReasoningFormat) -> SplitResponse:
    answer = answer.strip().removeprefix(form.answer_opening)
    if form.answer_closing:
        answer = answer.partition(form.answer_closing)[0]
    answer = answer.strip()
    return SplitResponse(thoughts.strip(), answer, "answered" if answer else "empty_answer")


def extract_answer(text: str) -> str:
    """Text after the last ``<answer>`` and before the next ``</answer>``, stripped; all of it without tags."""
    # the last one, as in the published parser: models often repeat the requested format before they answer
    return text.rpartition(OPEN_ANSWER)[2].partition(CLOSE_ANSWER)[0].strip()


def reported_answer(text: str, reasoning: Reasoning = THINKING) -> str:
    """The published field of a response's answer: :func:`extract_answer`, without the marks of other formats.

    Without answer tags the published field has the thoughts, too.
    """
    if reasoning.format == THINK or OPEN_ANSWER in text:
        return extract_answer(text)
    split = split_response(text, reasoning)
    return "\n\n".join(part for part in split if part)
