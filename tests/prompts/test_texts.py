"""Prompt sets: same keys everywhere, placeholders filled, mistakes named."""

import dataclasses

import pytest

from src.common.errors import ConfigError, UserError
from src.prompts import Prompts, load_prompts
from src.prompts.leakage import leaks_text_source


@pytest.mark.parametrize("name", ["full", "mini"])
def test_every_set_has_every_text(name: str) -> None:
    prompts = load_prompts(name)
    for field in dataclasses.fields(Prompts):
        if field.name != "rephrase_examples":
            assert getattr(prompts, field.name), field.name
    assert prompts.budget_closing.rstrip().endswith("</think>")
    assert "{n}" in prompts.ensemble_intro and "{i}" in prompts.ensemble_heading
    assert "{examples}" not in prompts.rephrase_system
    assert len(set(prompts.writer_styles)) == len(prompts.writer_styles)


def test_worked_pairs_follow_their_own_rules() -> None:
    prompts = load_prompts("full")
    assert len(prompts.rephrase_examples) == 4
    for pair in prompts.rephrase_examples:
        assert pair.original in prompts.rephrase_system and pair.rewritten in prompts.rephrase_system
        assert pair.original.count("\n\n") == pair.rewritten.count("\n\n"), pair.title
        assert 0.8 < len(pair.rewritten) / len(pair.original) < 1.25, pair.title
        assert pair.original[-20:] == pair.rewritten[-20:], pair.title  # what was cut stays cut
        assert not leaks_text_source(pair.rewritten, prompts), pair.title
        assert leaks_text_source(pair.original, prompts), pair.title


def test_single_texts_can_be_replaced_and_change_the_digest() -> None:
    plain = load_prompts("mini")
    changed = load_prompts("mini", {"mcqa_system": "choose."})
    assert changed.mcqa_system == "choose."
    assert changed.digest() != plain.digest()
    assert plain.digest() == load_prompts("mini").digest()


def test_the_writer_of_the_full_set_is_shown_descriptions_of_the_corpus() -> None:
    prompts = load_prompts("full")
    assert prompts.writer_system.count("{examples}") == 1 and len(prompts.writer_styles) >= 20
    assert "GOOD or BAD" in prompts.prompt_checker_system and "YES if" in prompts.checker_system


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="unknown prompt set 'ful'; known: full, mini"):
        load_prompts("ful")
    with pytest.raises(ConfigError, match="did you mean 'mcqa_system'"):
        load_prompts("mini", {"mcqa_sistem": "choose."})
    with pytest.raises(ConfigError, match="budget_closing must hold </think>"):
        load_prompts("mini", {"budget_closing": "stop."})
    with pytest.raises(ConfigError, match="writer_styles is empty"):
        load_prompts("mini", {"writer_styles": []})
