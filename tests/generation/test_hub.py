"""Uploads to the Hub: their files, their visibility, and refusals of the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, constants

from src.common.config import compose
from src.common.errors import UserError
from src.generation.run import generate
from src.generation.task_types import FREE
from tests.generation.conftest import free_rows, save_set
from tests.generation.test_run import World
from tests.support.hub_imitation import Imitation, hub_imitation


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imitation]:
    with hub_imitation() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running


@pytest.fixture
def world(loaded: object, llm: Path, data_root: Path) -> World:
    rows = free_rows(4)
    rows[1]["audio"] = {"bytes": b"", "path": "empty.wav"}
    save_set("sounds", {"known": rows, "unseen": free_rows(2, seed=1)})
    return World(loaded, llm)  # type: ignore[arg-type]


def stored(hub: Imitation, repo: str, folder: Path) -> Path:
    """The repository's files on disk."""
    for name, content in hub.files[repo].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("audio", [False, True])
def test_answers_are_sent_private_with_their_record(
    world: World, hub: Imitation, tmp_path: Path, audio: bool
) -> None:
    world.run("sounds", "push_to_hub=true", "hf_repo_name=my-answers", f"save_audio={str(audio).lower()}", "seed=1")
    assert hub.private == {"me/my-answers": True}
    files = ["README.md", "data/known-00000-of-00001.parquet", "data/unseen-00000-of-00001.parquet", "run.json"]
    assert sorted(hub.files["me/my-answers"]) == files
    folder = stored(hub, "me/my-answers", tmp_path / "sent")
    card = DatasetCard.load(folder / "README.md")
    assert [file["split"] for file in card.data.configs[0]["data_files"]] == ["known", "unseen"]
    for text in ("| data set | sounds |", "| seed | 1 |", "empty_audio 1, ok 3", "tiny-llm"):
        assert text in card.text, text
    sent_record = (folder / "run.json").read_text()
    for text in (card.text, sent_record):
        assert str(world.llm.parent) not in text
    known = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["known"]
    assert known["status"] == ["ok", "empty_audio", "ok", "ok"]
    assert ("audio" in known.column_names) == audio
    if audio:
        from datasets import Audio

        assert (
            known.cast_column("audio", Audio(decode=False))[0]["audio"]["bytes"] == free_rows(1)[0]["audio"]["bytes"]
        )


def test_owner_and_visibility_as_asked(world: World, hub: Imitation) -> None:
    world.run("sounds", "push_to_hub=true", "hf_username=lab", "hf_repo_name=x", "hf_public=true")
    assert hub.private == {"lab/x": False}
    with pytest.raises(UserError, match="lab/x: is public on the Hub"):
        world.run("sounds", "push_to_hub=true", "hf_repo_name=lab/x")
    world.run("sounds", "push_to_hub=true", "run_tag=again")
    (name,) = set(hub.private) - {"lab/x"}
    assert name.startswith("me/sounds_") and name.endswith("_again") and hub.private[name]


def test_a_refusal_loses_nothing(world: World, hub: Imitation) -> None:
    hub.refuse_commits = True
    with pytest.raises(UserError, match="did not take the answers .*same command sends them again"):
        world.run("sounds", "push_to_hub=true", "hf_repo_name=x")
    asked = len(world.prompts)
    hub.refuse_commits = False
    world.run("sounds", "push_to_hub=true", "hf_repo_name=x")
    assert len(world.prompts) == asked and "run.json" in hub.files["me/x"]


def test_an_unknown_owner_is_told_before_the_work(world: World, hub: Imitation) -> None:
    hub.user = None
    with pytest.raises(UserError, match="hf auth login"):
        world.run("sounds", "push_to_hub=true")
    assert not world.prompts


def test_nothing_is_sent_unasked(world: World, hub: Imitation) -> None:
    assert generate(
        compose("generate", ["dataset.name=sounds", "prompts=mini", f"checkpoint_name={world.loaded.name}"]),
        FREE,
        world.start,
    ) == 0  # fmt: skip
    assert not hub.private


def test_answers_of_another_program_are_sent_without_a_record(world: World, hub: Imitation) -> None:
    folder = world.run("sounds")
    for name in ("run.json", ".shards"):
        (folder / name).rename(folder.parent / name)
    asked = len(world.prompts)
    world.run("sounds", "push_to_hub=true", "hf_repo_name=x")
    assert len(world.prompts) == asked and "run.json" not in hub.files["me/x"] and "README.md" in hub.files["me/x"]
