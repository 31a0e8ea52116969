"""Publishing: the card says what made a checkpoint, and the Hub gets exactly what was laid out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from src.common.errors import UserError
from src.common.run_record import record_start
from src.model.card import read_scores, stage_upload, upload
from src.model.checkpoints import CONFIG_FILE, Checkpoint, open_checkpoint, save_checkpoint
from src.model.tensor_files import INDEX_FILE, WEIGHTS_FILE
from tests.support.tiny_models import mini_audio_embedder, model_config

ROWS = [
    {"system": "ALARM-CA", "metric": "choice_accuracy/known", "value": 0.9083, "low": 0.865, "high": 0.939, "n": 240},
    {"system": "ALARM-CA", "metric": "choice_accuracy/known/first", "value": 1.0, "low": 0.9, "high": 1.0, "n": 40},
    {"system": "chance", "metric": "choice_accuracy/known", "value": 0.3056, "low": None, "high": None, "n": None},
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = save_checkpoint(tmp_path / "run", mini_audio_embedder("mini_whisper"), model_config("mini_whisper"))
    run = {
        "config": {
            "dataset": {"name": "mini", "train": {"rows": [["mini_rephrased_512", "WithContext", 1.0, False]]}},
            "training_args": {
                "learning_rate": 0.02,
                "bf16": False,
                "output_dir": "saved/x",
                "logging_dir": "/home/x/log",
            },
        },
        "seed": 42,
        "counts": {"clips": 4000},
        "git": {"commit": "abc123"},
        "versions": {"torch": "2.13.0"},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return open_checkpoint(folder)


def test_the_card_says_what_made_the_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"rows": ROWS}))
    scores = read_scores(tmp_path / "results.json", "ALARM-CA")
    folder = stage_upload(checkpoint, tmp_path / "out", "me/my-model", "apache-2.0", scores)
    files = ["README.md", CONFIG_FILE, "config.json", WEIGHTS_FILE, "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.base_model is None, "folders are no repositories"
    assert "assets/mini/llm" in card.text
    for text in (
        "# my-model",
        "mini_rephrased_512",
        "abc123",
        "0.908",
        "0.865 to 0.939",
        "downsampler",
        "| seed | 42 |",
    ):
        assert text in card.text, text
    assert "choice_accuracy/known/first" not in card.text and "chance" not in card.text
    assert "saved/x" not in card.text, "paths of the author's machine are nobody's business"
    arguments = json.loads((folder / "run.json").read_text())["config"]["training_args"]
    assert (arguments["logging_dir"], arguments["output_dir"]) == ("log", "saved/x")


def test_a_checkpoint_of_a_run_that_did_not_end(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert checkpoint.folder is not None
    record = json.loads((checkpoint.folder / "run.json").read_text())
    shutil.copytree(checkpoint.folder, tmp_path / "killed" / "checkpoint-40")
    (tmp_path / "killed" / "checkpoint-40" / "run.json").unlink()
    record_start(tmp_path / "killed", record["config"], resumed=False, seed=7, resumed_from="/home/x/checkpoint-20")
    stopped = open_checkpoint(tmp_path / "killed" / "checkpoint-40")
    folder = stage_upload(stopped, tmp_path / "out", "me/my-model", "mit")
    text = ModelCard.load(folder / "README.md").text
    assert "mini_rephrased_512" in text and "| seed | 7 |" in text
    published = json.loads((folder / "run.json").read_text())
    assert published["resumed_from"] == "checkpoint-20" and published["git"]["commit"]


def test_the_whole_model_can_be_published(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = stage_upload(checkpoint, tmp_path / "out", "me/whole", "mit", whole=True)
    assert (folder / INDEX_FILE).is_file() and (folder / "config.json").is_file()
    assert open_checkpoint(folder).digest() == checkpoint.digest()


def test_what_is_sent(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, object] = {}

    def create(self: object, repo: str, repo_type: str, private: bool, exist_ok: bool) -> None:
        sent.update(repo=repo, private=private, exist_ok=exist_ok)

    def send(self: object, repo_id: str, folder_path: str, repo_type: str, commit_message: str) -> object:
        sent["files"] = sorted(path.name for path in Path(folder_path).iterdir())
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", send)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: SimpleNamespace(private=True))
    assert upload(checkpoint, "me/my-model", "mit").commit_url == "https://hub/me/my-model"
    assert sent["private"] is True and WEIGHTS_FILE in sent["files"]  # type: ignore[operator]

    def refuse(self: object, *args: object, **options: object) -> None:
        raise OSError("401 unauthorised")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match="did not take the upload .401 unauthorised"):
        upload(checkpoint, "me/my-model", "mit")


def test_bad_score_files(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"rows": ROWS}))
    with pytest.raises(UserError, match="has no system 'ALARM-X'; known: ALARM-CA, chance"):
        read_scores(file, "ALARM-X")
    file.write_text('{"rows": [{"name": 1}]}')
    with pytest.raises(UserError, match="not a table of results"):
        read_scores(file)
    with pytest.raises(UserError, match="not a table of results"):
        read_scores(tmp_path / "none.json")
