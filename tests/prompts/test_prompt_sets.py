"""Which prompt set a run uses, and that the shipped sets give the same token ids as ever."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.prompts import choose_prompts, load_prompts
from src.prompts.prompt_sets import origin_of_run, prompt_record, usual_set
from src.prompts.texts import load_presets

GOLDEN = json.loads(Path(__file__).with_name("golden_sets.json").read_text(encoding="utf-8"))
"""Digests, checksums of token ids and of stages' texts, recorded before layouts became keys of a set."""
MINI = "assets/mini/llm"


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines reach ``caplog`` also after a test that ran a command."""


def warnings(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {record.message for record in caplog.records if record.levelno >= logging.WARNING}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's set: two texts and a layout."""
    path = tmp_path / "own.yaml"
    path.write_text('mcqa_system: "pick."\nmcqa_user: "{question}?\\n{options}"\nensemble_intro: "{n}x"\n')
    return path


@pytest.mark.parametrize("name", ["full", "mini"])
def test_shipped_sets_give_the_recorded_token_ids(name: str) -> None:
    import torch

    from src.corpus.targets.llm_settings import ResponseSettings
    from src.corpus.targets.rephrase_text import prepare
    from src.corpus.targets.response_stages import response_stages
    from src.generation.task_types import MULTIPLE_CHOICE
    from src.inference.prompt_builder import PromptBuilder
    from src.model.llm import load_tokenizer
    from src.prompts.messages import (
        Messages,
        ResponseTexts,
        checker_messages,
        rephrase_messages,
        self_generation_messages,
    )

    tokenizer, prompts = load_tokenizer(MINI), load_prompts(name)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def shown(messages: Messages) -> list[int]:
        return ids(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    row = {"question": "which comes first?", "choices": ["a {options} dog", "a cat"]}
    content = MULTIPLE_CHOICE.content(row, "question", prompts)
    found: dict[str, Any] = {}
    for explicit in (False, True):
        for count in (1, 2, 3):
            builder = PromptBuilder(tokenizer, prompts, prompts.mcqa_system, [explicit] * count)
            segments = builder.with_audio(content, [torch.zeros(2, 4)] * count)
            found[f"turn_{count}_{explicit}"] = [
                "clip" if isinstance(segment, torch.Tensor) else list(segment) for segment in segments
            ]
    found["self"] = shown(self_generation_messages(prompts, "[00:00] {prompt} x", "what {audio_description}?"))
    response = "it says a dog.\n</think>\n\nA dog."
    texts = ResponseTexts(response, prepare(response, prompts.reasoning_tag).text)
    found["rephrase"] = shown(rephrase_messages(prompts, texts))
    found["check"] = shown(checker_messages(prompts, prompts.checker_system, texts))
    found["closing"] = ids(prompts.budget_closing)
    sums = {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] for key, value in found.items()}
    settings = ResponseSettings(llm="x", prompts=name, rephrase=True, checker_llm="y")
    marks = {stage.name: stage.fingerprint["prompt_texts"] for stage in response_stages(settings, prompts, [])}
    recorded = GOLDEN[name]
    assert (prompts.digest(), sums, marks) == (recorded["digest"], recorded["sha256"], recorded["marks"])


def test_a_file_of_the_users_is_a_set(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prompts = load_prompts(str(own))
    assert "generation_system" in caplog.text and "taken from our set full" in caplog.text
    assert "mcqa_system" not in caplog.text
    full = load_prompts("full")
    assert (prompts.name, prompts.source, prompts.published) == ("own", str(own), False)
    assert (prompts.mcqa_system, prompts.generation_system) == ("pick.", full.generation_system)
    assert prompts.digest() != full.digest()
    changed = load_prompts(str(own), {"mcqa_system": "choose."})
    assert changed.mcqa_system == "choose." and changed.source == f"{own}, changed: mcqa_system"
    assert prompts.own_layouts("mcqa_user", "option_line") == ("mcqa_user={question}?\n{options}",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mcqa_sistem: x", "mcqa_sistem: unknown key; did you mean 'mcqa_system'"),
        ("mcqa_system: 3", r"mcqa_system: got 3 \(int\), expected str"),
        ("- a", "got list, expected keys and texts"),
        ("a: [", "not a YAML file"),
        ("mcqa_user: '{question} and {optoins}'", r"mcqa_user lacks \{options\}"),
        ("rephrase_user: 'rewrite {text}'", r"rephrase_user lacks \{prepared\} or \{response\}"),
        ("ensemble_tags: both", "ensemble_tags: got 'both'; known: each, around"),
        ("budget_closing: stop", "budget_closing must hold </think>"),
    ],
)
def test_mistakes_in_a_file_are_named_with_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises((ConfigError, UserError), match=message) as raised:
        load_prompts(str(path))
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml: cannot be read \(No such file"):
        load_prompts(str(tmp_path / "none.yaml"))


def test_the_command_line_takes_names_files_and_single_texts(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = ["dataset.name=x", "checkpoint_name=y"]
    assert compose("generate", need).get("prompts") is None
    assert compose("generate", [*need, "prompts=mini"])["prompts"] == {"name": "mini"}
    monkeypatch.chdir(own.parent)
    named = compose("generate", [*need, "prompts=own.yaml"])["prompts"]
    assert named == {"name": str(own)}  # the same file for workers elsewhere
    later = compose("serve", ["prompts=full", "prompts=./own.yaml", '+prompts.mcqa_system="choose."'])["prompts"]
    assert later == {"name": str(own), "mcqa_system": "choose."}
    assert compose("ask", ["prompts=own.yaml", "prompts=mini"])["prompts"] == {"name": "mini"}
    assert compose("ask", ['+prompts.mcqa_system="choose."'])["prompts"] == {"mcqa_system": "choose."}
    assert compose("ask", ["prompts=mini", "prompts=null"])["prompts"] is None
    known = "alarm, audio_flamingo, full, letters, mini, mmar, mmau, mmsu"
    with pytest.raises(ConfigError, match=f"ask: prompts=ful is not known; there are {known}, or name a file.yaml"):
        compose("ask", ["prompts=ful"])


def test_a_checkpoint_is_asked_with_what_it_was_trained_with(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    mini, users = ({"prompts": prompt_record(load_prompts(name))} for name in ("mini", str(own)))
    assert set(mini["prompts"]) == {"name", "digest", "source"}
    travelled = json.loads(json.dumps(users))  # as alarm_config.json keeps it
    own.unlink()
    assert choose_prompts(None, [("a", mini)]) == load_prompts("mini")
    found = choose_prompts(None, [("b", travelled)])
    assert (found.mcqa_system, found.digest()) == ("pick.", users["prompts"]["digest"])
    assert choose_prompts({"name": "full"}, [("a", mini)]) == load_prompts("full")
    one = choose_prompts({"mcqa_system": "choose."}, [("a", mini)])
    assert (one.mcqa_system, one.generation_system) == ("choose.", load_prompts("mini").generation_system)
    assert not warnings(caplog)
    assert choose_prompts(None, [("a", mini), ("b", travelled)]) == load_prompts("mini")
    (line,) = warnings(caplog)
    assert "mini of a is used" in line and "b with own" in line


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *((name, {}) for name in load_presets()),
        ("full", {"generation_system": ""}),
        ("full", {"betraying_phrases": []}),
    ],
)
def test_a_record_gives_back_presets_and_empty_texts(name: str, overrides: dict[str, Any]) -> None:
    """A checkpoint that was trained with one of these could not be opened: "not shipped here", "missing"."""
    prompts = load_prompts(name, overrides)
    record = json.loads(json.dumps(prompt_record(prompts)))
    assert choose_prompts(None, [("a", {"prompts": record})]) == prompts
    if name == "mmau":
        record["texts"].pop("mcqa_system")  # as records were before
        assert choose_prompts(None, [("a", {"prompts": record})]) == prompts


def test_without_a_record_the_language_model_decides(tmp_path: Path) -> None:
    assert usual_set(MINI) == "mini" == choose_prompts(None, [("old", {})], MINI).name
    assert choose_prompts(None, [], MINI).name == "mini"
    assert choose_prompts(None, [("Blinorot/ALARM-CA", {})], "Qwen/Qwen3-4B-Thinking-2507").name == "full"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert usual_set(str(tmp_path)) == usual_set(None) == "full"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("mini", "its record of prompts is 'mini'"),
        ({"name": "their"}, "set 'their' is not shipped here"),
        ({"name": "their", "texts": {"mcqa_system": "x"}}, "generation_system: missing"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(record: Any, message: str) -> None:
    with pytest.raises((UserError, ConfigError), match=message) as raised:
        choose_prompts(None, [("c", {"prompts": record})])
    assert "'c'" in str(raised.value)
    assert choose_prompts({"name": "full"}, [("c", {"prompts": record})]).name == "full"


def test_a_shipped_set_that_has_changed_since_is_told(caplog: pytest.LogCaptureFixture) -> None:
    choose_prompts(None, [("c", {"prompts": {"name": "mini", "digest": "0" * 16, "source": "shipped"}})])
    assert "the set mini has changed since the training" in caplog.text


def test_the_prompts_of_a_run_are_read_from_its_record() -> None:
    new = origin_of_run({"prompts": {"name": "published", "digest": "d", "source": "published 67c6776"}})
    assert new.published and str(new) == "published d (published 67c6776)"
    old = origin_of_run({"config": {"prompts": {"name": "full"}}, "settings": {"prompts": "6e25"}})
    assert not old.published and str(old) == "full 6e25 (shipped)"
    assert str(origin_of_run({})) == "unknown set (not recorded)"
