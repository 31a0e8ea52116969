"""Configuration at the boundary: every mistake named, all at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from src.common.config import CONFIG_DIR, bind_dataclass, compose
from src.common.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    parts: dict[str, Inner] = field(default_factory=dict)
    one_or_many: str | list[str] | None = None
    layers: tuple[int, ...] = ()


def test_nested_mappings_become_dataclasses() -> None:
    bound = bind_dataclass(
        Outer,
        {"name": "x", "inner": {"size": 3, "rate": 1}, "parts": {"p": {"size": 1}}, "layers": [1, 2]},
        "model",
    )
    assert bound == Outer("x", Inner(3, 1.0), {"p": Inner(1)}, None, (1, 2))
    assert bind_dataclass(Outer, {"name": "x", "inner": {"size": 1}, "one_or_many": ["a"]}, "m").one_or_many == ["a"]


def test_all_mistakes_are_named_in_one_error() -> None:
    wrong: dict[str, Any] = {"nam": "x", "inner": {"size": "3", "kind": "c"}, "parts": {"p": {}}}
    with pytest.raises(ConfigError) as caught:
        bind_dataclass(Outer, wrong, "model")
    message = str(caught.value)
    for part in (
        "model.nam: unknown key; did you mean 'name'?",
        "model.name: missing",
        "model.inner.size: got '3' (str), expected int",
        "model.inner.kind: got 'c'; known: a, b",
        "model.parts.p.size: missing",
    ):
        assert part in message


@pytest.mark.parametrize("value", [True, "1", 1.5, None])
def test_a_whole_number_is_not_guessed(value: Any) -> None:
    with pytest.raises(ConfigError, match="inner.size"):
        bind_dataclass(Outer, {"name": "x", "inner": {"size": value}}, "model")


@dataclass
class NumberOrWord:
    positions: int | Literal["auto"] | None = None


def test_a_number_or_a_word_is_named_as_both() -> None:
    assert bind_dataclass(NumberOrWord, {"positions": "auto"}, "config") == NumberOrWord("auto")
    with pytest.raises(ConfigError, match=r"^config.positions: got 'lots' \(str\), expected int or auto$"):
        bind_dataclass(NumberOrWord, {"positions": "lots"}, "config")


@pytest.mark.parametrize("override", ["lora.rang=3", "no_such_key=1", "model=mini_wisper"])
def test_a_misspelt_key_or_group_is_one_line(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", ["model=mini_whisper", "dataset=mini", "training_args=mini", override])
    assert "\n" not in str(caught.value)
    name = override.split("=")[1 if override.startswith("model") else 0].split(".")[-1]
    assert name in str(caught.value)


TRAIN = ["model=whisper_batch", "dataset=mini", "training_args=mini"]


def test_another_llm_on_the_command_line_brings_its_own_width(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        model = compose("train", [*TRAIN, "model.llm=some/llm", "model.llm_revision=abc"])["model"]
    assert (model["llm"], model["llm_embedding_dim"], model["llm_revision"]) == ("some/llm", None, "abc")
    assert caplog.messages == [
        "model.llm is given: what that model says itself replaces model.llm_embedding_dim=2560"
    ]
    typed = compose("train", [*TRAIN, "model.llm=some/llm", "model.llm_embedding_dim=64"])["model"]
    assert typed["llm_embedding_dim"] == 64  # compared with the model when it is known
    assert compose("train", TRAIN)["model"]["llm_embedding_dim"] == 2560
    assert compose("ask", ["model.llm=some/llm"])["model"]["llm_embedding_dim"] is None


def test_configs_are_where_the_programs_look() -> None:
    assert (CONFIG_DIR / "train.yaml").is_file()
