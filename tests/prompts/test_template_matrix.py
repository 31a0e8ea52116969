"""Twenty-two families' chat templates: where the audio stands, how the model reasons, what ends a turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from src.common.errors import UserError
from src.dataset.examples import ExampleDataset
from src.inference.prompt_builder import PromptBuilder
from src.prompts import load_prompts
from src.prompts.chat import chat_ids, check_chat_template, end_of_turn_ids, render_chat, turn_ids
from src.prompts.find_reasoning import choose_reasoning, find_reasoning, hidden_tokens
from src.prompts.messages import self_generation_messages
from src.prompts.reasoning import FORMATS
from src.serving.conversation import Conversations
from src.serving.schema import ChatRequest
from tests.prompts.families import AUDIO, FAMILIES, Family
from tests.regressions.test_templates import OneRow, flat
from tests.serving.sounds import chat, input_audio

PROMPTS = load_prompts("mini")
CONTENTS = ["what is it?\nname it.\n\nin one word", "", "\n  two lines\n", "a  b"]
CLIP = [torch.zeros(2, 4)]


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def tokenizer(family: Family) -> Any:
    return family.tokenizer()


def whole(tokenizer: Any, family: Family, content: str, system: str | None) -> list[Any]:
    """The template's own render with a control token in the place of the audio, tokenised as a whole."""
    if system and family.folded:
        content, system = f"{system}\n\n{content}", None
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    audio = tokenizer.convert_tokens_to_ids(AUDIO)
    return ["audio" if token == audio else token for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("system", [None, "listen."])
def test_the_templates_are_those_of_the_families(tokenizer: Any, family: Family, system: str | None) -> None:
    messages = [{"role": "user", "content": "what?"}]
    expected = (family.with_system if system else family.alone).format(s=system, u="what?")
    if system:
        messages.insert(0, {"role": "system", "content": system})
    assert render_chat(tokenizer, messages) == expected
    check_chat_template(tokenizer, "llm")


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("system", [None, "listen well.\nthen answer."])
def test_audio_stands_where_the_text_prompt_would_stand(
    tokenizer: Any, family: Family, system: str | None, content: str
) -> None:
    right = whole(tokenizer, family, AUDIO + content, system)
    assert right.count("audio") == 1
    turn = turn_ids(tokenizer, content, system=system)
    assert [*turn.prefix_ids, "audio", *turn.suffix_ids] == right
    assert flat(PromptBuilder(tokenizer, PROMPTS, system or "").with_audio(content, CLIP)) == right
    if content:  # the API has no empty texts
        body = chat(input_audio(b"abc"), content)
        body["messages"].insert(0, {"role": "system", "content": system or ""})
        messages = ChatRequest.model_validate(body).messages
        assert flat(Conversations(tokenizer, PROMPTS, [False]).segments(messages, [CLIP])) == right
    if family.bos:
        bos = tokenizer.convert_tokens_to_ids(family.bos)
        alike = family.bos == family.end  # Granite ends turns with its first token
        assert right[0] == bos if not alike else True
        assert right.count(bos) == family.with_system.count(family.bos) if system else family.alone.count(family.bos)


@pytest.mark.parametrize("content", CONTENTS)
def test_training_and_text_prompts_are_the_templates_own(tokenizer: Any, family: Family, content: str) -> None:
    example = ExampleDataset(OneRow(content), tokenizer)[0]  # type: ignore[arg-type]
    assert [*example.start, "audio", *example.main] == whole(tokenizer, family, AUDIO + content, None)
    for system in ("", "listen."):
        assert chat_ids(tokenizer, system, content) == whole(tokenizer, family, content, system or None)
    described = PromptBuilder(tokenizer, PROMPTS, "s").with_description(content, "a kick")
    turns = self_generation_messages(PROMPTS, "a kick", content)
    assert flat(described) == whole(tokenizer, family, turns[1]["content"], turns[0]["content"])


def test_no_second_system_turn(tokenizer: Any, family: Family, name: str) -> None:
    ids = whole(tokenizer, family, AUDIO + "what?", "listen well.")
    given = tokenizer.decode([token for token in ids if token != "audio"])
    assert given.count("listen well.") == 1
    header = family.with_system.partition("{s}")[0].removeprefix(family.bos or "")
    if header.strip() and name != "DeepSeek-R1-Distill" and not family.folded:
        assert given.count(header) == 1


def test_the_reasoning_is_found_by_the_template(tokenizer: Any, family: Family) -> None:
    found = find_reasoning(tokenizer)
    assert (found.format.name, found.opened, found.expected) == family.reasoning
    marks = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in found.format.marks]
    visible = {token for ids in marks for token in ids}
    assert hidden_tokens(tokenizer) == set(tokenizer.all_special_ids) - visible | {tokenizer.unk_token_id}


def test_the_end_of_a_turn(tokenizer: Any, family: Family) -> None:
    assert tokenizer.convert_ids_to_tokens(end_of_turn_ids(tokenizer)) == [family.end]
    row = OneRow("q")
    ids = {
        end: ExampleDataset(row, tokenizer, targets_end=end)[0].outputs  # type: ignore[arg-type]
        for end in ("none", "end_of_turn")
    }
    assert ids["end_of_turn"] == ids["none"] + end_of_turn_ids(tokenizer)
    assert ids["none"] == tokenizer("it is a kick", add_special_tokens=False)["input_ids"]


SWITCHED = {
    ("Qwen3 hybrid", "none"): "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ("SmolLM3", "none"): "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ("GLM-4.5", "none"): "<|assistant|><think>\n\n</think>\n\n",
    ("Granite 3.3", "granite"): "<|start_of_role|>assistant<|end_of_role|>",
}


@pytest.mark.parametrize(("family_name", "chosen"), SWITCHED)
def test_a_named_format_sets_the_templates_own_switch(family_name: str, chosen: str) -> None:
    family = FAMILIES[family_name]
    tokenizer = choose_reasoning(family.tokenizer(), chosen)
    found = find_reasoning(tokenizer)
    assert (found.format, found.opened, found.expected) == (FORMATS[chosen], False, chosen != "none")
    rendered = render_chat(tokenizer, [{"role": "user", "content": "q"}])
    assert rendered.endswith(SWITCHED[family_name, chosen])
    assert ("<response>" in rendered) == (chosen == "granite")
    unknown = family.tokenizer()
    with pytest.raises(
        UserError, match=r"reasoning format 'unknown': expected harmony, think_brackets, granite, think"
    ):
        choose_reasoning(unknown, "unknown")


def test_a_header_that_closes_the_reasoning_turns_it_off() -> None:
    tokenizer = FAMILIES["Qwen3 hybrid"].tokenizer()
    tokenizer.chat_template = "{%- set enable_thinking = false %}{{- '' }}" + tokenizer.chat_template
    found = find_reasoning(tokenizer)
    assert (found.format.name, found.opened, found.expected) == ("think", False, False)


def test_reasoning_that_cannot_be_turned_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = choose_reasoning(FAMILIES["Qwen3 Thinking"].tokenizer(), "none")
    assert not find_reasoning(tokenizer).expected
    assert "reasoning=none: the chat template opens the reasoning all the same" in caplog.text


def test_a_format_by_its_two_texts() -> None:
    tokenizer = choose_reasoning(FAMILIES["Qwen3 Instruct"].tokenizer(), "<seed:think> </seed:think>")
    found = find_reasoning(tokenizer)
    assert (found.format.opening, found.format.closing, found.expected) == ("<seed:think>", "</seed:think>", True)


MISTRAL = [
    ("v3", "Mistral v0.3", "[INST] hi[/INST]"),
    ("v7", "Mistral Small 3", "[INST]hi[/INST]"),
    ("v13", "Magistral", "[INST]hi[/INST]"),
]


@pytest.mark.parametrize(("version", "like", "ending"), MISTRAL)
def test_templates_of_mistrals_own_generator(version: str, like: str, ending: str) -> None:
    """Templates as Mistral's package writes them, over the tokenizer of its family."""
    templates = pytest.importorskip("mistral_common.integrations.chat_templates.template_generator")
    versions = pytest.importorskip("mistral_common.tokens.tokenizers.base")
    thinks, family = like == "Magistral", FAMILIES[like]
    config = templates.TemplateConfig(
        version=versions.TokenizerVersion(version), spm=version == "v3", image_support=False, audio_support=False,
        thinking_support=thinks, plain_thinking_support=False, use_special_token_variables=True,
        model_settings_fields=None, reasoning_effort_values=None, reasoning_effort_default=None,
    )  # fmt: skip
    tokenizer = family.tokenizer()
    tokenizer.chat_template = templates.build_chat_template(config)
    assert render_chat(tokenizer, [{"role": "user", "content": "hi"}]).endswith(ending)
    for system in (None, "listen."):
        right = whole(tokenizer, family, AUDIO + "what?\nnow", system)
        assert flat(PromptBuilder(tokenizer, PROMPTS, system or "").with_audio("what?\nnow", CLIP)) == right
        assert right.count(tokenizer.bos_token_id) == 1
    assert find_reasoning(tokenizer).format.name == ("think_brackets" if thinks else "think")
    assert tokenizer.convert_ids_to_tokens(end_of_turn_ids(tokenizer)) == ["</s>"]
