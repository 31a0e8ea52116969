"""Text leaks: words which show that a response was written by a reader."""

from types import SimpleNamespace

import pytest

from src.prompts.leakage import leak_spans, leaks_text_source
from src.prompts.texts import load_prompts
from tests.prompts.sentences import BETRAYING, INNOCENT


def phrases(*texts: str) -> SimpleNamespace:
    return SimpleNamespace(betraying_phrases=texts)


def found_phrases(text: str, prompts: SimpleNamespace) -> list[str]:
    """Rules that find something, each once, in the order of their first leak."""
    return list(dict.fromkeys(span.phrase for span in leak_spans(text, prompts)))


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
    assert leaks_text_source(text, phrases(phrase)) is found
    assert found_phrases(text, phrases(phrase)) == ([phrase] if found else [])


def test_phrases_come_once_in_the_order_of_the_text() -> None:
    text = "It is listed. The description lists it; the description is long."
    assert found_phrases(text, phrases("description", "listed", "lists", "written")) == [
        "listed",
        "description",
        "lists",
    ]


def test_no_phrases_and_blank_phrases_betray_nothing() -> None:
    assert not leaks_text_source("anything", phrases())
    assert not leaks_text_source("anything", phrases("", " "))


@pytest.mark.parametrize("name", ["mini", "full"])
def test_shipped_sets_tell_a_reader_from_a_listener(name: str) -> None:
    prompts = load_prompts(name)
    assert leaks_text_source("the description says: kick loud. the first sound mentioned is the kick.", prompts)
    assert not leaks_text_source(
        "i hear: kick loud. the first sound i hear is the kick.\n</think>\n\nit is a kick.", prompts
    )


def test_the_miniature_worlds_two_voices_are_told_apart() -> None:
    import random

    from examples.miniature.world.questions import make_question
    from examples.miniature.world.reading import respond
    from examples.miniature.world.scene import Event, Scene

    prompts = load_prompts("mini")
    scene = Scene((Event("kick", "loud", 0.0), Event("tom", "soft", 1.0), Event("beep", "loud", 2.0)))
    for seed in range(200):
        rng = random.Random(seed)
        question = make_question(scene, rng)
        assert question is not None
        voiced = respond(scene, question, rng)
        assert leaks_text_source(voiced.reader, prompts)
        assert not leaks_text_source(voiced.listener, prompts)


@pytest.mark.parametrize("sentence", BETRAYING)
def test_a_readers_sentences_betray(sentence: str) -> None:
    assert leaks_text_source(sentence, load_prompts("full"))
    assert leaks_text_source(f"Okay, let me think. {sentence.upper()} So that is it.", load_prompts("full"))


@pytest.mark.parametrize("sentence", INNOCENT)
def test_what_is_heard_known_or_asked_for_does_not_betray(sentence: str) -> None:
    assert leak_spans(f"Okay, let me think. {sentence} So that is it.", load_prompts("full")) == []


def test_alternatives_gaps_and_names() -> None:
    rules = phrases("@doc = text|note", "the @doc|label ~ says|tells$")
    for text in ("The text says", "the LABEL of it tells", "the note, says", "the note says more"):
        assert leaks_text_source(text, rules) is (text != "the note, says"), text
    for text in ("the text of it there says", "the text saysx", "label says", "the @doc says"):
        assert not leaks_text_source(text, rules), text


def test_innocent_places_do_not_count() -> None:
    rules = phrases("!speaker|singer ~ mention", "!mentioned by the speaker$", "mention", "description")
    assert not leaks_text_source("The speaker also mentions it, mentioned by the speaker.", rules)
    assert found_phrases("The speaker mentions what the description mentions.", rules) == [
        "description",
        "mention",
    ]
    assert leaks_text_source("mentioned by the speakerphone", rules)


def test_places_are_those_of_the_text() -> None:
    text = "İİ STRASSE: The  **Description** lists, it's listed."
    spans = leak_spans(text, phrases("the description", "listed$"))
    assert [(text[span.start : span.end], span.words) for span in spans] == [
        ("The  **Description", "the description"), ("listed", "listed"),
    ]  # fmt: skip


def test_rules_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="@voice is not defined above"):
        leaks_text_source("x", phrases("@voice mentions"))
    with pytest.raises(ValueError, match="begins with '~'"):
        leaks_text_source("x", phrases("~ mentions"))
