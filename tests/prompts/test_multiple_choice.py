"""Multiple choice: every way a reply can be read, here and in the published system."""

import pytest

from src.prompts.multiple_choice import layout_question, map_answer, shuffled_order

COLOURS = ("red", "green", "blue", "grey")
NUMBERS = ("2", "3", "4", "10")


def test_options_are_numbered_from_zero() -> None:
    assert layout_question("which?", ["a", "b"]) == (
        "<question>\nwhich?\n</question>\n<options>\n(Option_0) a\n(Option_1) b\n</options>"
    )


CASES = [
    # reply, choices, status, our choice, published choice
    ("2", COLOURS, "index", "blue", "blue"),
    ("0", COLOURS, "index", "red", "red"),
    (" 1\u00a0", COLOURS, "index", "green", "green"),
    ("+3", COLOURS, "index", "grey", "grey"),
    ("01", COLOURS, "index", "green", "green"),
    ("３", COLOURS, "index", "grey", "grey"),
    ("2", NUMBERS, "index", "4", "4"),
    ("4", NUMBERS, "value", "4", "4"),
    ("1_0", NUMBERS, "value", "10", "10"),
    ("-1", COLOURS, "negative_index", None, "grey"),
    ("-4", COLOURS, "negative_index", None, "red"),
    ("-1", ("5", "-1", "7"), "value", "-1", "7"),
    ("-5", COLOURS, "out_of_range", None, "-5"),
    ("4", COLOURS, "out_of_range", None, "4"),
    ("", COLOURS, "empty", None, "red"),
    ("B", COLOURS, "letter", None, "red"),
    ("(c)", COLOURS, "letter", None, "red"),
    ("Blue ", COLOURS, "option_text", None, "red"),
    ("b", ("a", "b"), "option_text", None, "a"),
    ("Option_2", COLOURS, "option_label", None, "red"),
    ("(Option_2) blue", COLOURS, "option_label", None, "red"),
    ("2.", COLOURS, "decimal", None, "red"),
    ("2.0", COLOURS, "decimal", None, "red"),
    ("1, 2", COLOURS, "several_numbers", None, "red"),
    ("1 or 2", COLOURS, "several_numbers", None, "red"),
    ("9" * 5000, COLOURS, "too_many_digits", None, "red"),
    ("{2}", COLOURS, "not_a_number", None, "red"),
    ("None", COLOURS, "not_a_number", None, "red"),
]


@pytest.mark.parametrize(("reply", "choices", "status", "choice", "published"), CASES)
def test_reply_is_mapped_with_a_status(
    reply: str, choices: tuple[str, ...], status: str, choice: str | None, published: str
) -> None:
    text = f"so it is.\n</think>\n\n<answer>{reply}</answer>"
    ours = map_answer(text, choices)
    assert (ours.choice, ours.status) == (choice, status)
    assert ours.parsed == (choice is not None)
    theirs = map_answer(text, choices, "option_0")
    assert (theirs.choice, theirs.status) == (published, status)


def test_options_are_shuffled_by_seed_and_row_alone() -> None:
    orders = [shuffled_order(4, 7, f"row {row}") for row in range(200)]
    assert orders == [shuffled_order(4, 7, f"row {row}") for row in range(200)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    firsts = [order[0] for order in orders]
    assert all(30 < firsts.count(option) < 70 for option in range(4))
    assert orders != [shuffled_order(4, 8, f"row {row}") for row in range(200)]


def test_reply_without_tags_is_read_whole() -> None:
    assert map_answer("1", COLOURS).choice == "green"
    assert map_answer("hm, 1", COLOURS).status == "not_a_number"
