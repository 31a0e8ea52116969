"""Every reasoning format: split as a whole and in a stream, closed at a budget, rephrased and written back."""

from __future__ import annotations

from typing import Any

import pytest

from src.corpus.targets.rephrase_text import prepare, restore
from src.inference.engine import Engine
from src.inference.scheduler import Scheduler
from src.inference.types import Request, Sampling
from src.prompts.find_reasoning import choose_reasoning
from src.prompts.given_answers import AnswerFrame
from src.prompts.reasoning import FORMATS, Reasoning, find_format, reported_answer, split_response
from src.prompts.stream_splitter import StreamSplitter
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.serving.client import running
from tests.serving.sounds import chat

FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
COMMENT = "<|end|><|start|>assistant<|channel|>commentary<|message|>"
WRITTEN = [
    ("think", True, "hm < b.\n</think>\n\na kick", "hm < b.", "a kick"),
    ("think", False, "<think>\nhm</think>\na kick", "hm", "a kick"),
    ("think", False, "a kick", "", "a kick"),
    ("think_brackets", False, "[THINK]hm [a]\n[/THINK]a [kick]", "hm [a]", "a [kick]"),
    ("think_brackets", False, "a kick", "", "a kick"),
    ("think_brackets", False, "[THINK]hm", "hm", ""),
    ("harmony", False, f"<|channel|>analysis<|message|>hm{FINAL}a kick", "hm", "a kick"),
    ("harmony", False, f"<|channel|>analysis<|message|>hm.{COMMENT}so.{FINAL}a kick", "hm.\n\nso.", "a kick"),
    ("harmony", False, "<|channel|>final<|message|>a <|kick", "", "a <|kick"),
    ("harmony", False, "<|channel|>analysis<|message|>hm <|end", "hm <|end", ""),
    ("granite", False, "<think>hm</think>\n<response>a kick</response>", "hm", "a kick"),
    ("granite", False, "<think>hm</think>a <b>", "hm", "a <b>"),
    ("granite", False, "<response>a kick</response>\n", "", "a kick"),
    ("none", False, "<think>a kick</think>", "", "<think>a kick</think>"),
    ("<r> </r>", True, "hm</r>a kick", "hm", "a kick"),
]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(("name", "opened", "text", "thoughts", "answer"), WRITTEN)
def test_a_stream_is_split_like_the_whole_text(
    name: str, opened: bool, text: str, thoughts: str, answer: str, size: int
) -> None:
    reasoning = Reasoning(find_format(name), opened)
    assert tuple(split_response(text, reasoning)) == (thoughts, answer)
    splitter, parts = StreamSplitter(reasoning), {"thoughts": "", "answer": ""}
    for place in range(0, len(text), size):
        for part, piece in splitter.feed(text[place : place + size]):
            parts[part] += piece
    for part, piece in splitter.end():
        parts[part] += piece
    assert {part: piece.strip() for part, piece in parts.items()} == {"thoughts": thoughts, "answer": answer}


@pytest.mark.parametrize(("name", "opened", "text", "thoughts", "answer"), WRITTEN)
def test_the_published_field_has_no_marks_of_other_formats(
    name: str, opened: bool, text: str, thoughts: str, answer: str
) -> None:
    reasoning = Reasoning(find_format(name), opened)
    found = reported_answer(text, reasoning)
    expected = text if name == "think" else "\n\n".join(part for part in (thoughts, answer) if part)
    assert found == expected
    assert reported_answer(f"{text}<answer>x</answer>", reasoning) == "x"


class OtherTokenizer(CharTokenizer):
    """The format's texts stand in the template, and the header is plain."""

    def __init__(self, name: str) -> None:
        super().__init__("<|im_start|>assistant\n")
        self.chat_template = None
        choose_reasoning(self, name)


BUDGETS = [
    # format, first pass, budget -> the response, whose second pass is " kick"
    ("think", "<think>hmmmmmmmmmmm", 10, "<think>hmm so.\n</think>\n\n kick"),
    ("think", "a long long answer", 4, "a lo kick"),
    ("think", "anything", 0, "<think> so.\n</think>\n\n kick"),
    ("think_brackets", "[THINK]hmmmmmmm", 10, "[THINK]hmm so.[/THINK] kick"),
    ("think_brackets", "[THINK]hm", 3, "[THINK] so.[/THINK] kick"),
    ("harmony", "<|channel|>analysis<|message|>hmmmmmm", 33, f"<|channel|>analysis<|message|>hmm so.{FINAL} kick"),
    ("harmony", "<|channel|>final<|message|>yes yes", 29, "<|channel|>final<|message|>ye kick"),
    ("harmony", "anything", 0, f"<|channel|>analysis<|message|> so.{FINAL} kick"),
    ("granite", "<think>hmmmmmmmm", 9, "<think>hm so.</think><response> kick"),
    ("none", "<think>hmmmmmm", 9, "<think>hm kick"),
]


@pytest.mark.parametrize(("name", "first", "budget", "response"), BUDGETS)
def test_thinking_budgets(name: str, first: str, budget: int, response: str) -> None:
    passes = 1 if budget == 0 else 2
    backend = ScriptedBackend(lambda prompt: " kick" if len(backend.calls) == passes else first)
    scheduler = Scheduler(backend, OtherTokenizer(name))
    sampling = Sampling(max_tokens=50, max_thinking_tokens=budget, budget_closing=" so.\n</think>\n\n")
    assert scheduler.submit(Request("r", ([65],)), sampling) is None
    results: list[Any] = []
    while not results:
        results = scheduler.step()
    assert results[0].text == response
    assert results[0].budget_hit == ("so." in response)


@pytest.mark.parametrize(
    ("name", "response"),
    [(name, text) for name, _, text, thoughts, answer in WRITTEN if thoughts and answer and COMMENT not in text],
)
def test_a_rewritten_response_gets_its_format_back(name: str, response: str) -> None:
    form = find_format(name)
    prepared = prepare(response, "reasoning", form)
    assert prepared.text.startswith("<reasoning>\n")
    assert not any(mark in prepared.text for mark in form.marks)
    own = f"i rewrite <answer>this</answer>.{form.closing}{form.answer_opening if name == 'granite' else ''}"
    rewritten = f"{own}<answer>{prepared.text.replace('a', 'A')}</answer>"
    rewritten = rewritten.replace("reAsoning", "reasoning")
    restored = restore(rewritten, prepared, form)
    assert restored.status == "ok"
    again = split_response(restored.text, Reasoning(form, opened=not response.startswith(form.opening)))
    before = split_response(response, Reasoning(form, opened=not response.startswith(form.opening)))
    assert (again.thoughts, again.answer) == tuple(part.replace("a", "A") for part in before)
    unchanged = restore(f"{own}<answer>{prepared.text}</answer>", prepared, form)
    assert unchanged.text == response


def test_several_messages_of_harmony_are_shown_to_the_rewriter_without_control_tokens() -> None:
    response = f"<|channel|>analysis<|message|>hm.{COMMENT}so.{FINAL}a kick"
    prepared = prepare(response, "reasoning", FORMATS["harmony"])
    assert prepared.text == "<reasoning>\nhm.\n\nso.\n</reasoning>\n\na kick"


@pytest.mark.parametrize(
    ("name", "closing", "given"),
    [
        ("think", "<think> so.\n</think>\n\n", "<think>hm</think>a kick"),
        ("harmony", f"<|channel|>analysis<|message|> so.{FINAL}", f"<|channel|>analysis<|message|>hm{FINAL}a kick"),
        ("think_brackets", "[THINK] so.[/THINK]", "[THINK]hm[/THINK]a kick"),
        ("granite", "<think> so.</think><response>", "<think>hm</think><response>a kick"),
        ("none", "", "<think>hm</think>a kick"),
    ],
)
def test_given_answers_stand_behind_empty_reasoning(name: str, closing: str, given: str) -> None:
    frame = AnswerFrame(OtherTokenizer(name), " so.\n</think>\n\n", [3])
    prompt, target = frame.ids("a kick")
    assert ("".join(map(chr, prompt)), target) == (closing, [*map(ord, "a kick"), 3])
    prompt, target = frame.ids("<think>hm</think>a kick")
    assert (prompt, "".join(map(chr, target[:-1]))) == ([], given)


@pytest.mark.parametrize("name", ["think_brackets", "harmony", "granite"])
def test_the_server_gives_reasoning_apart(name: str) -> None:
    import httpx

    form = FORMATS[name]
    text = f"{form.opening}hm{form.close('</think>')}a kick{form.answer_closing}"
    engine = Engine(ScriptedBackend(lambda prompt: text), OtherTokenizer(name))
    with running(over=engine) as (address, _):
        answer = httpx.post(f"{address}/v1/chat/completions", json=chat("what?"), timeout=20).json()
        streamed = httpx.post(f"{address}/v1/chat/completions", json=chat("what?", stream=True), timeout=20).text
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "a kick")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(form.opening + "hm" + form.closing)
    assert not any(mark in streamed for mark in form.marks)
