"""``src.dataset.HFDataset`` as the published system's users construct it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.common.errors import ConfigError
from src.dataset import HFDataset
from src.dataset.mixture import MixtureConfig, open_mixture
from src.model.audio_embedder import build_feature_extractor
from src.model.llm import load_tokenizer
from src.model.wrapped_llms.qwen3 import ClipFeatures
from src.prompts.chat import split_turn
from tests.support.tiny_corpus import RESPONSES, make_rows, save_raw, save_responses
from tests.support.tiny_models import model_config

ROWS = [[RESPONSES, "WithContext", 1.0, False]]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    rows = make_rows(6)
    save_raw(rows)
    save_responses(rows)


def test_rows_of_a_training_set(corpus: None) -> None:
    tokenizer = load_tokenizer("assets/mini/llm")
    features = ClipFeatures(build_feature_extractor(model_config("mini_w2vbert").config))
    data = HFDataset(ROWS, "train", tokenizer, features, limit=4, name="mini")
    ours = open_mixture(MixtureConfig(ROWS))
    assert len(data) == 4 and data.name == "mini"
    for index in range(len(data)):
        row, own = data[index], ours[index]
        assert (row["inputs_start"], row["inputs_main"]) == split_turn(tokenizer, own.context)
        assert row["outputs"] == row["llm_answer"] == own.target
        assert (row["context"], row["audio_description"]) == (own.context, own.audio_description)
        assert row["audio"]["w2vbert"].shape[0] == row["audio_attention"]["w2vbert"].shape[0]
        assert row["audio_attention"]["w2vbert"].dtype == torch.int64
        assert row["audio_lengths"]["w2vbert"] == row["audio_attention"]["w2vbert"].sum()


def test_text_alone_and_tags(corpus: None) -> None:
    tokenizer = load_tokenizer("assets/mini/llm")
    data = HFDataset(ROWS, "train", tokenizer, None, return_audio=False)
    row = data[0]
    assert "audio" not in row and row["context"].endswith("\n" + row["audio_description"])
    tagged = HFDataset(ROWS, "train", tokenizer, None, use_explicit_audio_tokens=True)[0]
    assert tagged["inputs_start"].endswith("<start_audio>") and tagged["inputs_main"].startswith("<end_audio>")
    assert hasattr(tagged["audio"], "get_all_samples")


def test_rows_of_another_form_are_one_line(corpus: None) -> None:
    with pytest.raises(ConfigError, match=r"dataset_names\[0\]: got"):
        HFDataset([["x"]], "train", None, None)  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="WithContext or NoContext"):
        HFDataset([[RESPONSES, "Both", 1.0, False]], "train", None, None)
