"""Lists and verdicts as language models write them."""

import pytest

from src.corpus.targets.prompt_list import read_prompt_list, read_verdicts

TWO = ["Is it raining?", "Name the «bird» – in 中文."]


@pytest.mark.parametrize(
    "inside",
    [
        "1. Is it raining?\n2. Name the «bird» – in 中文.",
        "Here are the prompts:\n\n1) Is it raining?\n\n2) Name the «bird» – in 中文.\n",
        "**1.** Is it raining?\n**2.** Name the «bird» – in 中文.",
        '(1) "Is it raining?"\n(2) “Name the «bird» – in 中文.”',
        "- Is it raining?\n- Name the «bird» – in 中文.\n- Is it raining?",
        "• Is it raining?\n• **Name the «bird» – in 中文.**",
        "Is it raining?\nName the «bird» – in 中文.",
        '["Is it raining?", "Name the «bird» – in 中文."]',
        '```json\n["Is it raining?",\n "Name the «bird» – in 中文."]\n```',
        '[{"id": 1, "prompt": "Is it raining?"}, {"text": "Name the «bird» – in 中文."}]',
        '{"prompts": ["Is it raining?", "Name the «bird» – in 中文."]}',
        '{"1": "Is it raining?", "2": "Name the «bird» – in 中文."}',
    ],
)
def test_layouts_of_a_list(inside: str) -> None:
    assert read_prompt_list(f"hm <answer>\n</think>\n\n<answer>\n{inside}\n</answer>") == (TWO, "ok")


def test_lines_and_deeper_marks_belong_to_the_prompt_above() -> None:
    inside = "1. Fill this in:\n   - tempo\n   - mood\n2. Choose:\n   1. slow\n   2. fast\nand why"
    prompts, _ = read_prompt_list(f"<answer>{inside}</answer>")
    assert prompts == ["Fill this in:\n- tempo\n- mood", "Choose:\n1. slow\n2. fast\nand why"]


def test_numbers_in_a_prompt_are_no_marks() -> None:
    prompts, _ = read_prompt_list("<answer>1. Is it 2.5 s long?\n2. 3.5 or 4 s?</answer>")
    assert prompts == ["Is it 2.5 s long?", "3.5 or 4 s?"]
    assert read_prompt_list('<answer>- "Yes" or "no"?\n- [x] "</answer>')[0] == ['"Yes" or "no"?', '[x] "']


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("1. Is it raining?", "no_answer"),
        ("<answer>1. Is it rai", "unclosed_answer"),
        ("<answer> \n</answer>", "empty"),
        ("<answer>[]</answer>", "no_list"),
        ("<answer>[1, null, {}]</answer>", "no_list"),
        ("<answer>1. \n2.\n-</answer>", "no_list"),
    ],
)
def test_what_is_no_list(written: str, status: str) -> None:
    assert read_prompt_list(written) == ([], status)


@pytest.mark.parametrize(
    ("inside", "good"),
    [
        ("1. heard: GOOD\n2. no bad reason: BAD\n3. fine - **Good**.", [True, False, True]),
        ("1: good\n3: bad\n4: good", [True, False, False]),
        ("3) good\nGOOD\n2. not good enough", [False, False, True]),
        ("1. bad\n1. good", [True, False, False]),
        ("**1.** GOOD\n| 2 | GOOD |", [True, True, False]),
    ],
)
def test_verdicts(inside: str, good: list[bool]) -> None:
    assert read_verdicts(f"so.\n</think>\n\n<answer>{inside}</answer>", 3) == (good, "ok")


def test_unreadable_verdicts_are_not_good() -> None:
    assert read_verdicts("1. good", 1) == ([False], "no_answer")
    assert read_verdicts("<answer>all fine</answer>", 2) == ([False, False], "no_list")
