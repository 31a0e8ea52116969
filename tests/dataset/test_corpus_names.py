"""Mixtures over the corpus table expand to the published configurations, two repairs aside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.common.paths import REPO_ROOT
from src.dataset.corpus_names import expand_mixture
from src.dataset.mixture import present_only
from src.training.config import TrainConfig, bind_train_config
from tests.support.tiny_corpus import make_rows, save_raw, save_responses

FACTS = json.loads((REPO_ROOT / "tests" / "reference" / "training_mixtures.json").read_text())


def composed(*overrides: str) -> dict[str, Any]:
    """A whole training configuration."""
    return compose("train", ["model=mini_whisper", "training_args.output_dir=x", *overrides])


def bound(*overrides: str) -> TrainConfig:
    """The same, checked."""
    return bind_train_config(composed(*overrides))


def published(name: str) -> dict[str, Any]:
    """The configuration as the published system spells it out."""
    facts = FACTS["configs"][name]
    template, fractions = FACTS["templates"][facts["template"]], facts.get("fractions", {})

    def row(corpus: str) -> list[Any]:
        return [template.format(corpus), "WithContext", fractions.get(corpus, 1.0), False]

    def corpora(chosen: Any) -> list[str]:
        return FACTS["all"] if chosen == "all" else chosen

    groups = FACTS["groups_full"] if facts["groups"] == "full" else facts["groups"]
    repaired = {
        group: [FACTS["repaired_groups"].get(name, name) for name in names] for group, names in groups.items()
    }
    evaluation = {"heysquad_human": [FACTS["rows"]["HW"], FACTS["rows"]["HN"]]} if facts["heysquad_human"] else {}
    return {
        "name": facts["name"],
        "train": [FACTS["rows"][key] for key in facts["instruction"]]
        + [row(name) for name in corpora(facts["train"])],
        "eval": evaluation | {name: [row(name)] for name in corpora(facts["eval"])},
        "groups": repaired | FACTS["added_groups"].get(name, {}),
    }


@pytest.mark.parametrize("name", sorted(FACTS["configs"]))
def test_mixtures_equal_the_published_ones(name: str) -> None:
    dataset, expected = bound(f"dataset={name}").dataset, published(name)
    assert dataset.name == expected["name"]
    assert dataset.train.rows == expected["train"] and dataset.train.split == "train"
    assert list(dataset.eval) == list(expected["eval"])
    for key, rows in expected["eval"].items():
        assert dataset.eval[key].rows == rows and dataset.eval[key].split == "validation"
    assert dataset.groups == expected["groups"]
    assert all(mixture.limit is None and mixture.return_audio for mixture in (dataset.train, *dataset.eval.values()))


def test_options_of_a_mixture() -> None:
    dataset = bound(
        "dataset=music_4b", "dataset.llm=Other-1B", "dataset.max_thinking_tokens=-1", "dataset.max_tokens=64",
        "dataset.corpora=[event,gtzan]", "dataset.eval_corpora=[clotho]", "dataset.fractions={clotho:0.5}",
        "dataset.limit=7", "dataset.return_audio=false",
    ).dataset  # fmt: skip
    assert [row[0] for row in dataset.train.rows] == [
        f"{name}_rephrased_Other-1B_64" for name in ("audiocaps", "clotho", "gtzan")
    ]
    assert dataset.train.rows[1][2] == dataset.eval["clotho"].rows[0][2] == 0.5
    assert dataset.train.limit == 7 and dataset.eval["clotho"].limit is None
    assert not dataset.train.return_audio and dataset.groups == {"event": ["clotho"]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset.corpora=[musik,clotho]", "dataset=music_4b"],
            r"dataset.corpora: unknown 'musik'; did you mean 'music'",
        ),
        (["dataset.corpora=[event,clotho]", "dataset=music_4b"], "clotho is named twice"),
        (["dataset.fractions={gtzan:0.5}", "dataset=music_4b"], "dataset.fractions: unknown 'gtzan'"),
        (["dataset.fractions={nsynth:1.5}", "dataset=music_4b"], r"rows\[0\].*fraction"),
        (["dataset.instruction=[heysquad]", "dataset=music_4b"], "did you mean 'heysquad_human'"),
        (["dataset.llm=my_llm", "dataset=music_4b"], "holds an underscore"),
        (["+dataset.copora=[]", "dataset=music_4b"], "did you mean 'corpora'"),
    ],
)
def test_wrong_names_are_told(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound(*overrides)


def test_rows_written_out_stay_as_they_are() -> None:
    raw = composed("dataset=mini")["dataset"]
    assert expand_mixture(raw) == raw


def test_missing_sets_are_named_together_or_left_out() -> None:
    rows = make_rows(4)
    for name in ("nsynth", "gtzan"):
        save_raw(rows, name)
    save_responses(rows, "nsynth_rephrased_1536_Qwen3-4B-Thinking-2507_512")
    everything = bound("dataset=music_4b", "dataset.corpora=[nsynth,gtzan,sonicmaster]").dataset
    with pytest.raises(
        UserError, match=r"2 of 3 response sets lack folders: gtzan_.*; sonicmaster_.*skip_missing=true"
    ):
        present_only(everything)
    lenient = bound("dataset=music_4b", "dataset.corpora=[nsynth,gtzan,sonicmaster]", "dataset.skip_missing=true")
    kept, left_out = present_only(lenient.dataset)
    assert [row[0].split("_")[0] for row in kept.train.rows] == ["nsynth"] and list(kept.eval) == ["nsynth"]
    assert kept.groups == {"music": ["nsynth"]} and [name.split("_")[0] for name in left_out] == [
        "gtzan",
        "sonicmaster",
    ]
    with pytest.raises(UserError, match="none of its response sets"):
        present_only(bound("dataset=audio_4b", "dataset.skip_missing=true").dataset)
