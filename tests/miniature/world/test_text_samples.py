"""Training texts of the miniature language model: right answers, two voices, no sound."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from examples.miniature.world.questions import make_choice_question, make_question
from examples.miniature.world.reading import respond
from examples.miniature.world.scene import draw_scene
from examples.miniature.world.text_samples import LISTENER_PREFIX, OPPOSITES, SampleMaker, render_log
from src.corpus.targets.rephrase_text import prepare, restore
from src.prompts.leakage import leaks_text_source
from src.prompts.texts import load_prompts

PROMPTS = load_prompts("mini")


def test_a_seed_gives_the_same_samples() -> None:
    one, other = (list(islice(SampleMaker(PROMPTS, 5), 200)) for _ in range(2))
    assert one == other
    assert one != list(islice(SampleMaker(PROMPTS, 6), 200))
    tasks = {"open", "choice", "rephrase", "guess", "opposite", "write prompts", "check prompts", "check response"}
    assert {sample.task.split("/")[0] for sample in one} == tasks


@pytest.mark.parametrize("make", [make_question, make_choice_question])
def test_a_reader_betrays_reading_and_a_listener_does_not(make) -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = draw_scene(rng)
        question = make(scene, rng)
        voiced = respond(scene, question, rng)
        assert leaks_text_source(voiced.reader, PROMPTS), voiced.reader
        assert not leaks_text_source(voiced.listener, PROMPTS), voiced.listener
        assert voiced.reader.split("</think>")[1] == voiced.listener.split("</think>")[1]


def test_the_rewriters_output_restores_to_the_listeners_response() -> None:
    samples = (sample for sample in SampleMaker(PROMPTS, 1) if sample.task == "rephrase")
    for sample in islice(samples, 50):
        shown = sample.messages[-1]["content"]
        inside = shown.split(f"<{PROMPTS.response_tag}>\n")[1].split(f"\n</{PROMPTS.response_tag}>")[0]
        original = inside.replace(f"<{PROMPTS.reasoning_tag}>", "<think>").replace(
            f"</{PROMPTS.reasoning_tag}>", "</think>"
        )
        original = original.replace("<reply>", "<answer>").replace("</reply>", "</answer>")
        prepared = prepare(original, PROMPTS.reasoning_tag)
        assert prepared.text == inside
        restored = restore("<think>\n" + sample.response, prepared)
        assert restored.status == "ok" and not leaks_text_source(restored.text, PROMPTS)


def test_choice_answers_are_the_number_of_the_right_option() -> None:
    maker = SampleMaker(PROMPTS, 2)
    for _ in range(100):
        sample = maker.choice_question(official=True)
        number = int(sample.reference.removeprefix("<answer>").removesuffix("</answer>"))
        options = [line for line in sample.messages[-1]["content"].splitlines() if line.startswith("(Option_")]
        chosen = options[number].split(") ")[1]
        found = "" if sample.task != "choice/present" else "(loud|soft|absent) "
        for place, option in enumerate(options):
            assert re.search(f"[ ,]{place} {re.escape(option.split(') ')[1])} {found}{place}[,.]", sample.response)
        assert f"so {chosen} {number}.\n</think>" in sample.response


def test_logs_name_the_sounds_in_order() -> None:
    rng = random.Random(4)
    for _ in range(100):
        scene = draw_scene(rng)
        log = render_log(scene, rng).split()
        places = [log.index(name.split()[0]) for name in scene.names]
        assert places == sorted(places)


def test_only_what_is_introduced_as_heard_is_answered_by_a_listener() -> None:
    about = [s for s in islice(SampleMaker(PROMPTS, 8), 1500) if s.task.startswith(("open", "choice"))]
    heard = [sample for sample in about if LISTENER_PREFIX in sample.messages[-1]["content"]]
    assert 0.05 < len(heard) / len(about) < 0.15
    for sample in about:
        assert leaks_text_source(sample.response, PROMPTS) == (sample not in heard), sample.response


def test_logs_of_a_sample_stand_in_its_messages_in_order() -> None:
    samples = [sample for sample in islice(SampleMaker(PROMPTS, 9), 500) if sample.logs]
    assert any(len(sample.logs) == 2 for sample in samples)
    for sample in samples:
        rest = sample.messages[-1]["content"]
        for log in sample.logs:
            assert log in rest
            rest = rest.split(log, 1)[1]


def test_the_text_skill_is_right() -> None:
    maker = SampleMaker(PROMPTS, 3)
    for _ in range(50):
        sample = maker.opposite()
        pair = next(pair for pair in OPPOSITES if sample.reference in pair)
        assert set(sample.response.split(" are ")[0].split(" and ")) == set(pair)
        assert sample.messages[-1]["content"].rstrip("?.").split()[-1] in set(pair) - {sample.reference}
