"""Published layouts of multiple choice: the text that is shown, and how a reply to it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.common.config import compose
from src.prompts import choose_prompts, load_prompts
from src.prompts.multiple_choice import layout_question, match_option, read_reply
from src.prompts.reasoning import Reasoning
from src.prompts.texts import AnswerStyle, load_presets

QUESTION, CHOICES = "Who sings?", ["A man", "A woman", "a child, maybe"]
MMSU = (
    "Choose the most suitable answer from options A, B, C, and D to respond the question in next line, "
    "**you should only choose A or B or C or D.** Do not provide any additional explanations or content."
    "\n\nQuestion: Who sings?\n\n"
)
SHOWN = {
    "letters": "Who sings?\nA. A man\nB. A woman\nC. a child, maybe\n"
    "Answer with the letter of the right option and nothing else.",
    "mmau": "\nWho sings?  Select one option from the provided choices.\n['A man', 'A woman', 'a child, maybe'].",
    "mmar": "Who sings?\nSelect one option from the provided choices:\nA man\nA woman\na child, maybe",
    "mmsu": f"{MMSU}A. A man\nB. A woman\nC. a child, maybe",
    "audio_flamingo": "Who sings? Choose the correct option from the following options:\n(A) A man\n(B) A woman\n"
    "(C) a child, maybe",
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_preset_shows_what_its_source_shows(name: str) -> None:
    prompts = choose_prompts(compose("generate", [f"prompts={name}", "checkpoint_name=x"])["prompts"])
    assert layout_question(QUESTION, CHOICES, prompts) == SHOWN[name]
    assert prompts.mcqa_system == ""
    assert prompts.name == name and prompts.source.startswith("shipped" if name == "letters" else "https://")


def test_presets_differ_from_each_other_and_are_in_the_config_group() -> None:
    assert set(load_presets()) == {*SHOWN, "alarm"}
    assert len({load_prompts(name).digest() for name in (*SHOWN, "full", "mini")}) == len(SHOWN) + 2
    alarm = choose_prompts(compose("generate", ["prompts=alarm", "checkpoint_name=x"])["prompts"])
    assert alarm.digest() == load_prompts("full").digest()


def test_a_style_of_numbers_leaves_the_digest_of_older_runs(tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text("answer_style: number\n")
    assert load_prompts(str(plain)).digest() == load_prompts("full").digest()


@pytest.mark.parametrize(
    ("style", "reply", "choice", "status"),
    [
        ("letter", "B", 1, "chosen_letter"),
        ("letter", "**(b)**", 1, "chosen_letter"),
        ("letter", "<answer>C.</answer>", 2, "chosen_letter"),
        ("letter", "B. A woman", 1, "chosen_letter"),
        ("letter", "The correct answer is (A).", 0, "chosen_letter"),
        ("letter", "a woman.", 1, "chosen_text"),
        ("letter", "Option A or answer B", None, "several_options"),
        ("letter", "E", None, "out_of_range"),
        ("letter", "A man is singing here, I believe", None, "no_option"),
        ("letter", "I do not know", None, "no_option"),
        ("letter", "", None, "empty"),
        ("text", "A woman", 1, "chosen_text"),
        ("text", "'a child maybe'.", 2, "chosen_text"),
        ("text", "It is a woman who sings.", 1, "chosen_text"),
        ("text", "It is a man or a woman.", None, "several_options"),
        ("text", "B", None, "no_option"),
    ],
)
def test_replies_are_read_as_the_prompt_asked(
    style: AnswerStyle, reply: str, choice: int | None, status: str
) -> None:
    found = match_option(reply, CHOICES, style)
    assert (found.choice, found.status) == (None if choice is None else CHOICES[choice], status)


def test_an_option_inside_another_one_is_not_a_second_answer() -> None:
    assert match_option("a red car.", ["car", "red car"], "text").choice == "red car"
    assert match_option("I hear the red car", ["car", "red car"], "text").choice == "red car"


def test_only_text_after_the_thoughts_is_read() -> None:
    reasoning = Reasoning(opened=False, expected=False)
    assert read_reply("<think>B?</think>\n\nA", CHOICES, "none", reasoning, "letter").choice == "A man"
    cut = read_reply("<think>B? or", CHOICES, "none", reasoning, "letter")
    assert (cut.choice, cut.status) == (None, "unfinished_thoughts")
    assert read_reply("no idea", CHOICES, "option_0", reasoning, "letter").choice == "A man"
