"""Training texts of the miniature language model for writing and judging prompts, and for judging responses."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from examples.miniature.world import prompt_tasks
from examples.miniature.world.prompt_tasks import KIND_OF_SHAPE, named_sounds, suits, wrote_prompts
from examples.miniature.world.questions import OPEN_KINDS, make_question
from examples.miniature.world.scene import Event, Scene, describe, draw_scene
from src.corpus.targets.prompt_list import read_prompt_list, read_verdicts
from src.corpus.targets.response_stages import says_yes
from src.prompts.leakage import leaks_text_source
from src.prompts.texts import load_prompts

PROMPTS = load_prompts("mini")
SCENE = Scene((Event("kick", "loud", 0), Event("drum loop", "soft", 1), Event("bell", "soft", 2)))


def test_every_question_suits_its_scene_and_has_a_known_shape() -> None:
    assert set(KIND_OF_SHAPE.values()) == set(OPEN_KINDS)
    rng = random.Random(0)
    for _ in range(500):
        scene = draw_scene(rng)
        question = make_question(scene, rng)
        assert question is not None and suits(question.text, scene), question


@pytest.mark.parametrize(
    "prompt",
    [
        "what comes right after the bell?",
        "what comes right after the tom?",
        "does the kick come before the tom?",
        "does the kick come before the kick?",
        "which is louder, the bell or the drum loop?",
        "what colour is the kick?",
        "which sound does the text mention first?",
    ],
)
def test_what_does_not_suit_a_scene(prompt: str) -> None:
    assert not suits(prompt, SCENE)


def test_the_writer_lists_prompts_that_suit_the_scene_in_the_style_asked_for() -> None:
    rng, seen = random.Random(1), Counter()
    for _ in range(300):
        sample = prompt_tasks.write_prompts(PROMPTS, rng)
        assert sample.scene is not None and wrote_prompts(sample.response, sample.scene), sample.response
        style = sample.messages[-1]["content"].split("\n\n")[-1]
        assert describe(sample.scene) in sample.messages[-1]["content"]
        kinds = prompt_tasks.STYLE_KINDS[PROMPTS.writer_styles.index(style)]
        listed, _ = read_prompt_list(sample.response)
        for prompt in listed:
            kind = KIND_OF_SHAPE["".join(prompt_tasks.shape_of(prompt))]
            assert kind in kinds
            seen[kind] += 1
    assert set(seen) == set(OPEN_KINDS)


def test_the_prompt_checkers_verdicts_follow_from_the_description() -> None:
    rng, verdicts = random.Random(2), Counter()
    for _ in range(300):
        sample = prompt_tasks.check_prompts(PROMPTS, rng)
        description, _, listed = sample.messages[-1]["content"].partition("\n\n")
        candidates, status = read_prompt_list(f"<answer>{listed}</answer>")
        good, read = read_verdicts(sample.response, len(candidates))
        assert status == read == "ok"
        for candidate, verdict in zip(candidates, good, strict=True):
            known = KIND_OF_SHAPE.get(prompt_tasks.shape_of(candidate))
            names_absent = any(name not in named_sounds(description) for name in named_sounds(candidate))
            assert verdict == (known is not None and (known == "present" or not names_absent)), candidate
            verdicts[verdict] += 1
    assert 0.4 < verdicts[True] / verdicts.total() < 0.6


def test_the_response_checker_says_yes_to_readers_alone() -> None:
    rng, verdicts = random.Random(3), Counter()
    for _ in range(300):
        sample = prompt_tasks.check_response(PROMPTS, rng)
        shown = sample.messages[-1]["content"]
        assert says_yes("<think>\n" + sample.response) == leaks_text_source(shown, PROMPTS), sample.response
        verdicts[leaks_text_source(shown, PROMPTS)] += 1
    assert 0.4 < verdicts[True] / verdicts.total() < 0.6
