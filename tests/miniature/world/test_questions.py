"""Questions have one right answer, and options give nothing away to someone who did not hear the clip."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from examples.miniature.world.questions import CHOICE_KINDS, OPEN_KINDS, make_choice_question, make_question
from examples.miniature.world.scene import Event, Scene, describe, draw_scene
from examples.miniature.world.vocabulary import SOUND_NAMES

SCENE = Scene((Event("kick", "loud", 0), Event("tom", "soft", 1), Event("robot voice", "loud", 2)), "faint", 3.2)


def test_description_is_the_corpora_format() -> None:
    assert describe(SCENE) == (
        "[00:00-00:03] |kick loud, then tom soft, then robot voice loud| (duration: 3s, events: 3, background: faint)"
    )
    assert Scene.from_json(SCENE.to_json()) == SCENE


@pytest.mark.parametrize(
    "events", [(Event("kick", "loud"), Event("kick", "soft")), (Event("kick", "loud", 2), Event("tom", "soft", 1))]
)
def test_a_scene_that_questions_could_not_tell_apart_is_refused(events: tuple[Event, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        Scene(events)


def test_open_answers() -> None:
    rng = random.Random(0)
    answers = {kind: make_question(SCENE, rng, kind) for kind in OPEN_KINDS}
    texts = {kind: question.answer for kind, question in answers.items() if question}
    assert texts["first"] == "the first sound is a kick."
    assert texts["last"] == "the last sound is a robot voice."
    assert texts["count"] == "there are three sounds."
    assert texts["sequence"] == "kick, tom, robot voice."
    assert (
        texts["describe"].startswith("the sounds are kick loud, then tom soft") and "faint noise" in texts["describe"]
    )


@pytest.mark.parametrize("kind", ["after", "before", "louder"])
def test_a_lone_sound_allows_no_comparison(kind: str) -> None:
    alone = Scene((Event("kick", "loud"),))
    assert make_question(alone, random.Random(0), kind) is None
    if kind in CHOICE_KINDS:
        assert make_choice_question(alone, random.Random(0), kind) is None


@pytest.mark.parametrize("kind", CHOICE_KINDS)
def test_the_right_option_is_the_only_right_one_and_anywhere(kind: str) -> None:
    rng = random.Random(1)
    places: Counter[int] = Counter()
    count = 0
    while count < 600:
        scene = draw_scene(rng)
        question = make_choice_question(scene, rng, kind)
        if question is None:
            continue
        assert question.choices is not None and question.choices.count(question.answer) == 1
        assert not set(question.subject) & set(question.choices) or kind == "louder"
        if kind == "present":
            assert [choice in scene.names for choice in question.choices].count(True) == 1
        places[question.choices.index(question.answer)] += 1
        size = len(question.choices)
        count += 1
    for place in range(size):
        assert abs(places[place] / count - 1 / size) < 0.08


@pytest.mark.parametrize("kind", ["first", "last", "after", "present", "louder"])
def test_hearing_another_clip_does_not_help(kind: str) -> None:
    """Someone who answers about another scene, and guesses where that is not among the options, is at chance."""
    rng = random.Random(2)
    hits = chance = 0.0
    rounds = 0
    while rounds < 4000:
        scene, other = draw_scene(rng), draw_scene(rng)
        question = make_choice_question(scene, rng, kind)
        if question is None:
            continue
        assert question.choices is not None
        heard = [choice for choice in question.choices if choice in other.names] or list(question.choices)
        hits += rng.choice(heard) == question.answer
        chance += 1 / len(question.choices)
        rounds += 1
    assert abs(hits - chance) / rounds < 0.03


def test_names_limit_what_is_asked_for() -> None:
    names = SOUND_NAMES[:6]
    rng = random.Random(3)
    for _ in range(200):
        question = make_choice_question(draw_scene(rng, names), rng, "present", names)
        assert question is not None and question.choices is not None
        assert set(question.choices) <= set(names)
