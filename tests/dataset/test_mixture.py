"""Mixtures keep list order and a cap; their configuration is checked whole."""

from __future__ import annotations

import numpy as np
import pytest

from src.common.config import bind_dataclass, compose
from src.common.errors import ConfigError
from src.dataset.mixture import MixtureConfig, TrainDatasetConfig, open_mixture
from tests.support.tiny_corpus import RESPONSES, make_rows, save_raw, save_responses

PLAIN = "mini_llm_512"


@pytest.fixture()
def corpus() -> list[dict]:
    rows = make_rows(6)
    save_raw(rows)
    save_responses(rows)
    save_responses([row | {"llm_answer_with_context": "plain"} for row in rows], PLAIN)
    return rows


def test_rows_follow_list_order(corpus: list[dict]) -> None:
    config = MixtureConfig([[RESPONSES, "WithContext", 0.5, False], [PLAIN, "WithContext", 1.0, False]])
    mixture = open_mixture(config)
    assert [mixture[index].key for index in range(len(mixture))] == [f"mini/{key}" for key in (0, 1, 2, *range(6))]
    assert [mixture[index].target == "plain" for index in range(9)] == [False] * 3 + [True] * 6
    assert mixture.lengths().shape == (9,)
    with pytest.raises(IndexError):
        mixture[9]


def test_limit_caps_the_whole(corpus: list[dict]) -> None:
    config = MixtureConfig([[RESPONSES, "WithContext", 1.0, False], [PLAIN, "WithContext", 1.0, False]], limit=8)
    mixture = open_mixture(config)
    assert len(mixture) == 8 and mixture.lengths().shape == (8,)
    assert len(open_mixture(MixtureConfig([[RESPONSES, "WithContext", 1.0, False]], limit=99))) == 6


def test_first_rows_of_a_mode(corpus: list[dict]) -> None:
    rows = [
        [RESPONSES, "WithContext", 0.5, False],
        [PLAIN, "NoContext", 1.0, False],
        [PLAIN, "WithContext", 1.0, False],
    ]
    mixture = open_mixture(MixtureConfig(rows))
    assert mixture.first_rows("NoContext", 4) == [3, 4, 5, 6]
    assert mixture.first_rows("WithContext", 5) == [0, 1, 2, 9, 10]
    assert open_mixture(MixtureConfig(rows, limit=10)).first_rows("WithContext", 99) == [0, 1, 2, 9]
    assert open_mixture(MixtureConfig(rows, limit=2)).first_rows("NoContext", 9) == []


def test_configuration_errors_come_together() -> None:
    config = {
        "name": "x",
        "train": {"rows": [["a_llm_1", "WithContent", 1.0, False]], "splt": "train"},
        "eval": {"dev": {"rows": [["a_llm_1", "WithContext", 1.0]]}},
    }
    with pytest.raises(ConfigError, match=r"train\.splt: unknown key; did you mean 'split'.*") as caught:
        bind_dataclass(TrainDatasetConfig, config, "dataset")
    assert "rows[0]" in str(caught.value) or "splt" in str(caught.value)
    with pytest.raises(ConfigError, match=r"rows\[0\]"):
        bind_dataclass(MixtureConfig, {"rows": [["a_llm_1", "WithContent", 1.0, False]]}, "dataset.train")


def test_groups_name_evaluation_sets() -> None:
    train = MixtureConfig([["a_llm_1", "WithContext", 1.0, False]])
    with pytest.raises(ValueError, match="group 'speech' names cameo"):
        TrainDatasetConfig("x", train, {}, {"speech": ["cameo"]})


@pytest.mark.parametrize("name", ["mini", "mini_no_rephrase"])
def test_shipped_configurations_bind(name: str) -> None:
    composed = compose("train", ["model=mini_whisper", f"dataset={name}", "training_args.output_dir=x"])
    config = bind_dataclass(TrainDatasetConfig, composed["dataset"], "dataset")
    assert config.train.split == "train" and config.eval["mini"].split == "validation"
    assert config.train.rows == config.eval["mini"].rows
    assert ("rephrased" in config.train.rows[0][0]) == (name == "mini")


def test_lengths_are_float32(corpus: list[dict]) -> None:
    assert open_mixture(MixtureConfig([[RESPONSES, "WithContext", 1.0, False]])).lengths().dtype == np.float32
