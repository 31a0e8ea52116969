"""Thoughts and answer of a response."""

import pytest

from src.prompts.reasoning import Reasoning, extract_answer, split_response


@pytest.mark.parametrize(
    ("response", "thoughts", "answer", "status"),
    [
        ("hm.\n</think>\n\na kick", "hm.", "a kick", "answered"),
        ("<think>\nhm.\n</think>\n\na kick", "hm.", "a kick", "answered"),
        ("</think>\n\na kick", "", "a kick", "answered"),
        ("hm, and then", "hm, and then", "", "unfinished_thoughts"),
        ("<think>\nhm", "hm", "", "unfinished_thoughts"),
        ("hm.\n</think>\n", "hm.", "", "empty_answer"),
        ("", "", "", "empty_answer"),
        ("a</think>b</think>c", "a", "b</think>c", "answered"),
    ],
)
def test_response_is_split_at_the_first_end_of_thoughts(
    response: str, thoughts: str, answer: str, status: str
) -> None:
    split = split_response(response)
    assert (split.thoughts, split.answer, split.status) == (thoughts, answer, status)
    assert tuple(split) == (thoughts, answer)


def test_models_that_do_not_think_just_answer() -> None:
    split = split_response(" a kick ", Reasoning(expected=False))
    assert (split.thoughts, split.answer, split.status) == ("", "a kick", "answered")
    assert split_response("<think>hm", Reasoning(expected=False)).status == "unfinished_thoughts"


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        ("<answer> 1\n</answer>", "1"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1", "1"),
        ("1</answer> 2", "1"),
        ("no tags", "no tags"),
        ("<answer>2<answer>", ""),
        ("<ANSWER>2</ANSWER>", "<ANSWER>2</ANSWER>"),
    ],
)
def test_answer_is_taken_from_the_last_tag(response: str, extracted: str) -> None:
    assert extract_answer(response) == extracted
