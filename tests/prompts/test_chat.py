"""The user turn and where the audio goes in it."""

import pytest

from src.common.errors import UserError
from src.prompts.chat import chat_ids, split_turn, turn_ids
from src.prompts.find_reasoning import find_reasoning
from src.prompts.reasoning import THINKING, Reasoning
from tests.prompts.fakes import CharTokenizer


def text(ids: list[int]) -> str:
    return CharTokenizer().decode(ids)


def test_turn_is_split_before_the_content() -> None:
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
    assert text(turn.prefix_ids) == "<|im_start|>user\n<start_audio>"
    assert text(turn.suffix_ids).startswith("<end_audio>what?<|im_end|>")


def test_text_conversation_equals_the_template() -> None:
    tokenizer = CharTokenizer()
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert text(chat_ids(tokenizer, "s", "u")) == whole


def test_header_tells_whether_thoughts_are_open() -> None:
    assert find_reasoning(CharTokenizer()) == THINKING
    assert find_reasoning(CharTokenizer(header="<|im_start|>assistant\n")) == Reasoning(expected=False)


class OneLine(CharTokenizer):
    """A template that writes the content ``times`` times, and other text around marks than around words."""

    def __init__(self, times: int, odd: bool = False) -> None:
        super().__init__()
        self.times, self.odd = times, odd

    def apply_chat_template(self, conversation, **options):  # type: ignore[no-untyped-def]
        content = conversation[-1]["content"]
        return ("[odd]" if self.odd and "\ue000" in content else "[user]") + content * self.times


def test_header_without_a_newline_is_a_header() -> None:
    assert split_turn(OneLine(1), "what?\nnow?") == ("[user]", "what?\nnow?")


@pytest.mark.parametrize("times", [0, 2])
def test_template_that_does_not_write_the_content_once_is_refused(times: int) -> None:
    with pytest.raises(UserError, match="no place for the audio"):
        split_turn(OneLine(times), "what?")


def test_text_around_the_audio_is_compared_with_the_template_s_own_render() -> None:
    with pytest.raises(UserError, match=r"other text around the audio .*\[odd\]xwhat.*expected '\[user\]xwhat"):
        split_turn(OneLine(1, odd=True), "what?")
