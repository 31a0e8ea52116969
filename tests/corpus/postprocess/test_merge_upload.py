"""The released corpus joined with collected rows, laid out again, and read back; order check and statistics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Audio, DatasetDict, load_from_disk

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import REPO_ROOT, indexes_filtered_dir, prompts_dir, raw_dir, responses_dir
from src.corpus.postprocess import order
from src.corpus.postprocess.combined import combine, examples
from src.corpus.postprocess.merge import ANSWERS, HUB_ID, MergeSettings, Published, merge_corpus, open_published
from src.corpus.postprocess.merged_set import merge_to_one_set
from src.corpus.postprocess.order import check_order, existing
from src.corpus.postprocess.statistics import mixture_statistics, statistics, statistics_table
from src.corpus.postprocess.upload import Release, lay_out
from src.corpus.targets.llm_settings import PromptSettings, ResponseSettings, dropped_keys
from src.corpus.targets.prompts import create_prompts
from src.corpus.targets.responses import generate_responses
from src.dataset.mixture import open_mixture, present_only
from src.dataset.response_rows import ResponseRows
from src.dataset.splits import write_indexes
from src.prompts.reasoning import THINKING
from src.training.config import bind_train_config
from tests.corpus.targets.fakes import FakeEngine, reader_and_listener
from tests.support.tiny_corpus import make_rows, save_indexes, save_raw, save_responses, save_split

LLM = "Qwen3-4B-Thinking-2507"
FOLDER = f"esc50_rephrased_1536_{LLM}_512"
SETTINGS = MergeSettings()
SPOKEN = ("audio", "question", "context", "id", "is_impossible", "unique_id_1", "unique_id_2", "dataset_index")


def published_row(row: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    """A row as the released corpus has it; its number there is another."""
    return {
        "dataset_name": name,
        "context": f"prompt of {row['unique_id_2']}",
        "audio_description": row["audio_description"],
        "llm_answer_with_context": f"answer of {row['unique_id_2']}",
        "llm_answer_no_context": "",
        "unique_id_1": row["unique_id_1"],
        "unique_id_2": row["unique_id_2"],
        "dataset_index": 1000 - row["dataset_index"],
        **changes,
    }


def released(**splits: list[dict[str, Any]]) -> Any:
    """A released corpus."""
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})


def spoken(count: int, split: str) -> list[dict[str, Any]]:
    """Rows of an instruction set."""
    return [
        {**row, "question": f"{split} question {n}", "context": f"passage {n}", "id": str(n), "is_impossible": False,
         "unique_id_1": f"{split}{n}", "unique_id_2": "False"}
        for n, row in enumerate(make_rows(count))
    ]  # fmt: skip


def save_spoken(name: str, **splits: list[dict[str, Any]]) -> None:
    """Save an instruction set of several splits."""
    from datasets import DatasetDict, load_from_disk

    for split, rows in splits.items():
        save_split(raw_dir(name).with_name(f"{name}_{split}"), rows, SPOKEN, split)
    parts = {split: load_from_disk(str(raw_dir(name).with_name(f"{name}_{split}")))[split] for split in splits}
    DatasetDict(parts).save_to_disk(str(raw_dir(name)))


@pytest.fixture
def corpus(data_root: Path) -> Published:
    """esc50 with 12 rows here, heysquad_human with 4 and 2; the released corpus has most, reordered."""
    rows = make_rows(12)
    save_raw(rows, "esc50")
    train, validation = spoken(4, "t"), spoken(2, "v")
    save_spoken("heysquad_human", train=train, validation=validation)
    away = published_row(rows[0], "esc50", unique_id_2="elsewhere")
    asked = [published_row(row, "heysquad_human_filtered", audio_description=row["question"], context=row["context"])
             for row in (*train[3:], *train[:2])]  # fmt: skip
    asked_later = [published_row(row, "heysquad_human_filtered", audio_description=row["question"],
                                 context=row["context"]) for row in validation[1:]]  # fmt: skip
    return Published(
        released(
            train=[away, *(published_row(row, "esc50") for row in reversed(rows[2:9])), *asked,
                   published_row(rows[0], "clotho")],
            validation=[published_row(rows[1], "esc50"), *asked_later],
            raw_train=[away],
        )
    )  # fmt: skip


def test_rows_are_joined_by_ids_and_train(corpus: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = merge_corpus("esc50", corpus, SETTINGS)
    assert counts == {"published": 9, "joined": 8, "not_here": 1, "descriptions_differ": 0}
    train, validation = ResponseRows(FOLDER, split="train"), ResponseRows(FOLDER, split="validation")
    assert train.keys.tolist() == list(range(2, 9)) and validation.keys.tolist() == [1]
    row = train[3]
    assert row.key == "esc50/5" and row.target == "answer of 00005" and row.context == "prompt of 00005"
    assert row.audio is not None and row.audio["path"] == "5.wav"
    assert check_order("esc50", [FOLDER]) == [], "rows without a released prompt are known"
    (prompts_dir("esc50") / "dropped.jsonl").unlink()
    assert (
        check_order("esc50", [FOLDER])[1] == f"responses {FOLDER}, train: lacks 4 rows of the raw set: 0, 9, 10, 11"
    )
    (prompts_dir("esc50") / "dropped.jsonl").touch()
    raw = load_from_disk(str(raw_dir("esc50")))
    with_test = DatasetDict({**raw, "test": raw["train"].select(range(3))})
    with_test.save_to_disk(str(tmp_path / "with_test"))
    with monkeypatch.context() as patch:
        patch.setattr(order, "raw_dir", lambda name: tmp_path / "with_test")
        assert (
            check_order("esc50", [FOLDER])[-1] == f"responses {FOLDER}: lacks the split test of the raw set, 3 rows"
        )
    before = files_of(responses_dir(LLM, FOLDER), prompts_dir("esc50"), indexes_filtered_dir("esc50"))
    assert merge_corpus("esc50", corpus, SETTINGS) == counts
    assert files_of(responses_dir(LLM, FOLDER), prompts_dir("esc50"), indexes_filtered_dir("esc50")) == before
    assert merge_corpus("esc50", corpus, MergeSettings(overwrite=True)) == counts


def files_of(*folders: Path) -> dict[Path, tuple[int, bytes]]:
    """Inodes and bytes of all files: equal if nothing was written."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.read_bytes()) for path in paths}


def test_released_prompts_are_kept_for_other_models(corpus: Published) -> None:
    rows = make_rows(12)
    whole = released(
        train=[published_row(rows[2], "esc50")],
        validation=[published_row(rows[1], "esc50")],
        raw_train=[published_row(row, "esc50") for row in reversed(rows[:10])],
    )
    merge_corpus("esc50", Published(whole), SETTINGS)
    saved = load_from_disk(str(prompts_dir("esc50")))["train"]
    assert saved.column_names == ["dataset_index", "audio_description", "prompt"]
    assert saved["dataset_index"][:] == list(range(10)) and saved[4]["prompt"] == "prompt of 00004"
    assert dropped_keys("esc50", "train") == [10, 11]
    assert check_order("esc50", []) == []
    assert create_prompts(["esc50"], PromptSettings(), start_engine=no_engine) == {}
    engine = FakeEngine(reader_and_listener)
    settings = ResponseSettings(llm="org/tiny", prompts="mini", max_tokens=64, rephrase=False)
    made = generate_responses(["esc50"], settings, lambda llm: engine, reasoning=THINKING)
    assert made["esc50_tiny_64"]["rows"] == 10


def no_engine(llm: str) -> FakeEngine:
    raise AssertionError("an engine was started")


def test_what_is_there_is_neither_overwritten_nor_mixed(corpus: Published) -> None:
    rows = make_rows(12)
    save_foreign(rows[:3])
    before = files_of(responses_dir(LLM, FOLDER))
    with pytest.raises(UserError, match=r"lacks 5 of 8 rows, first dataset_index: 4.*--overwrite"):
        merge_corpus("esc50", corpus, SETTINGS)
    assert files_of(responses_dir(LLM, FOLDER)) == before and not prompts_dir("esc50").exists()
    merge_corpus("esc50", corpus, MergeSettings(overwrite=True))
    write_indexes(indexes_filtered_dir("esc50"), "train", np.arange(5))
    before = files_of(indexes_filtered_dir("esc50"))
    with pytest.raises(UserError, match="another train split than the published one"):
        merge_corpus("esc50", corpus, SETTINGS)
    assert files_of(indexes_filtered_dir("esc50")) == before


def save_foreign(rows: list[dict[str, Any]]) -> None:
    """Responses without a record of this program."""
    from datasets import Dataset, DatasetDict

    columns = {name: ["x"] * len(rows) for name in ("prompt", *ANSWERS)}
    numbers = {"dataset_index": [row["dataset_index"] + 1 for row in rows]}
    about = {"audio_description": [row["audio_description"] for row in rows]}
    table = Dataset.from_dict({**numbers, **about, **columns})
    DatasetDict({"train": table}).save_to_disk(str(responses_dir(LLM, FOLDER)))


@pytest.mark.parametrize("filtered", [False, True])
def test_the_release_with_audio_is_one_set(filtered: bool, data_root: Path) -> None:
    rows, train, validation = make_rows(6), spoken(3, "t"), spoken(2, "v")
    save_raw(rows, "esc50")
    save_spoken("heysquad_human", train=train, validation=validation)
    name = "heysquad_human_filtered" if filtered else "heysquad_human"
    asked = [published_row(row, name, audio_description=row["question"]) for row in (*train[1:], *validation)]
    away = published_row(rows[0], "clotho")
    splits = {
        "train": [*(published_row(row, "esc50") for row in (rows[5], rows[0], rows[3])), away, *asked[:2]],
        "validation": [published_row(rows[1], "esc50"), *asked[2:]],
    }
    source = Published(released(**{split if filtered else f"raw_{split}": each for split, each in splits.items()}))
    counts = merge_to_one_set("merged", source, filtered)
    assert counts["train"] == {"released": 6, "written": 5, "not_here": 1}
    saved = load_from_disk(str(data_root / "merged"))
    assert list(saved) == ["train", "validation"] and len(saved["validation"]) == 3
    ids = [
        (row["dataset_name"], row["unique_id_2"])
        for row in saved["train"].select_columns(["dataset_name", "unique_id_2"])
    ]
    assert ids == [("esc50", "00005"), ("esc50", "00000"), ("esc50", "00003"), (name, "False"), (name, "False")]
    cells = saved["train"].cast_column("audio", Audio(decode=False))["audio"][:]
    assert [cell["path"] for cell in cells] == ["5.wav", "0.wav", "3.wav", "1.wav", "2.wav"]
    raw = load_from_disk(str(raw_dir("esc50")))["train"].cast_column("audio", Audio(decode=False))
    assert cells[0]["bytes"] == raw[5]["audio"]["bytes"]
    assert saved["train"].features["audio"].sampling_rate == 16000
    before = files_of(data_root / "merged")
    assert merge_to_one_set("merged", source, filtered) == counts and files_of(data_root / "merged") == before
    with pytest.raises(UserError, match="has no split .* but"):
        merge_to_one_set("merged", source, not filtered)
    with pytest.raises(UserError, match="a folder of the data layout"):
        merge_to_one_set("raw", source, filtered)
    assert merge_to_one_set("part", source, filtered, ["esc50"])["train"]["released"] == 3


def test_instruction_sets_are_filtered_by_the_released_rows(corpus: Published) -> None:
    counts = merge_corpus("heysquad_human", corpus, SETTINGS)
    assert counts["joined"] == 4 and counts["not_here"] == 0
    folder = f"heysquad_human_filtered_{LLM}_512"
    train = ResponseRows(folder, "WithContext", split="train")
    assert train.keys.tolist() == [0, 1, 3], "numbers are those of the whole set"
    assert train[2].context == "passage 3" and train[2].audio_description == "t question 3"
    assert train[2].audio is not None and train[2].audio["path"] == "3.wav"
    assert ResponseRows(folder, "NoContext", split="validation").keys.tolist() == [1]
    assert check_order("heysquad_human_filtered", [folder]) == []


def test_the_merged_corpus_is_a_training_set(corpus: Published) -> None:
    for name in ("esc50", "heysquad_human"):
        merge_corpus(name, corpus, SETTINGS)
    raw = compose("train", ["model=mini_whisper", "dataset=alarm_corpora", "training_args.output_dir=x"])
    kept, left_out = present_only(bind_train_config(raw).dataset)
    assert len(open_mixture(kept.train)) == 3 + 3 + 7 and set(kept.eval) == {"esc50", "heysquad_human"}
    assert len(left_out) > 30


def test_an_instruction_set_that_is_not_filtered_is_left_out_with_a_message(
    corpus: Published, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    merge_corpus("esc50", corpus, SETTINGS)
    save_spoken("heysquad_human", train=spoken(3, "t"))
    save_responses([{**row, "prompt": "?"} for row in make_rows(3)], f"heysquad_human_filtered_{LLM}_512")
    script, options = REPO_ROOT / "scripts/alarm", ["--max-tokens", "512", "--no-use-checker"]
    release = ["me/x", "--lay-out-only", "--folder", str(tmp_path / "release")]
    named = [release[0], "esc50", "heysquad_human", *release[1:]]
    for name, given in (("validate_data_order", []), ("upload_dataset", release), ("upload_dataset", named)):
        command = [sys.executable, str(script / f"{name}.py"), *given, *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "heysquad_human: left out, it is not filtered: scripts/alarm/filter_dataset.py" in done.stderr
    files = list((tmp_path / "release").glob("data/*/*.parquet"))
    assert {name for file in files for name in pq.read_table(file)["dataset_name"].to_pylist()} == {"esc50"}


def test_other_descriptions_are_counted(corpus: Published) -> None:
    rows = make_rows(12)
    rows[4]["audio_description"] = rows[4]["audio_description"].replace("(duration", "x (duration")
    save_raw(rows, "esc50")
    assert merge_corpus("esc50", corpus, SETTINGS)["descriptions_differ"] == 1
    assert ResponseRows(FOLDER, split="train").keys.size == 7


def test_a_set_that_is_skipped_is_counted_as_well(corpus: Published) -> None:
    train = [{**row, "question": f"{row['question']}!"} for row in spoken(4, "t")]
    save_spoken("heysquad_human", train=train, validation=spoken(2, "v"))
    first = merge_corpus("heysquad_human", corpus, SETTINGS)
    assert first["descriptions_differ"] == 3 and merge_corpus("heysquad_human", corpus, SETTINGS) == first


def test_what_cannot_be_joined_is_told(data_root: Path) -> None:
    rows = make_rows(3)
    save_raw(rows, "esc50")
    twice = [published_row(rows[0], "esc50"), published_row(rows[0], "esc50")]
    with pytest.raises(UserError, match=r"1 pairs of ids are not unique: \(scene, 00000\)"):
        merge_corpus("esc50", Published(released(train=twice)), SETTINGS)
    both = Published(released(train=twice[:1], validation=twice[:1]))
    with pytest.raises(UserError, match="in train and in validation"):
        merge_corpus("esc50", both, SETTINGS)
    with pytest.raises(UserError, match="no column dataset_name"):
        Published(released(train=[{"x": 1}]))
    with pytest.raises(UserError, match="has no split train or validation but raw_train, which --save-name"):
        merge_corpus("esc50", Published(released(raw_train=twice)), SETTINGS)
    assert not responses_dir(LLM, FOLDER).exists() and HUB_ID == "Blinorot/ALARM-Corpora"


@pytest.mark.parametrize("with_audio", [False, True])
def test_laid_out_and_merged_again(with_audio: bool, corpus: Published, tmp_path: Path) -> None:
    from datasets import Audio, load_dataset

    for name in ("esc50", "heysquad_human"):
        merge_corpus(name, corpus, SETTINGS)
    folders = {"esc50": FOLDER, "heysquad_human": f"heysquad_human_filtered_{LLM}_512"}
    release = Release(folders, with_audio=with_audio)
    target = tmp_path / "release"
    counts = lay_out(release, target, "me/corpus")
    assert counts == {"esc50": {"train": 7, "validation": 1}, "heysquad_human": {"train": 3, "validation": 1}}
    files = {path.name: path.stat().st_mtime_ns for path in target.rglob("*.parquet")}
    assert lay_out(release, target, "me/corpus") == counts
    assert files == {path.name: path.stat().st_mtime_ns for path in target.rglob("*.parquet")}, "files are kept"
    saved = load_dataset(str(target), cache_dir=str(tmp_path / "cache"))
    assert saved["train"]["dataset_name"][:] == ["esc50"] * 7 + ["heysquad_human_filtered"] * 3
    if with_audio:
        cells = saved["train"].cast_column("audio", Audio(decode=False))
        assert cells[0]["audio"]["path"] == "2.wav" and cells[0]["audio"]["bytes"][:4] == b"RIFF"
    card = (target / "README.md").read_text()
    assert "| esc50 | 7 | 1 | CC BY-NC 3.0 |" in card and "path: data/train/*.parquet" in card
    again = open_published(str(target))
    settings = MergeSettings(overwrite=True)
    assert merge_corpus("esc50", again, settings)["joined"] == 8
    assert merge_corpus("heysquad_human", again, settings)["joined"] == 4
    assert ResponseRows(FOLDER, split="train")[3].target == "answer of 00005"


def test_the_published_upload_has_four_splits_and_audio(corpus: Published, tmp_path: Path) -> None:
    from datasets import load_dataset

    for name in ("esc50", "heysquad_human"):
        merge_corpus(name, corpus, SETTINGS)
    script = [
        sys.executable,
        str(REPO_ROOT / "scripts/alarm/upload_dataset.py"),
        "--username",
        "me",
        "--repo-name",
        "x",
    ]
    options = [
        "--model-name",
        f"Qwen/{LLM}",
        "--max-tokens",
        "512",
        "--max-thinking-tokens",
        "1536",
        "--no-use-checker",
    ]
    sent_nowhere = ["--lay-out-only", "--folder", str(tmp_path / "release")]
    done = subprocess.run([*script, *options, *sent_nowhere], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved = load_dataset(str(tmp_path / "release"))
    assert {split: len(rows) for split, rows in saved.items()} == {
        "raw_train": 8 + 3, "raw_validation": 1, "train": 7 + 3, "validation": 1 + 1,
    }  # fmt: skip
    assert "audio" in saved["train"].column_names
    assert set(saved["train"]["dataset_name"][:]) == {"esc50", "heysquad_human_filtered"}
    done = subprocess.run([*script, "esc50/x", "esc50"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "both name the data set" in done.stderr


def test_statistics_of_the_published_mixtures(corpus: Published) -> None:
    for name in ("esc50", "heysquad_human"):
        merge_corpus(name, corpus, SETTINGS)
    audio = mixture_statistics("audio_4b")
    seconds = [row["duration"] for row in make_rows(12)]
    assert audio["elements"] == 7 and audio["hours"] == round(sum(seconds[2:9]) / 3600, 3)
    assert f"clotho_rephrased_1536_{LLM}_512" in audio["missing"] and len(audio["missing"]) == 4
    content = mixture_statistics("content_4b")
    assert content["elements"] == 2 * 3, "with and without context"
    spoken_seconds = [row["duration"] for row in make_rows(4)]
    assert content["hours"] == pytest.approx(2 * (sum(spoken_seconds) - spoken_seconds[2]) / 3600, abs=1e-3)


def test_order_problems_are_named(data_root: Path) -> None:
    rows = make_rows(6)
    save_raw(rows, "esc50")
    changed = [dict(row) for row in rows]
    changed[2]["audio_description"] = "other"
    changed[5]["dataset_index"] = 9
    save_responses([changed[n] for n in (1, 0, 2, 3, 4, 5)], FOLDER)
    save_split(prompts_dir("esc50"), rows, ("dataset_index", "audio_description", "prompt"))
    problems = check_order("esc50", existing([FOLDER, FOLDER, "none_x_1"]))
    assert [problem.split(", train: ")[-1] for problem in problems[:3]] == [
        "1 rows that the raw set lacks: 9", "lacks 1 rows of the raw set: 5",
        "rows are not in the order of their keys",
    ]  # fmt: skip
    assert "first 2" in problems[3] and len(problems) == 4


def test_statistics_follow_the_published_table(data_root: Path) -> None:
    rows = make_rows(10)
    save_raw(rows, "esc50")
    save_raw(rows[:4], "clotho")
    save_raw(rows[:2], "gtzan")
    save_split(prompts_dir("esc50"), [{**row, "prompt": str(row["dataset_index"] // 5)} for row in rows],
               ("dataset_index", "prompt"))  # fmt: skip
    save_indexes(data_root / "indexes" / "esc50", train=range(9), validation=[9])
    save_spoken("heysquad_human", train=spoken(3, "t"), validation=spoken(2, "v"))
    entries = {(each["group"], each["split"]): each for each in
               statistics(["esc50", "clotho", "gtzan", "heysquad_human"])}  # fmt: skip
    assert entries["Sound", "all"]["elements"] == 14 and entries["Sound", "all"]["unique_prompts"] == 2
    assert entries["Sound", "validation"]["elements"] == 1 and entries["Sound", "validation"]["unique_prompts"] == 1
    assert entries["Instruction", "validation"]["elements"] == 2
    assert entries["Total", "all"]["elements"] == 21
    hours = sum(row["duration"] for row in [*rows, *rows[:4], *rows[:2]]) / 3600
    assert entries["Total", "all"]["hours"] == pytest.approx(hours, abs=1e-4)
    table = statistics_table(list(entries.values()))
    assert table.splitlines()[0].split() == ["group", "split", "elements", "hours", "unique", "prompts"]


def test_rows_that_the_set_lacks_are_not_counted(data_root: Path) -> None:
    """A set that was collected again with fewer rows: its last row counted once more for each that is gone."""
    rows = make_rows(4)
    save_raw(rows, "esc50")
    save_indexes(data_root / "indexes" / "esc50", train=range(6), validation=[9])
    entries = {(each["group"], each["split"]): each for each in statistics(["esc50"])}
    hours = sum(row["duration"] for row in rows) / 3600
    assert entries["Sound", "train"]["elements"] == 4 and entries["Sound", "validation"]["elements"] == 0
    assert entries["Sound", "train"]["hours"] == pytest.approx(hours, abs=1e-4)


def test_corpora_as_one_set(data_root: Path) -> None:
    rows = make_rows(5)
    for name in ("esc50", "clotho", "gtzan"):
        save_raw(rows, name)
    whole = combine(["gtzan", "clotho", "esc50"])
    assert whole["dataset_name"][:] == ["esc50"] * 5 + ["gtzan"] * 5 + ["clotho"] * 5
    assert whole.column_names == [
        "audio", "audio_description", "unique_id_1", "unique_id_2", "dataset_index", "dataset_name",
    ]  # fmt: skip
    shown = examples(["gtzan", "clotho"], 2)
    assert len(shown) == 4 and shown == examples(["gtzan", "clotho"], 2)
    assert np.unique([row["dataset_index"] for row in shown[:2]]).size == 2
    with pytest.raises(UserError, match="instructs2s: instruction sets"):
        combine(["instructs2s"])
