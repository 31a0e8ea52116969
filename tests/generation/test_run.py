"""Runs over data sets: what is saved, bad rows, control runs, and continuing after an interruption."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.generation.input_dataset import Table, mismatched_rows
from src.generation.job import Job
from src.generation.run import generate
from src.generation.task_types import FREE, MULTIPLE_CHOICE, ChoiceTask, Task
from src.generation.worker import Models
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.inference.scheduler import StepOutput
from src.model.checkpoints import LoadedEmbedder
from tests.generation.conftest import choice_rows, free_rows, save_set
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer


class World:
    """A scripted run: starts it and remembers the prompts."""

    def __init__(self, loaded: LoadedEmbedder, llm: Path) -> None:
        self.loaded, self.llm = loaded, llm
        self.script: Callable[[str], str] = lambda prompt: "i hear it.\n</think>\n\na kick."
        self.prompts: list[str] = []
        self.kill_after: int | None = None

    def start(self, job: Job) -> Models:
        """Fake engine, real audio embedder."""

        def script(prompt: str) -> str:
            self.prompts.append(prompt)
            return self.script(prompt)

        backend = _MortalBackend(script, self.kill_after, width=192)
        return Models(
            Engine(backend, CharTokenizer(), 4, 2), EmbedderEnsemble([self.loaded]) if job.config.uses_audio else None
        )

    def run(self, name: str, *overrides: str, task: Task = FREE, code: int = 0, fold: str = "") -> Path:
        """Run and return the output folder."""
        checkpoint = [f"checkpoint_name={self.loaded.name}"]
        given = [f"dataset.name={name}", "prompts=mini", "batch_size=3", *checkpoint, *overrides]
        assert generate(compose("generate", given), task, self.start) == code
        return self.folder(fold or name)

    def folder(self, name: str) -> Path:
        """The newest output folder of a set."""
        from src.common.paths import data_root

        folders = (data_root() / "generated" / "tiny-llm").glob(f"{name}_*")
        return max(folders, key=lambda path: path.stat().st_mtime_ns)


class _MortalBackend(ScriptedBackend):
    def __init__(self, script: Callable[[str], str], steps: int | None, width: int) -> None:
        super().__init__(script, width=width)
        self.left = steps

    def step(self) -> list[StepOutput]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().step()


@pytest.fixture
def world(loaded: LoadedEmbedder, llm: Path, data_root: Path) -> World:
    return World(loaded, llm)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return list(load_from_disk(str(folder))[split])


def test_free_run_saves_published_and_further_columns(world: World) -> None:
    save_set("sounds", {"known": free_rows(5), "unseen": list(reversed(free_rows(3, seed=1)))})
    folder = world.run("sounds", "save_audio=true", "seed=0")
    assert folder.name.startswith("sounds_") and folder.name.endswith("_seed_0_8192_1024")
    saved = load_from_disk(str(folder))
    assert list(saved) == ["known", "unseen"]
    published = ["dataset_index", "context", "audio_description", "llm_answer"]
    ours = ["answer_text", "thoughts", "response", "parse_status"]
    record = ["status", "finish_reason", "budget_hit", "num_tokens", "seconds", "error"]
    assert saved["known"].column_names == [*published, *ours, *record, "audio"]
    assert saved["unseen"]["dataset_index"] == [0, 1, 2]
    first = saved["known"].remove_columns("audio")[0]
    assert first["context"] == free_rows(5)[0]["prompt"]
    assert (first["answer_text"], first["thoughts"], first["parse_status"]) == ("a kick.", "i hear it.", "answered")
    assert first["llm_answer"] == first["response"] == "i hear it.\n</think>\n\na kick."
    run = json.loads((folder / "run.json").read_text())
    assert run["prompts"] == {"name": "mini", "digest": "b432dea62d4402f3", "source": "shipped"}
    assert run["settings"]["prompts"] == run["prompts"]["digest"]
    assert run["splits"]["known"] == {"rows": 5, "outcomes": {"ok": 5}, "statuses": {"answered": 5}}
    assert all(re.search(r"user\n\{\d+\}", prompt) for prompt in world.prompts)


def test_bad_rows_are_saved_with_their_reason(world: World) -> None:
    bad = free_rows(6)
    bad[1]["audio"] = {"bytes": b"not audio at all", "path": "broken.wav"}
    bad[2]["audio"] = None
    bad[3]["prompt"] = None
    bad[4]["audio"] = {"bytes": b"", "path": "empty.wav"}
    save_set("sounds", {"train": bad})
    saved = rows(world.run("sounds"), "train")
    assert [row["parse_status"] for row in saved] == ["answered", "error", "error", "error", "error", "answered"]
    assert "broken.wav" in saved[1]["error"] and "no audio" in saved[2]["error"] and "no text" in saved[3]["error"]
    assert saved[1]["llm_answer"] is None and saved[1]["finish_reason"] == "error"
    assert len(world.prompts) == 2
    statuses = ["ok", "unreadable_audio", "missing_audio", "missing_text", "empty_audio", "ok"]
    assert [row["status"] for row in saved] == statuses
    run = json.loads((world.folder("sounds") / "run.json").read_text())
    assert run["splits"]["train"]["outcomes"]["ok"] == 2 and len(run["splits"]["train"]["outcomes"]) == 5
    world.run("sounds", "strict=true", code=3)


def test_augmented_clips_are_seeded_recorded_and_stored_apart(world: World) -> None:
    save_set("sounds", {"train": free_rows(4)})
    plain = world.run("sounds", "seed=0")
    noisy = ("seed=0", "augment=noise", "augment.speed={factor:[0.5,0.5]}")
    folder = world.run("sounds", *noisy)
    assert folder != plain and "_augment_" in folder.name
    drawn = [json.loads(row["augmentation"]) for row in rows(folder, "train")]
    assert [[each["effect"] for each in draw] for draw in drawn] == [["speed", "noise"]] * 4
    assert all(draw[1]["snr"] == 10 for draw in drawn) and len({draw[1]["seed"] for draw in drawn}) == 4
    assert "augmentation" not in rows(plain, "train")[0]

    def frames(prompts: list[str]) -> list[int]:
        return sorted(int(found[1]) for prompt in prompts if (found := re.search(r"\{(\d+)\}", prompt)))

    for slow, usual in zip(frames(world.prompts[4:]), frames(world.prompts[:4]), strict=True):
        assert slow == pytest.approx(2 * usual, abs=2)  # half the speed: twice the audio
    again = world.run("sounds", *noisy, "batch_size=1", "overwrite=true")
    assert [json.loads(row["augmentation"]) for row in rows(again, "train")] == drawn
    with pytest.raises(ConfigError, match="augment changes clips"):
        world.run("sounds", *noisy, "audio_input=none", f"model.llm={world.llm}")


def test_multiple_choice_is_read_with_a_status(world: World) -> None:
    save_set("quiz", {"test": choice_rows(5)})
    replies = {"0": "<answer>0</answer>", "1": "<answer>-1</answer>", "2": "no idea", "3": "<answer>7</answer>"}

    def script(prompt: str) -> str:
        found = re.search(r"which number is (\d)", prompt)
        assert found and "(Option_1) green" in prompt and "number of the right option" in prompt
        return "hm.\n</think>\n\n" + replies.get(found[1], "<answer>1</answer>")

    world.script = script
    saved = rows(world.run("quiz", task=MULTIPLE_CHOICE), "test")
    assert [row["llm_answer"] for row in saved] == ["red", None, None, None, "green"]
    assert [row["parse_status"] for row in saved] == [
        "index",
        "negative_index",
        "not_a_number",
        "out_of_range",
        "index",
    ]
    assert saved[0]["choices"] == ["red", "green", "blue"] and saved[0]["thoughts"] == "hm."
    # the published reading of the same replies, without asking the model again
    asked = len(world.prompts)
    saved = rows(world.run("quiz", "answer_fallback=option_0", task=MULTIPLE_CHOICE), "test")
    assert [row["llm_answer"] for row in saved] == ["red", "blue", "red", "7", "green"]
    assert saved[1]["parse_status"] == "negative_index" and len(world.prompts) == asked


def test_interrupted_run_continues_where_it_was(world: World) -> None:
    save_set("sounds", {"train": free_rows(9)})
    world.script = lambda prompt: "x" * 20 + "</think>" + str(len(prompt))
    undisturbed = rows(world.run("sounds", "run_tag=whole"), "train")
    world.prompts.clear()
    world.kill_after = 45
    kills = 0
    while True:
        try:
            folder = world.run("sounds", "run_tag=killed")
            break
        except KeyboardInterrupt:
            kills += 1
            assert kills < 10
    assert kills >= 1
    again = rows(folder, "train")
    for one, other in zip(undisturbed, again, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    done_twice = len(world.prompts) - 9
    assert done_twice <= 4 * kills  # at most what was in flight
    # a finished run does nothing more
    world.kill_after = 0
    assert world.run("sounds", "run_tag=killed") == folder


def test_limit_can_grow_and_rows_are_not_asked_twice(world: World) -> None:
    save_set("sounds", {"train": free_rows(6)})
    assert len(rows(world.run("sounds", "dataset.limit=2"), "train")) == 2
    assert len(rows(world.run("sounds", "dataset.limit=5"), "train")) == 5
    assert len(world.prompts) == 5
    shuffled = rows(world.run("sounds", "dataset.limit=3", "dataset.shuffle=true", "seed=3"), "train")
    published = Dataset.from_dict({"dataset_index": range(6)}).shuffle(3).select(range(3)).sort("dataset_index")
    assert [row["dataset_index"] for row in shuffled] == published["dataset_index"] != [0, 1, 2]


def test_another_chat_template_does_not_mix(world: World, tmp_path: Path) -> None:
    save_set("sounds", {"train": free_rows(4)})
    copied = f"model.llm={shutil.copytree(world.llm, tmp_path / 'tiny-llm')}"
    world.kill_after = 1
    with pytest.raises(KeyboardInterrupt):
        world.run("sounds", copied)
    world.kill_after = None
    template = tmp_path / "tiny-llm" / "chat_template.jinja"
    before = template.read_text(encoding="utf-8")
    template.write_text(before + "{# another #}", encoding="utf-8")
    with pytest.raises(UserError, match=r"other settings \(chat_template\)"):
        world.run("sounds", copied)
    template.write_text(before, encoding="utf-8")
    world.run("sounds", copied)


def test_other_settings_do_not_mix(world: World) -> None:
    save_set("sounds", {"train": free_rows(2)})
    world.run("sounds")
    with pytest.raises(UserError, match=r"other settings \(greedy\)"):
        world.run("sounds", "greedy=true")
    world.run("sounds", "greedy=true", "overwrite=true")
    assert len(world.prompts) == 4


def test_control_runs_have_folders_of_their_own(world: World) -> None:
    save_set("sounds", {"train": free_rows(4)})
    folders = [world.run("sounds", f"audio_input={kind}") for kind in ("none", "description", "other")]
    assert [folder.name.rpartition("_")[2] for folder in folders] == ["none", "description", "other"]
    none, description, other = (world.prompts[start : start + 4] for start in (0, 4, 8))
    assert all("{" not in prompt and "<start_audio>" not in prompt for prompt in none)
    assert all("<start_audio>[00:00" in prompt for prompt in description)
    assert all("{" in prompt for prompt in other)


def test_text_controls_need_no_checkpoint(world: World) -> None:
    save_set("sounds", {"train": free_rows(2)})
    overrides = ["checkpoint_name=null", f"model.llm={world.llm}", "audio_input=description"]
    folder = world.run("sounds", *overrides)
    assert folder.name == "sounds_no_checkpoint_8192_1024_description"


def test_other_clip_is_a_seeded_derangement() -> None:
    class Data:
        column_names = ["audio_description"]

        def __init__(self, clips: list[str]) -> None:
            self.clips = clips

        def __len__(self) -> int:
            return len(self.clips)

        def __getitem__(self, name: str) -> list[str]:
            return self.clips

    clips = [f"clip {number // 2}" for number in range(20)]  # two questions a clip
    table = Table("test", Data(clips), tuple(range(20)))
    others = mismatched_rows(table, 1)
    assert all(clips[other] != clips[row] for row, other in enumerate(others))
    assert len(set(others)) >= 18
    assert others == mismatched_rows(table, 1) != mismatched_rows(table, 2)
    with pytest.raises(UserError, match="there is no other"):
        mismatched_rows(Table("test", Data(["a", "a"]), (0, 1)), 1)


def test_rows_keep_their_seed_whatever_is_run_with_them(world: World) -> None:
    from src.generation.config import DatasetConfig, RunConfig

    config = RunConfig(DatasetConfig("sounds"), checkpoint_name="x", seed=5)
    assert config.request_seed("train/3") == config.request_seed("train/3") != config.request_seed("train/4")
    assert RunConfig(DatasetConfig("sounds"), checkpoint_name="x").request_seed("train/3") is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.name=nowhere"], "dataset.name=nowhere"),
        (["dataset.split=test"], "has the splits train"),
        (["audio_input=both"], "audio_input: got 'both'; known: clip"),
        (["dataset.limit=-2"], "limit is -2"),
        (["options_seed=1"], "for multiple choice"),
        (["engine.max_model_len=long"], "max_model_len: got 'long'"),
        (["checkpoint_name=/nowhere"], "no such folder"),
    ],
)
def test_mistakes_end_in_one_message(world: World, overrides: list[str], message: str) -> None:
    save_set("sounds", {"train": free_rows(1)})
    with pytest.raises(UserError, match=message):
        world.run("sounds", *overrides)


def test_missing_columns_are_named(world: World) -> None:
    save_set("sounds", {"train": free_rows(1)})
    with pytest.raises(UserError, match="no column question, choices"):
        world.run("sounds", task=MULTIPLE_CHOICE)
    with pytest.raises(ConfigError, match="did you mean 'mcqa_system'"):
        world.run("sounds", "+prompts.mcqa_sistem=x")


def test_prompts_made_for_a_corpus_are_joined_by_key(world: World) -> None:
    from datasets import Dataset, DatasetDict

    from src.common.paths import prompts_dir

    made = free_rows(4)
    texts = {row["dataset_index"]: row.pop("prompt") for row in made}
    save_set("sounds", {"train": made})
    with pytest.raises(UserError, match="no text column"):
        world.run("sounds")
    order = [2, 0, 3, 1]
    table = Dataset.from_dict({"dataset_index": order, "prompt": [texts[index] for index in order]})
    DatasetDict({"train": table}).save_to_disk(str(prompts_dir("sounds")))
    saved = rows(world.run("sounds"), "train")
    assert [row["context"] for row in saved] == [texts[index] for index in range(4)]


def test_split_of_an_index_file(world: World) -> None:
    import numpy as np

    from src.common.paths import indexes_dir

    save_set("sounds", {"train": free_rows(5)})
    indexes_dir("sounds").mkdir(parents=True)
    np.save(indexes_dir("sounds") / "validation_indexes.npy", np.array([4, 1]))
    saved = rows(world.run("sounds", "dataset.split=validation"), "validation")
    assert [row["dataset_index"] for row in saved] == [1, 4]


def test_a_set_without_dataset_index_goes_by_position(world: World) -> None:
    import numpy as np

    from src.common.paths import indexes_dir

    made = [{name: row[name] for name in ("audio", "prompt")} for row in free_rows(5)]
    save_set("sounds", {"train": made})
    assert [row["dataset_index"] for row in rows(world.run("sounds"), "train")] == list(range(5))
    indexes_dir("sounds").mkdir(parents=True)
    np.save(indexes_dir("sounds") / "dev_indexes.npy", np.array([3, 1]))
    saved = rows(world.run("sounds", "dataset.split=dev", "run_tag=dev"), "dev")
    assert [row["context"] for row in saved] == [made[1]["prompt"], made[3]["prompt"]]
    np.save(indexes_dir("sounds") / "far_indexes.npy", np.array([3, 9]))
    with pytest.raises(UserError, match="rows up to 9, but sounds has 5 rows"):
        world.run("sounds", "dataset.split=far", "run_tag=far")


@pytest.mark.parametrize("column", ["content", "context", "prompt"])
def test_the_text_may_stand_in_any_of_three_columns(world: World, column: str) -> None:
    made = [{"audio": row["audio"], "question": "about it", column: row["prompt"]} for row in free_rows(2)]
    save_set("sounds", {"train": made})
    saved = rows(world.run("sounds"), "train")
    assert [row["context"] for row in saved] == [row["prompt"] for row in free_rows(2)]
    assert saved[0]["audio_description"] == "about it"


def test_a_data_set_of_the_hub(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    folder = save_set("sounds", {"validation": free_rows(3), "test": free_rows(2)})
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        return load_from_disk(str(folder))

    monkeypatch.setattr(datasets, "load_dataset", load)
    world.run(
        "someone/sounds", "dataset.split=validation", "dataset.limit=-1", "model=alarm_ca", fold="someone_sounds"
    )
    saved = load_from_disk(str(world.folder("someone_sounds")))
    assert asked == ["someone/sounds"] and list(saved) == ["validation"] and len(saved["validation"]) == 3


def save_published(name: str, count: int, folder: Path, split: str = "test") -> dict[Path, bytes]:
    """Answers to the first rows of a set as the published program saves them; returns its files."""
    from datasets import Dataset, DatasetDict

    columns = ("dataset_index", "question", "choices")
    answers = [
        {**{column: row[column] for column in columns}, "llm_answer": "red"} for row in choice_rows(count)
    ]  # fmt: skip
    DatasetDict({split: Dataset.from_list(answers)}).save_to_disk(str(folder))
    return files_of(folder)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_answers_of_another_program_are_never_overwritten_unasked(
    world: World, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from src.common.naming import generated_name

    caplog.set_level("INFO")
    save_set("quiz", {"test": choice_rows(4)})
    folder = data_root / "generated" / "tiny-llm" / generated_name("quiz", world.loaded.name, 8192, 1024)
    before = save_published("quiz", 4, folder)
    assert world.run("quiz", task=MULTIPLE_CHOICE) == folder and not world.prompts
    assert files_of(folder) == before
    assert f"generated answers: {folder} exists; skipped (overwrite=true replaces it)" in caplog.text

    shutil.rmtree(folder)
    before = save_published("quiz", 3, folder)
    assert world.run("quiz", "dataset.limit=3", task=MULTIPLE_CHOICE) == folder  # those rows are all there
    for overrides, problem in (
        ([], "split test lacks 1 of 4 rows, first dataset_index: 3"),
        (["dataset.limit=0", "greedy=true"], "lacks 1 of 4"),
    ):
        with pytest.raises(UserError, match=rf"{problem}.*overwrite=true.*run_tag=NAME"):
            world.run("quiz", *overrides, task=MULTIPLE_CHOICE)
    assert files_of(folder) == before and not world.prompts
    world.run("quiz", "run_tag=mine", task=MULTIPLE_CHOICE)
    assert files_of(folder) == before and len(world.prompts) == 4
    world.run("quiz", "overwrite=true", task=MULTIPLE_CHOICE)
    assert len(rows(folder, "test")) == 4 and len(world.prompts) == 8
    world.run("quiz", "overwrite=true", task=MULTIPLE_CHOICE)  # ours now: continued, and there is nothing to do
    assert len(world.prompts) == 8


def test_answers_in_the_nested_folder_of_a_hub_id_are_found(
    world: World, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from src.common.naming import generated_name

    hub = save_set("quiz", {"test": choice_rows(2)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: load_from_disk(str(hub)))
    run = generated_name("quiz", world.loaded.name, 8192, 1024)
    before = save_published("quiz", 2, data_root / "generated" / "tiny-llm" / "someone" / run)
    given = ["dataset.name=someone/quiz", "prompts=mini", f"checkpoint_name={world.loaded.name}"]
    assert generate(compose("generate", given), MULTIPLE_CHOICE, world.start) == 0
    assert not world.prompts and files_of(data_root / "generated") == before


def test_a_choice_run_by_likelihood_answers_where_nothing_readable_is_written(world: World) -> None:
    save_set("choices", {"test": choice_rows(4)})
    world.script = lambda prompt: "well.\n</think>\n\nsome sound"
    written = world.run("choices", task=MULTIPLE_CHOICE)
    assert {row["llm_answer"] for row in rows(written, "test")} == {None}
    task = ChoiceTask(answers="likelihood")
    folder = world.run("choices", "answers=likelihood", task=task)
    assert folder.name == f"{written.name}_likelihood"
    for row in rows(folder, "test"):
        assert (row["llm_answer"], row["parse_status"]) == ("green", "likelihood")  # by the fake's letters e
        assert (row["written_answer"], row["written_status"]) == (None, "not_a_number")
        assert row["option_logprobs"] == [-5.0, -8.0, -7.0] and row["likelihood_sum_answer"] == "red"
    assert json.loads((folder / "run.json").read_text())["splits"]["test"]["statuses"] == {"likelihood": 4}
    with pytest.raises(ConfigError, match="answers are for multiple choice"):
        world.run("choices", "answers=likelihood", task=FREE)
