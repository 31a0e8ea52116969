"""Splits as published, the audio filter, and the answer filter over sets that do not tell their tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.common.errors import MachineError, UserError
from src.common.paths import REPO_ROOT, indexes_dir, indexes_filtered_dir, raw_dir
from src.corpus.postprocess import audio_filter
from src.corpus.postprocess.audio_filter import filter_by_audio
from src.corpus.postprocess.split import SplitSettings, create_split, draw_split
from src.corpus.targets.answer_filter import LengthLimits, filter_by_answer
from src.dataset.response_rows import ResponseRows
from src.dataset.splits import read_indexes
from tests.support.tiny_corpus import make_rows, save_indexes, save_raw, save_responses

RESPONSES = "esc50_rephrased_1536_Qwen3-4B-Thinking-2507_512"


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of ``scripts/alarm``."""
    command = [sys.executable, str(REPO_ROOT / f"scripts/alarm/{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_split_is_the_published_one(data_root: Path) -> None:
    save_raw(make_rows(25), "esc50")
    assert create_split("esc50", SplitSettings()) == {"train": 23, "validation": 2}
    np.random.seed(123)  # the published rule: the legacy generator, seeded anew for every corpus
    order = np.random.permutation(25)
    assert np.load(indexes_dir("esc50") / "validation_indexes.npy").tolist() == order[:2].tolist()
    assert np.load(indexes_dir("esc50") / "train_indexes.npy").tolist() == order[2:].tolist()


def test_a_split_is_kept_and_one_of_other_rows_refused(data_root: Path) -> None:
    rows = make_rows(30)
    save_raw(rows[:20], "esc50")
    create_split("esc50", SplitSettings())
    before = read_indexes(indexes_dir("esc50"))
    assert create_split("esc50", SplitSettings(seed=5)) == {"train": 18, "validation": 2}
    assert all(np.array_equal(before[split], read_indexes(indexes_dir("esc50"))[split]) for split in before)
    save_raw(rows, "esc50")
    with pytest.raises(UserError, match="splits other rows.*--overwrite"):
        create_split("esc50", SplitSettings())
    assert create_split("esc50", SplitSettings(), overwrite=True) == {"train": 27, "validation": 3}
    (indexes_dir("esc50") / "validation_indexes.npy").unlink()
    with pytest.raises(UserError, match="no validation_indexes.npy"):
        create_split("esc50", SplitSettings())
    with pytest.raises(UserError, match="share of 1.5"):
        SplitSettings(1.5)
    assert draw_split(np.arange(9), SplitSettings())["validation"].size == 0


def bad_rows(count: int = 20) -> list[dict[str, Any]]:
    """Rows of which 3 is no audio, 5 is empty, 7 lasts a minute, 8 is cut in its header."""
    rows = make_rows(count)
    rows[3]["audio"] = {"bytes": b"no audio at all", "path": "3.wav"}
    rows[5]["audio"] = {"bytes": b"", "path": "5.wav"}
    rows[7]["duration"] = 60.0
    rows[8]["audio"] = {"bytes": rows[8]["audio"]["bytes"][:44], "path": "8.wav"}
    return rows


def test_rows_that_cannot_be_heard_or_are_too_long_are_left_out(data_root: Path) -> None:
    save_raw(bad_rows(), "esc50")
    create_split("esc50", SplitSettings(validation=0.3))
    counts = filter_by_audio("esc50", jobs=0)
    kept = read_indexes(indexes_filtered_dir("esc50"))
    assert sorted(np.concatenate(list(kept.values())).tolist()) == [n for n in range(20) if n not in (3, 5, 7, 8)]
    stored = np.load(indexes_filtered_dir("esc50") / "train_indexes.npy")
    assert (np.diff(stored) > 0).all()
    reasons = [
        json.loads(line) for line in (indexes_filtered_dir("esc50") / "dropped.jsonl").read_text().splitlines()
    ]
    told = {entry["dataset_index"]: entry for entry in reasons}
    assert told[7]["reason"] == "too_long" and told[7]["unique_id_2"] == "00007"
    assert told[3]["reason"].startswith("unreadable: 3.wav") and set(told) == {3, 5, 7, 8}
    assert sum(part["kept"] for part in counts.values()) == 16
    assert sum(part["dropped"].get("unreadable", 0) for part in counts.values()) == 3
    assert not (indexes_filtered_dir("esc50") / ".work").exists()


def test_a_stopped_filter_goes_on(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_raw(bad_rows(), "esc50")
    create_split("esc50", SplitSettings())
    monkeypatch.setattr(audio_filter, "BLOCK", 4)
    looked: list[str] = []
    real = audio_filter.seconds_of

    def hear(data: bytes, name: str) -> float:
        looked.append(name)
        if len(looked) == 9:
            raise KeyboardInterrupt
        return real(data, name)

    monkeypatch.setattr(audio_filter, "seconds_of", hear)
    with pytest.raises(KeyboardInterrupt):
        filter_by_audio("esc50", jobs=0)
    assert not read_indexes(indexes_filtered_dir("esc50"))
    filter_by_audio("esc50", jobs=0)
    assert looked.count("0.wav") == 1 and len(read_indexes(indexes_filtered_dir("esc50"))["train"]) > 10


def test_indexes_of_another_program_are_skipped_or_left_to_the_user(data_root: Path) -> None:
    rows = make_rows(20)
    save_raw(rows, "esc50")
    save_responses(rows, RESPONSES)
    create_split("esc50", SplitSettings())
    filtered = indexes_filtered_dir("esc50")
    by_answer = filtered / "Qwen3-4B-Thinking-2507" / RESPONSES
    limits = LengthLimits(0, 9)

    def no_count(texts: Any) -> list[int]:
        raise AssertionError("tokens were counted")

    for folder, work in (
        (by_answer, lambda: filter_by_answer("esc50", RESPONSES, limits, no_count)),
        (filtered, lambda: filter_by_audio("esc50", jobs=0)),
    ):
        split = read_indexes(indexes_dir("esc50"))
        save_indexes(folder, train=split["train"][:3], validation=split["validation"][:1])
        before = {path: path.read_bytes() for path in filtered.rglob("*.*")}
        assert work() == {"train": {"kept": 3}, "validation": {"kept": 1}}
        assert {path: path.read_bytes() for path in filtered.rglob("*.*")} == before
        (folder / "validation_indexes.npy").unlink()
        with pytest.raises(UserError, match="no validation_indexes.npy.*--overwrite"):
            work()
    filter_by_audio("esc50", jobs=0, overwrite=True)
    assert sum(keys.size for keys in read_indexes(filtered).values()) == 20
    counts = filter_by_answer("esc50", RESPONSES, limits, lambda texts: [5] * len(texts), overwrite=True)
    assert counts["train"]["kept"] == 18


def test_a_corpus_that_is_filtered_is_skipped(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_raw(make_rows(12), "esc50")
    create_split("esc50", SplitSettings())
    filter_by_audio("esc50", jobs=0)

    def not_again(block: Any) -> int:
        raise AssertionError("clips were decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(audio_filter, "_check_block", not_again)
        assert filter_by_audio("esc50", jobs=0)["train"] == {"kept": 11}
        with pytest.raises(AssertionError):
            filter_by_audio("esc50", max_duration=0.6, jobs=0)
    filter_by_audio("esc50", max_duration=0.6, jobs=0)
    assert sum(keys.size for keys in read_indexes(indexes_filtered_dir("esc50")).values()) < 12


def test_what_the_filter_needs_is_told(data_root: Path) -> None:
    save_raw(make_rows(3), "esc50")
    with pytest.raises(UserError, match="not split yet: run scripts/alarm/create_train_val_split.py esc50"):
        filter_by_audio("esc50")


def test_the_answer_filter_takes_effect_where_training_reads(data_root: Path) -> None:
    rows = make_rows(10)
    for number, row in enumerate(rows):
        row["llm_answer_with_context"] = "word " * (number + 1)
    save_raw(rows, "esc50")
    save_responses(rows, RESPONSES)
    save_indexes(indexes_filtered_dir("esc50"), train=range(8), validation=(8, 9))
    with pytest.raises(UserError, match="--tokenizer"):
        filter_by_answer("esc50", RESPONSES, LengthLimits(3, 9))

    def count(texts: Any) -> list[int]:
        return [len(text.split()) for text in texts]

    filter_by_answer("esc50", RESPONSES, LengthLimits(3, 9), count)
    assert ResponseRows(RESPONSES, split="train").keys.tolist() == [2, 3, 4, 5, 6, 7]
    assert ResponseRows(RESPONSES, split="validation").keys.tolist() == [8]


def test_scripts_from_split_to_answers(data_root: Path) -> None:
    rows = make_rows(20)
    for row in rows:
        row["status"], row["num_tokens"] = "ok", 50 + row["dataset_index"] * 10
    save_raw(rows, "esc50")
    save_raw(rows[:5], "gtzan")
    from tests.support.tiny_corpus import RESPONSE_COLUMNS

    save_responses(rows, RESPONSES, (*RESPONSE_COLUMNS, "status", "num_tokens"))
    assert script("create_train_val_split", "--val-size", "0.10").returncode == 0
    done = script("validate_and_filter_indexes", "--max-duration", "60.0", "--n-jobs", "0")
    assert done.returncode == 0 and done.stdout.startswith("gtzan: {") and "esc50: {" in done.stdout
    done = script("validate_and_filter_answers", "gtzan", "esc50", "--tokens-max-limit", "200", "--no-use-checker")
    assert done.returncode == 1 and "gtzan" in done.stderr, "one corpus has no responses; the other is filtered"
    kept = {split: ResponseRows(RESPONSES, split=split).keys for split in ("train", "validation")}
    assert sorted(np.concatenate(list(kept.values())).tolist()) == list(range(5, 16))
    assert (raw_dir("gtzan") / "dataset_dict.json").is_file()
    done = script("validate_and_filter_answers", "--model-name", "Qwen/Qwen3-4B-Thinking-2507", "--n-jobs", "16")
    assert done.returncode == 0 and done.stdout.startswith("esc50: "), "all that have such responses"
    done = script("combined_dataset", "--n-examples", "2")
    assert done.returncode == 0 and "esc50 " in done.stdout and "25 rows of 2 corpora" in done.stdout


def test_a_process_that_dies_outside_of_a_row_ends_the_filter(tmp_path: Path) -> None:
    """As when memory has run out: no row is at fault, and the block must not be tried for ever."""
    block = audio_filter.Block("esc50", (3, 4, 5), tmp_path / "000000000.json", 60.0)
    with pytest.raises(MachineError, match="esc50: a worker process died while it read no file"):
        audio_filter._after_crash(block)
    block.mark.write_text("4")
    later = audio_filter._after_crash(block)
    assert later.crashed == (4,)
    with pytest.raises(MachineError, match="is memory left"):
        audio_filter._after_crash(later)
