"""The builder: resumes, survives bad files and dying workers, sorts, and never leaves half a set."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from src.audio import roots
from src.common.errors import MachineError, UserError
from src.common.paths import raw_dir
from src.corpus.collect import arrow_writer
from src.corpus.collect.build import CollectSettings, collect
from src.corpus.collect.row_batches import RowBatch
from src.corpus.recipe import Options
from src.corpus.recipes import load_recipe
from src.corpus.rows import make
from tests.support.toy_corpus import RECIPE, write_toy
from tests.support.upstream.writing import audio, put_rows


def build(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Collect the toy corpus in ``tmp_path``."""
    return collect(RECIPE, CollectSettings(**{"jobs": 0, "from_dir": tmp_path, **settings}))


def rows() -> Any:
    """The saved rows."""
    from datasets import Audio

    return load_from_disk(str(raw_dir("toy")))["train"].cast_column("audio", Audio(decode=False))


def made(tmp_path: Path) -> list[str]:
    """Files that were worked on, in order."""
    return (tmp_path / "made.txt").read_text().split()


def dropped() -> dict[str, str]:
    """Reasons by second id."""
    lines = (raw_dir("toy") / "dropped.jsonl").read_text().splitlines()
    return {entry["unique_id_2"]: entry["reason"] for entry in map(json.loads, lines)}


def test_rows_are_sorted_numbered_and_whole(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 23)
    result = build(tmp_path)
    assert result["rows"] == {"train": 23} and result["problems"] == []
    saved = rows()
    assert saved["unique_id_2"][:] == [f"{number:03d}" for number in range(23)]
    assert saved[4]["audio"] == {"bytes": audio(0.54), "path": "004.wav"}
    assert saved[4]["audio_description"] == "[00:00-00:01] |toy| (duration: 1s, kind: a (b))"
    assert not (raw_dir("toy") / ".work").exists()
    record = json.loads((raw_dir("toy") / "run.json").read_text())
    assert record["result"]["rows"] == {"train": 23} and record["config"]["recipe"] == "toy"


def test_a_finished_set_is_left_alone(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 5)
    first = build(tmp_path)
    assert build(tmp_path) == first and len(made(tmp_path)) == 5
    with pytest.raises(UserError, match="--overwrite"):
        build(tmp_path, options=Options(as_published=True))
    build(tmp_path, options=Options(as_published=True), overwrite=True)
    assert len(made(tmp_path)) == 10


def test_a_stopped_run_goes_on_behind_its_finished_parts(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 12, n6=b"stop")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert not (raw_dir("toy") / "dataset_dict.json").exists()
    write_toy(tmp_path, 12)
    assert build(tmp_path)["rows"] == {"train": 12}
    assert made(tmp_path) == [f"{number:03d}" for number in (*range(7), *range(4, 12))]


def test_the_second_pass_goes_on_as_well(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path, 12)
    monkeypatch.setattr(arrow_writer, "SHARD_BYTES", 60_000)
    real, calls = arrow_writer._finish, []

    def stop_later(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(arrow_writer, "_finish", stop_later)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in raw_dir("toy").rglob("data-*.arrow")}
    assert len(kept) == 2
    build(tmp_path)
    assert len(made(tmp_path)) == 12 and len(rows()) == 12
    now = {path.name: path.stat().st_mtime_ns for path in raw_dir("toy").rglob("data-*.arrow")}
    assert len(now) > 3 and now.items() >= kept.items()


def test_bad_files_are_dropped_with_their_ids(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 10, n3=b"", n7=b"RIFF nothing", n8=audio(0.5)[:60])
    result = build(tmp_path)
    assert result["rows"] == {"train": 7} and result["dropped"] == 3
    reasons = dropped()
    assert "003.wav is empty" in reasons["003"] and "cannot be read as audio" in reasons["007"]
    assert "may have been cut" in reasons["008"]
    assert rows()["dataset_index"][:] == list(range(7))


def test_a_fault_of_the_machine_ends_the_run_and_drops_no_row(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path, 5)

    def lost(path: Path) -> float:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(make, "seconds_of", lost)
        with pytest.raises(MachineError, match=r"000\.wav: the network file system has lost the file"):
            build(tmp_path)
    assert build(tmp_path)["rows"] == {"train": 5} and not dropped()


def test_folders_of_hub_rows_are_found_once_for_all_rows(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [{"audiocap_id": n, "youtube_id": "a", "caption": "b", "audio": audio(0.1)} for n in range(40)]
    put_rows(tmp_path / "audiocaps", train=cells)
    found: list[int] = []
    caches = roots._caches
    monkeypatch.setattr(roots, "_caches", lambda: found.append(1) or caches())
    assert collect(load_recipe("audiocaps"), CollectSettings(0, tmp_path))["rows"] == {"train": 40}
    assert len(found) < 5


def test_no_row_at_all_is_an_error(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 2, n0=b"", n1=b"")
    with pytest.raises(UserError, match="no row could be made, 2 were dropped; the first reason: .*empty"):
        build(tmp_path)


def test_repeated_ids_are_dropped_unless_as_published(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 4)
    twice = dataclasses.replace(RECIPE, work=dataclasses.replace(RECIPE.work, jobs=_twice))
    result = collect(twice, CollectSettings(0, tmp_path))
    assert result["rows"] == {"train": 4} and result["problems"] == []
    assert set(dropped().values()) == {"an earlier row has the same pair of ids"}
    published = collect(twice, CollectSettings(0, tmp_path, Options(as_published=True), overwrite=True))
    assert published["rows"] == {"train": 8} and published["problems"] == [] and not dropped()


def _twice(inputs: Any) -> Any:
    yield from RECIPE.work.jobs(inputs)
    yield from RECIPE.work.jobs(inputs)


def test_another_limit_discards_the_parts_of_a_stopped_run(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 12, n6=b"stop")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert build(tmp_path, options=Options(limit=3))["rows"] == {"train": 3}


def test_a_foreign_set_is_not_overwritten(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 2)
    folder = raw_dir("toy")
    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text("{}")
    with pytest.raises(UserError, match="raw set toy: .* is not complete .*--overwrite to replace it, or move it"):
        build(tmp_path)
    assert (folder / "dataset_dict.json").read_text() == "{}"


def save_published(tmp_path: Path, rows: int) -> dict[Path, bytes]:
    """A toy set without any record of this program, as the published one leaves it; the bytes of its files."""
    write_toy(tmp_path, rows)
    build(tmp_path)
    for name in ("run.json", "dropped.jsonl", ".completed"):
        (raw_dir("toy") / name).unlink()
    return {path: path.read_bytes() for path in raw_dir("toy").rglob("*") if path.is_file()}


def test_a_complete_set_of_another_program_is_skipped_or_adopted(tmp_path: Path, data_root: Path) -> None:
    before = save_published(tmp_path, 4)
    assert build(tmp_path) == {}
    assert {path: path.read_bytes() for path in raw_dir("toy").rglob("*") if path.is_file()} == before
    adopted = build(tmp_path, adopt=True)
    assert adopted["rows"] == {"train": 4} and adopted["problems"] == []
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((raw_dir("toy") / "run.json").read_text())["config"]["adopted"] is True
    assert build(tmp_path) == adopted == build(tmp_path, options=Options(as_published=True))
    assert len(made(tmp_path)) == 4
    build(tmp_path, overwrite=True)
    assert len(made(tmp_path)) == 8


def test_a_set_with_faults_is_not_adopted(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(UserError, match="no saved set that could be adopted"):
        build(tmp_path, adopt=True)
    save_published(tmp_path, 4)
    folder = raw_dir("toy")
    saved = load_from_disk(str(folder))
    saved.map(lambda row: {"audio_description": row["text"]}).save_to_disk(str(folder.with_name("new")))
    shutil.rmtree(folder)
    folder.with_name("new").rename(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="cannot be adopted: toy/train: 4 rows with a wrong text"):
        build(tmp_path, adopt=True)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_worker_processes_make_the_same_and_one_that_dies_takes_one_file(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 30, n13=b"die")
    result = build(tmp_path, jobs=2)
    assert result["rows"] == {"train": 29} and result["problems"] == []
    assert dropped() == {"013": "ended the process that decoded it"}
    assert rows()["unique_id_2"][:] == [f"{number:03d}" for number in range(30) if number != 13]


def test_a_process_that_dies_between_files_ends_the_build(tmp_path: Path) -> None:
    """As when memory has run out: no file is at fault, so none may be dropped for it."""
    batch = RowBatch(0, tmp_path / "toy" / "parts", ("a", "b"))
    batch.folder.mkdir(parents=True)
    for text in (None, "", "       1"):
        if text is not None:
            batch.position.write_text(text)
        if text and text.strip():
            batch = batch.without_current_job()
            assert batch.crashed == {1}
        with pytest.raises(MachineError, match="parts: a worker process died while it read no file"):
            batch.without_current_job()
