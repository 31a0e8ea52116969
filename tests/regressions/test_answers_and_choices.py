"""Multiple choice: answers in unfinished thoughts, options in other forms than a list, hidden answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.miniature.report.scoring import chance_level
from src.benchmarks.answers import join_answers
from src.benchmarks.registry import benchmark, generic
from src.benchmarks.score import chance, score_rows
from src.common.errors import UserError
from src.generation.task_types import MULTIPLE_CHOICE, ChoiceTask
from src.prompts import load_prompts
from src.prompts.multiple_choice import choice_texts, match_option, read_choices, read_reply
from src.prompts.reasoning import THINKING, Reasoning
from src.prompts.texts import AnswerStyle

COLOURS = ["red", "green", "blue", "grey"]
REPLIES = [
    # response, began inside its thoughts, option, status, published option
    ("so <answer>1</answer>? let me listen again", True, None, "unfinished_thoughts", "green"),
    ("<think>so <answer>1</answer>? let me", False, None, "unfinished_thoughts", "green"),
    ("maybe <answer>0</answer>, no…</think>\n\n2", True, "blue", "index", "red"),
    ("maybe <answer>0</answer>, no…</think>\n\n", True, None, "empty", "red"),
    ("hm</think><answer>3</answer>", True, "grey", "index", "grey"),
    ("<answer>3</answer>", False, "grey", "index", "grey"),
    ("the thought ran out of room", True, None, "unfinished_thoughts", "red"),
]


@pytest.mark.parametrize(("response", "inside", "option", "status", "published"), REPLIES)
def test_t4_only_what_follows_the_thoughts_is_an_answer(
    response: str, inside: bool, option: str | None, status: str, published: str
) -> None:
    """Answer tags of a thought that was cut by length were scored as the answer."""
    read = read_reply(response, COLOURS, "none", Reasoning(opened=inside))
    assert (read.choice, read.status) == (option, status)
    theirs = read_reply(response, COLOURS, "option_0", Reasoning(opened=inside))
    assert (theirs.choice, theirs.status) == (published, status), "the published choice, still counted as unparsed"


def test_t4_in_saved_rows() -> None:
    row = {"question": "q", "choices": COLOURS}
    saved = MULTIPLE_CHOICE.columns(row, "question", {"response": REPLIES[0][0]}, "none", THINKING)
    assert (saved["llm_answer"], saved["parse_status"]) == (None, "unfinished_thoughts")
    assert saved["thoughts"] == saved["response"] == REPLIES[0][0]


NAMED: list[tuple[AnswerStyle, str, list[str], int | None]] = [
    # style, reply, options, number of the option that it names
    ("text", "C# minor", ["C minor", "C# minor"], 1),
    ("text", "It is c\u266f minor.", ["C minor", "C# minor"], 1),
    ("letter", "C# minor", ["C minor", "C# minor"], 1),
    ("text", "C# minor", ["C minor", "D minor"], None),
    ("text", "-5 dB", ["5 dB", "-5 dB"], 1),
    ("text", "It is \u22125 dB.", ["5 dB", "-5 dB"], 1),
    ("text", "-5 dB", ["5 dB", "10 dB"], None),
    ("text", "3-5 seconds", ["5 seconds", "3-5 seconds"], 1),
    ("text", "It lasts 1.5 s.", ["5 s", "10 s"], None),
    ("text", "3.5", ["3,5", "3.5"], 1),
    ("text", "It is C++.", ["C", "C++"], 1),
    ("text", "It is C.", ["C", "C++"], 0),
    ("text", "scar and car", ["car", "scar"], None),
    ("text", "\u0915\u093f\u0932\u093e", ["\u0915\u093e\u0932\u093e", "\u0915\u093f\u0932\u093e"], 1),
    ("text", "cafe\u0301", ["cafe", "caf\u00e9"], 1),
    ("text", "twenty one", ["twenty", "twenty-one"], 1),
    ("text", "cup", ["cup", "cup", "mug"], 0),
    ("letter", "A. red\nB. green\nThe answer is B", ["red", "green"], None),
    ("letter", "A: no. The answer is B", ["red", "green"], None),
    ("letter", "A) is wrong, (B) is right", ["red", "green"], None),
    ("letter", "B. A man sings with J. Cash", ["red", "green"], 1),
    ("letter", "It is not option A", ["red", "green"], None),
    ("letter", "The answer is A woman.", ["A man", "A woman"], 1),
    ("letter", "The answer is A cat.", ["dog", "cat"], None),
    ("letter", "The answer is A because it barks.", ["dog", "cat"], 0),
]


@pytest.mark.parametrize(("style", "reply", "choices", "number"), NAMED)
def test_t4_no_other_option_than_the_named_one_is_counted(
    style: AnswerStyle, reply: str, choices: list[str], number: int | None
) -> None:
    """Options that differ in a sign were one option, the first label of a list and the article A were the answer."""
    assert match_option(reply, choices, style).choice == (None if number is None else choices[number])


FORMS: list[tuple[Any, list[str]]] = [
    (["yes", "no"], ["yes", "no"]),
    ('["yes", "no"]', ["yes", "no"]),
    ("['yes', \"it's\"]", ["yes", "it's"]),
    ("('a', 'b')", ["a", "b"]),
    ({"B": "no", "A": "yes"}, ["yes", "no"]),
    ({"A": "yes", "B": "no", "C": None, "D": None}, ["yes", "no"]),
    ({"10": "k", "2": "b", "1": "a"}, ["a", "b", "k"]),
    ('{"A": "yes", "B": "no"}', ["yes", "no"]),
    ({"text": ["yes", "no"], "label": ["A", "B"]}, ["yes", "no"]),
    ([3, 4.5, True], ["3", "4.5", "True"]),
    (("a", "b"), ["a", "b"]),
]
UNUSABLE: list[tuple[Any, str]] = [
    (["yes", None], "choice 1 of 2 is null"),
    ('["yes", null]', "choice 1 of 2 is null"),
    ("A. yes B. no", "a text without a list: 'A. yes B. no'"),
    ('"yes"', "a text without a list"),
    ("[" * 5000, "a text without a list"),
    ([["yes"], ["no"]], "choice 0 of 2 is a list"),
    ({"A": None}, "no choices"),
    ([], "no choices"),
    ("", "a text without a list"),
    (None, "no choices"),
    (7, "no choices"),
]


@pytest.mark.parametrize(("value", "texts"), FORMS)
def test_t5_options_in_any_form(value: Any, texts: list[str]) -> None:
    """The letters of one string, or the keys of a struct, were shown as options."""
    assert read_choices(value) == choice_texts(value) == texts
    assert chance_level([{"choices": value}]) == 1 / len(texts)
    prompts = load_prompts("mini")
    asked = MULTIPLE_CHOICE.content({"question": "q", "choices": value}, "question", prompts)
    assert [line.partition(" ")[2] for line in asked.splitlines() if line.startswith("(Option_")] == texts


@pytest.mark.parametrize(("value", "reason"), UNUSABLE)
def test_t5_unusable_options_are_refused_by_row(value: Any, reason: str) -> None:
    """A null was shown as the option None."""
    with pytest.raises(ValueError, match=reason):
        read_choices(value)
    for task in (MULTIPLE_CHOICE, ChoiceTask(1)):
        with pytest.raises(ValueError, match=reason):
            task.content({"question": "q", "choices": value}, "question", load_prompts("mini"))
        saved = task.columns({"question": "q", "choices": value}, "question", {"response": None}, "none", THINKING)
        assert saved["llm_answer"] is None and all(isinstance(text, str) for text in saved["choices"])


@pytest.mark.parametrize("form", ["text", "struct", "nulls"])
def test_t5_such_a_set_is_answered_joined_and_scored(form: str) -> None:
    lists = [["yes", "no"], ["yes", "no"], ["yes", None]]
    given: list[Any] = {
        "text": [json.dumps(choices) for choices in lists],
        "struct": [{"A": one, "B": other} for one, other in lists],
        "nulls": lists,
    }[form]
    base = [
        {"dataset_index": number, "id": str(number), "question": f"q{number}", "choices": choices, "answer": "yes"}
        for number, choices in enumerate(given)
    ]
    answers = []
    for row in base:
        try:
            MULTIPLE_CHOICE.content(row, "question", load_prompts("mini"))
            response = "hm</think><answer>0</answer>"
        except ValueError:
            response = None
        columns = MULTIPLE_CHOICE.columns(row, "question", {"response": response}, "none", THINKING)
        answers.append({"dataset_index": row["dataset_index"], **columns})
    joined = join_answers(generic("quiz"), base, answers[::-1], base, where="run")
    last = "yes" if form == "struct" else ""  # a struct's null is a key that the row does not have
    assert [row["model_prediction"] for row in joined.rows] == ["yes", "yes", last]
    scores = score_rows(generic("quiz"), joined.rows, rounds=20)
    assert scores.all_rows.n == 3 and scores.unparsed == (0 if form == "struct" else 1)
    assert 0.5 <= chance(generic("quiz"), base) <= 2 / 3


HIDDEN = [
    {"id": "a", "question": "how many?", "answer": "", "choices": ["four", "one"], "task": "speech",
     "category": "Reasoning", "sub-category": "x", "difficulty": "easy", "model_prediction": "one"},
    {"id": "b", "question": "which?", "answer": " ", "choices": ["six", "five"], "task": "sound",
     "category": "Reasoning", "sub-category": "x", "difficulty": "hard", "model_prediction": "six"},
]  # fmt: skip


@pytest.mark.parametrize("name", ["mmau", "mmar", "mmaupro", "quiz"])
def test_t6_hidden_answers_are_no_known_answers(name: str) -> None:
    """The test split of MMAU, whose answers are blank, was printed as 0.00 %."""
    spec = benchmark(name)
    with pytest.raises(UserError, match="none of the 2 rows has a known answer"):
        score_rows(spec, HIDDEN, rounds=20)
    known = {**HIDDEN[0], "id": "c", "answer": "one"}
    scores = score_rows(spec, [*HIDDEN, known], rounds=20)
    assert (scores.all_rows.n, scores.all_rows.value, scores.without_gold) == (1, 1.0, 2)


@pytest.mark.parametrize("name", ["mmau", "mmar"])
@pytest.mark.parametrize("choices", [7, 1.5, True, None, [], "one", [None, 1]])
def test_t5_unusable_options_are_noted_by_the_word_scorers(name: str, choices: Any) -> None:
    """A number in place of the options ended the scoring in a traceback."""
    rows = [{**HIDDEN[0], "answer": "one", "choices": choices}, {**HIDDEN[0], "id": "c", "answer": "one"}]
    scores = score_rows(benchmark(name), rows, rounds=20)
    assert (scores.all_rows.n, scores.all_rows.value) == (2, 1.0)


@pytest.mark.parametrize("name", ["mmsu", "airbench"])
def test_t6_for_letters(name: str) -> None:
    row = {
        "id": "a", "uniq_id": 1, "question": "q", "choice_a": "x", "choice_b": "y", "answer_gt": "",
        "task_name": "Sound_AQA", "dataset_name": "d", "model_prediction": "x",
    }  # fmt: skip
    with pytest.raises(UserError, match="none of the 1 rows has a known answer"):
        score_rows(benchmark(name), [row], rounds=20)
