"""A response to the rewriter and back."""

import random

import pytest

from src.corpus.targets.rephrase_text import extract_result, prepare, restore

PARTS = [
    "<think>",
    "</think>",
    "<reasoning>",
    "</reasoning>",
    "<reasoning_1>",
    "<reply>",
    "<answer>",
    "</answer>",
    "<response>",
    "</response>",
    "\n",
    " ",
    "\t",
    "\n\n",
    "\u2003",
    "the description",
    "2",
    "é。",
    "<",
    "\\1",
]


def through(response: str, rewrite=lambda text: text) -> str:
    prepared = prepare(response, "reasoning")
    restored = restore(f"<answer>\n{rewrite(prepared.text)}\n</answer>", prepared)
    assert restored.status == "ok"
    return restored.text


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        ("t\n</think>\n\na", "<reasoning>\nt\n</reasoning>\n\na"),
        ("<think>\nt\n</think>\n\na", "<reasoning>\nt\n</reasoning>\n\na"),
        ("t is cu", "<reasoning>\nt is cu\n</reasoning>"),
        ("<think>\nt is cu", "<reasoning>\nt is cu\n</reasoning>"),
        ("t\n</think>\n\n", "<reasoning>\nt\n</reasoning>"),
        ("\n</think>\n\na", "<reasoning>\n\n</reasoning>\n\na"),
        ("t</think>a  \n", "<reasoning>\nt\n</reasoning>\n\na"),
        ("t\n</think>\n\n<answer>2</answer>", "<reasoning>\nt\n</reasoning>\n\n<reply>2</reply>"),
        ("a <reasoning> b\n</think>\n\na", "<reasoning_1>\na <reasoning> b\n</reasoning_1>\n\na"),
    ],
)
def test_what_the_rewriter_sees(response: str, shown: str) -> None:
    assert prepare(response, "reasoning").text == shown
    assert through(response) == response


@pytest.mark.parametrize("response", ["", "  \n"])
def test_a_blank_response_is_refused(response: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        prepare(response, "reasoning")


def test_identity_rewriting_gives_the_response_back() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        response = "".join(rng.choice(PARTS) for _ in range(rng.randint(1, 10)))
        if response.strip():
            assert through(response) == response
            assert "<think>" not in prepare(response, "reasoning").text
            assert "<answer>" not in prepare(response, "reasoning").text


def test_identity_holds_behind_the_rewriters_own_thoughts() -> None:
    prepared = prepare("t\n</think>\n\na", "reasoning")
    own = "i put it inside <answer> tags, like <answer>this</answer>.\n</think>\n\n"
    assert restore(f"{own}<answer>\n{prepared.text}\n</answer>", prepared).text == "t\n</think>\n\na"


def test_words_change_and_format_stays() -> None:
    response = "<think> the description says x.  \n</think>\n\n\n**x** is mentioned.\n"
    rewritten = through(
        response, lambda text: text.replace("the description says", "i hear").replace("mention", "hear")
    )
    assert rewritten == "<think> i hear x.  \n</think>\n\n\n**x** is heared.\n"


def test_white_space_around_the_tags_is_the_originals() -> None:
    loose = lambda text: text.replace("\n</reasoning>\n\n", "</reasoning> ").replace("<reasoning>\n", "<reasoning>")  # noqa: E731
    assert through("t\n</think>\n\na", loose) == "t\n</think>\n\na"


def test_a_rewriter_may_leave_the_opening_tag_out_or_name_the_block_as_usual() -> None:
    assert through("t\n</think>\n\na", lambda text: text.replace("<reasoning>\n", "")) == "t\n</think>\n\na"
    assert through("t\n</think>\n\na", lambda text: text.replace("reasoning", "think")) == "t\n</think>\n\na"


def test_what_was_cut_stays_cut() -> None:
    assert through("t is cu") == "t is cu"
    assert through("t is cu", lambda text: text + "\n\nthe answer is 2.") == "t is cu"
    assert through("t is cu", lambda text: text.replace("\n</reasoning>", "")) == "t is cu"
    assert through("<think>\nt is cu") == "<think>\nt is cu"


@pytest.mark.parametrize(
    ("rewritten", "status"),
    [
        ("<reasoning>\nt\n</reasoning>\n\na", "no_answer"),
        ("<answer>x</answer> in my thoughts\n</think>\n\nnothing else", "no_answer"),
        ("", "no_answer"),
        ("<answer>\n<reasoning>\nt", "unclosed_answer"),
        ("</answer>x<answer>y", "unclosed_answer"),
        ("<answer> \n </answer>", "empty"),
        ("<answer>t a</answer>", "lost_reasoning"),
        ("<answer><reasoning></reasoning>a</answer>", "lost_reasoning"),
        ("<answer><reasoning>t</reasoning></answer>", "lost_answer"),
    ],
)
def test_unusable_rewritings_have_a_status(rewritten: str, status: str) -> None:
    restored = restore(rewritten, prepare("t\n</think>\n\na", "reasoning"))
    assert (restored.status, restored.text) == (status, "")


def test_the_result_is_between_the_last_opening_and_the_next_closing_tag() -> None:
    assert extract_result("<answer>1</answer> <answer> 2 </answer> 3</answer>") == ("2", "ok")
