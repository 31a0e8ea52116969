"""Data configurations in the published form give the mixtures of ours; what cannot be read is one line."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from src.common.config import compose
from src.common.errors import ConfigError
from src.common.paths import REPO_ROOT
from src.dataset.corpus_names import expand_mixture
from src.dataset.published import from_published, is_published
from src.training.config import bind_train_config

FACTS = json.loads((REPO_ROOT / "tests" / "reference" / "training_mixtures.json").read_text())


def published_set(rows: list[Any], split: str, name: str) -> dict[str, Any]:
    return {
        "_target_": "src.dataset.HFDataset",
        "dataset_names": rows,
        "split": split,
        "limit": None,
        "return_audio": True,
        "name": name,
    }


def published(name: str) -> dict[str, Any]:
    """The data YAML of the published system, from the recorded facts."""
    facts = FACTS["configs"][name]
    template, fractions = FACTS["templates"][facts["template"]], facts.get("fractions", {})

    def row(corpus: str) -> list[Any]:
        return [template.format(corpus), "WithContext", fractions.get(corpus, 1.0), False]

    def corpora(chosen: Any) -> list[str]:
        return FACTS["all"] if chosen == "all" else chosen

    rows = [FACTS["rows"][key] for key in facts["instruction"]] + [row(corpus) for corpus in corpora(facts["train"])]
    result = {
        "groups": FACTS["groups_full"] if facts["groups"] == "full" else facts["groups"],
        "train": published_set(rows, "train", facts["name"]),
    }
    if facts["heysquad_human"]:
        result["heysquad_human"] = published_set(
            [FACTS["rows"]["HW"], FACTS["rows"]["HN"]], "validation", "heysquad_human"
        )
    return result | {corpus: published_set([row(corpus)], "validation", corpus) for corpus in corpora(facts["eval"])}


def bound(dataset: dict[str, Any]) -> Any:
    config = compose("train", ["model=mini_whisper", "dataset=mini", "training_args=mini"])
    return bind_train_config({**config, "dataset": dataset}).dataset


@pytest.mark.parametrize("name", sorted(FACTS["configs"]))
def test_the_published_form_is_our_mixture(name: str) -> None:
    assert is_published(published(name))
    read = bound(published(name))
    config = compose("train", ["model=mini_whisper", f"dataset={name}", "training_args=mini"])
    ours = bind_train_config(config).dataset
    assert (read.name, read.train, read.eval) == (ours.name, ours.train, ours.eval)
    added = FACTS["added_groups"].get(name, {})  # a group that the published configuration leaves out
    assert {**read.groups, **added} == ours.groups


def test_shares_and_groups_as_published() -> None:
    content = published("music_4b")
    content["train"]["dataset_names"] += [["cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512", "NoContext", 0, True]]
    content["train"]["dataset_names"][0] = [*content["train"]["dataset_names"][0][:2], 1]
    content["groups"]["speech"] = ["cameo"]
    content["nsynth"] |= {"limit": 7, "return_audio": False}
    read = bound(content)
    assert [row[2:] for row in read.train.rows] == [[1.0, False], [1.0, False]]
    assert read.groups["speech"] == []
    assert (read.eval["nsynth"].limit, read.eval["nsynth"].return_audio) == (7, False)
    assert bound({**content, "groups": None}).groups == {}


@pytest.mark.parametrize("dataset", ["music_4b", "mini"])
def test_published_options_of_sets_over_our_configurations(dataset: str) -> None:
    evaluated = "nsynth" if dataset == "music_4b" else "mini"
    config = compose(
        "train",
        ["model=mini_whisper", f"dataset={dataset}", "dataset.train.limit=100", f"dataset.{evaluated}.limit=5"],
    )
    read = bind_train_config(config).dataset
    assert (read.train.limit, read.eval[evaluated].limit) == (100, 5)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train._target_", "src.dataset.OtherDataset", "train._target_: got 'src.dataset.OtherDataset'"),
        ("train.dataset_names", [["a_b_1", "WithContext"]], "dataset_names[0]: got"),
        ("train.splt", "train", "train.splt: unknown; did you mean 'split'?"),
        ("nsynth.data_dir", "other", "set alternative_data_dir instead"),
        ("extra", 3, "dataset.extra: got 3"),
    ],
)
def test_what_cannot_be_read_is_one_line(path: str, value: Any, message: str) -> None:
    content = copy.deepcopy(published("music_4b"))
    at: Any = content
    *parents, last = path.split(".")
    for key in parents:
        at = at[key]
    at[last] = value
    with pytest.raises(ConfigError) as caught:
        from_published(content)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_set_that_there_is_not_is_named() -> None:
    config = compose("train", ["model=mini_whisper", "dataset=music_4b", "dataset.nsinth.limit=5"])
    with pytest.raises(ConfigError, match=r"dataset\.nsinth: unknown; did you mean 'nsynth'"):
        expand_mixture(config["dataset"])
