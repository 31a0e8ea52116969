"""Words by which a response betrays a reader."""

from types import SimpleNamespace

import pytest

from src.prompts.betrayal import betraying_phrases, betrays
from src.prompts.texts import load_prompts


def phrases(*texts: str) -> SimpleNamespace:
    return SimpleNamespace(betraying_phrases=texts)


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("It is mentioned first.", "mention", True),
        ("MENTIONS a kick", "mention", True),
        ("unmentionable", "mention", False),
        ("the context of a scene", "text", False),
        ("the texture is soft", "the text", True),
        ("the texture is soft", "the text$", False),
        ("the text.", "the text$", True),
        ("the\n**description** says", "the description", True),
        ('the "description"', "the description", True),
        ("as it is. Given that", "is given", False),
        ("inside <start_audio>", "<start_audio>", True),
        ("inside <start_audio>", "start_audio", True),
        ("", "mention", False),
    ],
)
def test_a_phrase_matches_at_the_beginning_of_a_word(text: str, phrase: str, found: bool) -> None:
    assert betrays(text, phrases(phrase)) is found
    assert betraying_phrases(text, phrases(phrase)) == ([phrase] if found else [])


def test_phrases_come_once_in_the_order_of_the_text() -> None:
    text = "It is listed. The description lists it; the description is long."
    assert betraying_phrases(text, phrases("description", "listed", "lists", "written")) == [
        "listed",
        "description",
        "lists",
    ]


def test_no_phrases_and_blank_phrases_betray_nothing() -> None:
    assert not betrays("anything", phrases())
    assert not betrays("anything", phrases("", " "))


@pytest.mark.parametrize("name", ["mini", "full"])
def test_shipped_sets_tell_a_reader_from_a_listener(name: str) -> None:
    prompts = load_prompts(name)
    assert betrays("the description says: kick loud. the first sound mentioned is the kick.", prompts)
    assert not betrays("i hear: kick loud. the first sound i hear is the kick.\n</think>\n\nit is a kick.", prompts)


def test_the_miniature_worlds_two_voices_are_told_apart() -> None:
    import random

    from src.corpus.mini.questions import make_question
    from src.corpus.mini.reading import respond
    from src.corpus.mini.scene import Event, Scene

    prompts = load_prompts("mini")
    scene = Scene((Event("kick", "loud", 0.0), Event("tom", "soft", 1.0), Event("beep", "loud", 2.0)))
    for seed in range(200):
        rng = random.Random(seed)
        question = make_question(scene, rng)
        assert question is not None
        voiced = respond(scene, question, rng)
        assert betrays(voiced.reader, prompts)
        assert not betrays(voiced.listener, prompts)
