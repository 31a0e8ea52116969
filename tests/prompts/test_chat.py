"""The user turn and where the audio goes in it."""

import pytest

from src.common.errors import UserError
from src.prompts.chat import chat_ids, opens_thoughts, split_turn, system_ids, turn_ids
from tests.prompts.fakes import CharTokenizer


def text(ids: list[int]) -> str:
    return CharTokenizer().decode(ids)


def test_turn_is_split_at_its_first_newline() -> None:
    start, main = split_turn(CharTokenizer(), "what?\nnow?")
    assert start == "<|im_start|>user\n"
    assert main == "what?\nnow?<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_empty_content_leaves_the_audio_as_the_whole_message() -> None:
    assert split_turn(CharTokenizer(), "") == (
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n",
    )


def test_explicit_tags_stand_around_the_audio() -> None:
    turn = turn_ids(CharTokenizer(), "what?", ("<start_audio>", "<end_audio>"))
    assert text(turn.start) == "<|im_start|>user\n<start_audio>"
    assert text(turn.main).startswith("<end_audio>what?<|im_end|>")


def test_system_turn_is_rendered_alone() -> None:
    assert text(system_ids(CharTokenizer(), "be kind.")) == "<|im_start|>system\nbe kind.<|im_end|>\n"
    assert system_ids(CharTokenizer(), None) == system_ids(CharTokenizer(), "") == []


def test_text_conversation_equals_the_template() -> None:
    tokenizer = CharTokenizer()
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert text(chat_ids(tokenizer, "s", "u")) == whole


def test_header_tells_whether_thoughts_are_open() -> None:
    assert opens_thoughts(CharTokenizer())
    assert not opens_thoughts(CharTokenizer(header="<|im_start|>assistant\n"))


def test_template_without_newline_is_refused() -> None:
    class OneLine(CharTokenizer):
        def apply_chat_template(self, conversation, **options):  # type: ignore[no-untyped-def]
            return "[user]" + conversation[0]["content"]

    with pytest.raises(UserError, match="writes no newline"):
        split_turn(OneLine(), "what?")
