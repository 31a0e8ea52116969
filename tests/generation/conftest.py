"""A tiny language model, a checkpoint for it, and data sets below a data root of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.common.paths import raw_dir
from src.model.audio_embedder import build_feature_extractor
from src.model.checkpoints import LoadedEmbedder, save_checkpoint
from tests.support.tiny_corpus import make_rows
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random language model of width 192."""
    return save_tiny_llm(tmp_path_factory.mktemp("generation") / "tiny-llm")


@pytest.fixture(scope="session")
def loaded(llm: Path) -> LoadedEmbedder:
    """An audio embedder with random weights, saved as a checkpoint."""
    config = model_config("mini_whisper", f"model.llm={llm}")
    audio_embedder = mini_audio_embedder("mini_whisper").requires_grad_(False)
    folder = save_checkpoint(llm.parent / "checkpoint", audio_embedder, config)
    return LoadedEmbedder(audio_embedder, build_feature_extractor(config.config), config, str(folder))


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def save_set(name: str, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """Save rows as a raw set with audio bytes as they are."""
    from datasets import Audio, Dataset, DatasetDict, Features

    made = {}
    for split, rows in splits.items():
        data = Dataset.from_list(rows)
        made[split] = data.cast(Features({**data.features, "audio": Audio(decode=False)})).cast_column(
            "audio", Audio()
        )
    DatasetDict(made).save_to_disk(str(raw_dir(name)))
    return raw_dir(name)


def free_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a free-question set."""
    keep = ("audio", "audio_description", "unique_id_1", "unique_id_2", "dataset_index", "prompt")
    return [{name: row[name] for name in keep} for row in make_rows(count, seed)]


def choice_rows(count: int) -> list[dict[str, Any]]:
    """Rows of a multiple-choice set; the right option of row i is i mod 3."""
    rows = []
    for row in free_rows(count):
        index = row["dataset_index"]
        rows.append(
            {
                "question": f"which number is {index}?",
                "choices": ["red", "green", "blue"],
                "answer": ["red", "green", "blue"][index % 3],
                **{name: row[name] for name in ("audio", "audio_description", "dataset_index")},
            }
        )
    return rows
