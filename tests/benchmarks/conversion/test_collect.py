"""The collectors on a local imitation of each upstream layout: a folder, and a server that fails now and then."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from src.benchmarks.answers import join_answers
from src.benchmarks.conversion.collect import collect_command, collector_parser
from src.benchmarks.conversion.pinned import sources
from src.benchmarks.registry import benchmark
from src.benchmarks.run_loader import open_splits, text_rows
from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.download.sources import HubFile
from tests.support.loopback import loopback

CASES = REPO_ROOT / "tests" / "reference" / "benchmark_cases" / "conversion"
Rows = list[dict[str, Any]]


def wav(seed: int = 0, rate: int = 8000, channels: int = 1) -> bytes:
    """A tenth of a second of noise as a WAV file."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (rate // 10, channels))
    soundfile.write(file, noise, rate, format="WAV")
    return file.getvalue()


def case(name: str) -> dict[str, Any]:
    """The recorded conversion of a benchmark: nasty raw rows and the columns they become."""
    found: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return found


def clip_paths(name: str, rows: Rows) -> list[str]:
    """Where upstream has the clips of the raw rows."""
    spec = benchmark(name)
    if spec.source_path is not None:
        return [spec.source_path(row) for row in rows]
    return [spec.convert(row, 0)["audio"] for row in rows]


def lay_out(name: str, folder: Path) -> dict[str, Rows]:
    """Metadata and clips of the recorded rows, as upstream has them. Returns the raw rows by split."""
    raw: dict[str, Rows] = case(name)["raw"]
    for split, rows in raw.items():
        metadata = sources()[name][split].metadata.name
        lines = "\n".join(map(json.dumps, rows)) if metadata.endswith("jsonl") else json.dumps(rows)
        (folder / metadata).write_text(lines)
        for number, path in enumerate(clip_paths(name, rows)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(wav(number, channels=1 + number % 2))
    return raw


def arguments(*given: str) -> argparse.Namespace:
    return collector_parser("test").parse_args([*given, "--attempts", "3", "--first-wait", "0.01"])


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["mmau", "mmar", "mmsu", "airbench"])
def test_a_folder_becomes_the_common_columns(name: str, tmp_path: Path, data: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    raw = lay_out(name, given)
    line = collect_command(name, arguments("--from-dir", str(given)))
    assert all(f"{split} {len(rows)} rows" in line for split, rows in raw.items())
    for split, saved in open_splits(data / "raw" / name).items():
        assert saved.column_names == ["question", "choices", "answer", "audio", "id", "dataset_index"]
        expected, found = case(name)["columns"][split], text_rows(saved)
        for column in ("question", "choices", "answer", "id", "dataset_index"):
            assert [row[column] for row in found] == expected[column], column
        rate, clip = (16000, 1600) if name == "airbench" else (8000, 800)
        stored = soundfile.info(io.BytesIO(saved[1]["audio"]["bytes"]))
        assert (stored.samplerate, stored.frames) == (rate, clip)
        assert stored.channels == (1 if name == "airbench" else 2)
        metadata = json.loads((data / "raw" / name / "metadata" / f"{split}_metadata.json").read_text())
        assert metadata == case(name).get("written_metadata", raw[split])
        answers = [
            {"dataset_index": row["dataset_index"], "question": row["question"], "choices": row["choices"],
             "llm_answer": row["answer"]} for row in found
        ]  # fmt: skip
        joined = join_answers(benchmark(name), found, answers[::-1], metadata, where="test")
        assert [row["model_prediction"] for row in joined.rows] == [row["answer"] for row in found]


def test_a_finished_set_is_left_alone(tmp_path: Path, data: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    lay_out("mmar", given)
    collect_command("mmar", arguments("--from-dir", str(given)))
    before = (data / "raw/mmar/run.json").stat().st_mtime_ns
    assert "already there" in collect_command("mmar", arguments("--from-dir", str(given)))
    assert (data / "raw/mmar/run.json").stat().st_mtime_ns == before
    assert "12 rows" in collect_command("mmar", arguments("--from-dir", str(given), "--overwrite"))


def test_a_set_of_another_program_is_left_alone_or_refused(tmp_path: Path, data: Path) -> None:
    given, target = tmp_path / "given", data / "raw" / "mmau"
    given.mkdir()
    lay_out("mmau", given)
    collect_command("mmau", arguments("--from-dir", str(given)))
    (target / "run.json").unlink()  # as the published program leaves it
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert "already there" in collect_command("mmau", arguments("--from-dir", str(given)))
    (target / "metadata" / "test_metadata.json").rename(tmp_path / "away")
    assert "already there" in collect_command("mmau", arguments("--from-dir", str(given), "--splits", "test-mini"))
    with pytest.raises(UserError, match=r"mmau: .* not complete \(no test_metadata.json\).*--overwrite"):
        collect_command("mmau", arguments("--from-dir", str(given)))
    (tmp_path / "away").rename(target / "metadata" / "test_metadata.json")
    assert before == {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_a_split_is_added_to_those_that_are_there(tmp_path: Path, data: Path) -> None:
    given, target = tmp_path / "given", data / "raw" / "mmau"
    given.mkdir()
    raw = lay_out("mmau", given)
    first, second = raw
    collect_command("mmau", arguments("--from-dir", str(given), "--splits", second))
    line = collect_command("mmau", arguments("--from-dir", str(given)))
    assert f"{first} {len(raw[first])} rows" in line and f"{second} " not in line
    assert {split: len(rows) for split, rows in open_splits(target).items()} == {
        split: len(rows) for split, rows in raw.items()
    }
    record = json.loads((target / "run.json").read_text())
    assert set(record["splits"]) == set(record["sources"]) == set(raw)
    assert all((target / "metadata" / f"{split}_metadata.json").is_file() for split in raw)


@pytest.mark.parametrize("name", ["mmar", "airbench"])
def test_missing_clips_are_named_or_left_out(name: str, tmp_path: Path, data: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    rows = lay_out(name, given)["test"]
    gone, broken = clip_paths(name, rows)[2:4]
    (given / gone).unlink()
    (given / broken).write_bytes(b"no audio" if name == "airbench" else wav())
    bad = 2 if name == "airbench" else 1
    with pytest.raises(UserError, match=rf"{name} \(test\): {bad} of {len(rows)} clips cannot be used.*there is no"):
        collect_command(name, arguments("--from-dir", str(given)))
    assert not (data / "raw" / name).exists()
    collect_command(name, arguments("--from-dir", str(given), "--allow-missing"))
    found = text_rows(open_splits(data / "raw" / name)["test"])
    metadata = json.loads((data / "raw" / name / "metadata" / "test_metadata.json").read_text())
    assert [row["dataset_index"] for row in found] == list(range(len(rows) - bad))
    assert [benchmark(name).row_id(row) for row in metadata] == [row["id"] for row in found]
    record = json.loads((data / "raw" / name / "run.json").read_text())
    assert record["splits"]["test"]["left_out"] == {"no usable clip": bad}


def spoil(key: str) -> Callable[[Path], None]:
    """Drops a key of the second metadata row."""

    def work(folder: Path) -> None:
        rows = json.loads((folder / "MMAR-meta.json").read_text())
        del rows[1][key]
        (folder / "MMAR-meta.json").write_text(json.dumps(rows))

    return work


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("question"), "row 1 of .*MMAR-meta.json has no usable 'question'"),
        (lambda folder: (folder / "MMAR-meta.json").unlink(), "holds no MMAR-meta.json"),
        (lambda folder: (folder / "MMAR-meta.jsonl").write_text("{}"), "several editions of MMAR-meta.json"),
        (lambda folder: (folder / "MMAR-meta.json").write_text("[{"), "is not JSON"),
        (lambda folder: (folder / "MMAR-meta.json").write_text('{"id": 1}\n{"id"'), r"line\(s\) 2 cannot be read"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(
    change: Callable[[Path], object], message: str, tmp_path: Path, data: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    lay_out("mmar", given)
    change(given)
    with pytest.raises(UserError, match=message):
        collect_command("mmar", arguments("--from-dir", str(given)))
    with pytest.raises(UserError, match="is not a folder"):
        collect_command("mmar", arguments("--from-dir", str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="unknown train; known: test"):
        collect_command("mmar", arguments("--splits", "train"))


def packed(folder: Path, paths: list[str]) -> bytes:
    """A tar.gz of files below the folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path in paths:
            archive.add(folder / path, path)
    return file.getvalue()


def put_on_server(name: str, given: Path, server: Any) -> None:
    """The files of a laid-out benchmark behind the addresses of its pinned sources."""
    for split, rows in lay_out(name, given).items():
        files = sources()[name][split]
        clips = clip_paths(name, rows)
        for source in (files.metadata, *files.audio):
            if source is files.metadata:
                contents = {source.name: (given / source.name).read_bytes()}
            elif isinstance(source, HubFile) and source.is_pattern:
                contents = {path: (given / path).read_bytes() for path in clips}
            else:
                contents = {source.name: packed(given, clips)}
            if isinstance(source, HubFile):
                if not source.is_pattern:
                    contents = {source.path: contents[source.name]}
                server.hub.setdefault((source.repo, source.revision), {}).update(contents)
            else:
                server.files[source.url.removeprefix(server.address)] = contents[source.name]


@pytest.mark.parametrize("name", ["mmau", "mmar", "mmsu", "airbench"])
def test_downloads_with_failures(name: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given"
    given.mkdir()
    with loopback() as server:
        for variable in ("GITHUB_RAW_ENDPOINT", "GOOGLE_DRIVE_ENDPOINT", "HF_ENDPOINT"):
            monkeypatch.setenv(variable, server.address)
        put_on_server(name, given, server)
        if name == "mmau":
            path = sources()[name]["test-mini"].audio[0].url.removeprefix(server.address)  # type: ignore[union-attr]
            server.trouble[path] = ["cut", "503"]
        if name == "airbench":  # the audio's revision brings another edition of the metadata: it must not be taken
            other = next(key for key in server.hub if key[1].startswith("7766"))
            server.hub[other]["Foundation/Foundation_meta.json"] = b"[]"
        if name in ("mmau", "mmar"):
            with pytest.raises(UserError, match="not the expected file: git"):
                collect_command(name, arguments())
        line = collect_command(name, arguments("--any-edition"))
        asked = len(server.asked)
        again = collect_command(name, arguments("--any-edition", "--overwrite"))
        assert line == again and f"test {len(case(name)['columns']['test']['id'])} rows" in line
        fetched = [request for request in server.asked[asked:] if request.startswith("GET /datasets")]
        assert not fetched, "what is there is not downloaded again"
    expected = case(name)["columns"]["test"]["question"]
    assert [row["question"] for row in text_rows(open_splits(data / "raw" / name)["test"])] == expected


def test_an_archive_in_the_given_folder_is_unpacked_elsewhere(tmp_path: Path, data: Path) -> None:
    given, moved = tmp_path / "given", tmp_path / "moved"
    given.mkdir()
    moved.mkdir()
    rows = lay_out("mmar", given)["test"]
    (moved / "MMAR-meta.json").write_bytes((given / "MMAR-meta.json").read_bytes())
    (moved / "mmar-audio.tar.gz").write_bytes(packed(given, clip_paths("mmar", rows)))
    collect_command("mmar", arguments("--from-dir", str(moved)))
    assert sorted(path.name for path in moved.iterdir()) == ["MMAR-meta.json", "mmar-audio.tar.gz"]


def test_mmau_pro_keeps_choices_over_one_clip(tmp_path: Path, data: Path) -> None:
    from datasets import Dataset

    def row(number: int, category: str, choices: list[str], paths: list[str]) -> dict[str, Any]:
        return {
            "id": str(number), "audio_path": paths, "question": f"q{number}", "answer": "a", "choices": choices,
            "category": category, "sub-cat": "x", "length_type": "short",
        }  # fmt: skip

    given = tmp_path / "given"
    (given / "data").mkdir(parents=True)
    (given / "data" / "1.wav").write_bytes(wav())
    one, two = ["data/1.wav"], ["data/1.wav", "data/2.wav"]
    rows = [
        row(0, "sound", ["a", "b"], one), row(1, "open", [], one), row(2, "music", ["a", "b"], two),
        row(3, "instruction following", ["a", "b"], one), row(4, "speech", ["a"], one),
        row(5, "music", ["b", "a"], one),
    ]  # fmt: skip
    Dataset.from_list(rows).to_parquet(str(given / "test.parquet"))
    assert "test 2 rows" in collect_command("mmaupro", arguments("--from-dir", str(given)))
    assert [row["id"] for row in text_rows(open_splits(data / "raw" / "mmaupro")["test"])] == ["0", "5"]
    left_out = json.loads((data / "raw/mmaupro/run.json").read_text())["splits"]["test"]["left_out"]
    assert left_out == {
        "category open": 1, "more than one clip": 1, "category instruction following": 1, "fewer than two choices": 1,
    }  # fmt: skip
