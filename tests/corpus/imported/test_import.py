"""A user's data become a raw set: every kind of source, wrong rows by their place, splits, bytes as they were."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from src.common.errors import ConfigError, UserError
from src.common.paths import indexes_dir, raw_dir
from src.corpus.imported.build import ImportSettings, import_dataset
from src.dataset.splits import read_indexes


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips ``0.wav`` to ``9.wav`` of 0.1 to 1.0 s, and an empty data root."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "root"))
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(10):
        wave = 0.1 * np.sin(np.arange(800 * (number + 1)) * (0.05 + 0.01 * number))
        soundfile.write(folder / f"{number}.wav", wave, 8000)
    return folder


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(source: Path | str, columns: str | None = None, overwrite: bool = False, **settings: Any) -> dict[str, Any]:
    settings = {"jobs": 0, "split_fraction": 0.0, **settings}
    return import_dataset(str(source), "mine", ImportSettings(columns=columns, **settings), overwrite)


def rows_of(name: str = "mine") -> list[dict[str, Any]]:
    from datasets import Audio, load_from_disk

    table = load_from_disk(str(raw_dir(name)))["train"].cast_column("audio", Audio(decode=False))
    return list(table)


def chat(*roles: str, audios: Iterable[str] = ("1.wav",), user: str = "<audio>what is it?") -> dict[str, Any]:
    texts = {"user": user, "assistant": "a bell", "system": "be brief"}
    return {
        "audios": list(audios),
        "messages": [{"role": role, "content": texts.get(role, "x")} for role in roles],
    }


def test_wrong_rows_are_named_by_line_and_left_out(clips: Path) -> None:
    (clips / "noise.wav").write_bytes(b"RIFF no audio at all")
    rows: list[Any] = [
        {"audio": "0.wav", "text": "zero"},
        {"audio": "gone.wav", "text": "no file"},
        chat("user", "assistant"),
        chat("tool", "assistant"),
        chat("user", "assistant", audios=["1.wav", "2.wav"]),
        {"audio": "3.wav", "text": "  "},
        {"audio": "noise.wav", "text": "not decodable"},
        {"wav": "4.wav", "txt": "four"},
        {"audio": "0.wav", "text": "zero"},
        '{"audio": "5.wav", "text": ',
        ["6.wav", "six"],
        {"text": "no clip"},
        chat("user", "assistant", user="<audio> or <audio>?"),
        {"audio": "https://example.org/a.wav", "text": "an address"},
    ]
    report = run(write_lines(clips / "rows.jsonl", rows))
    assert report["rows"] == 3
    assert {each["row"]: each["reason"].partition(":")[0] for each in report["rows_left_out"]} == {
        "line 2": "missing file",
        "line 4": "wrong role",
        "line 5": "two clips",
        "line 6": "empty text",
        "line 7": "undecodable",
        "line 9": "duplicate",
        "line 10": "not JSON",
        "line 11": "not a row",
        "line 12": "no audio",
        "line 13": "two clips",
        "line 14": "not a file",
    }
    assert json.loads((raw_dir("mine") / "import_report.json").read_text()) == report
    assert {row["text"]: row["prompt"] for row in rows_of()} == {
        "zero": "Transcribe the audio.",
        "a bell": "what is it?",
        "four": "Transcribe the audio.",
    }


def test_nothing_left_is_an_error_with_the_first_reason(clips: Path) -> None:
    with pytest.raises(UserError, match=r"no row could be made, 1 were dropped.*missing file"):
        run(write_lines(clips / "rows.jsonl", [{"audio": "gone.wav", "text": "x"}]))


def test_audio_is_stored_byte_by_byte_with_its_decoded_length(clips: Path) -> None:
    run(write_lines(clips / "rows.jsonl", [{"audio": f"{n}.wav", "text": f"clip {n}"} for n in range(10)]))
    for row in rows_of():
        number = int(row["text"].split()[1])
        assert row["audio"]["bytes"] == (clips / f"{number}.wav").read_bytes()
        assert row["duration"] == pytest.approx(0.1 * (number + 1))
        assert row["audio_description"].endswith(f"clip {number} (duration: {round(row['duration'])}s)")


def test_tables_with_other_column_names_and_delimiters(clips: Path) -> None:
    (clips / "a.csv").write_text('file;satz;who\n0.wav;"eins; zwei";ann\n1.wav;drei;bob\n')
    run(clips / "a.csv", "audio=file,text=satz", split_group="who")
    assert [(row["text"], row["split_group"]) for row in rows_of()] == [("eins; zwei", "ann"), ("drei", "bob")]
    (clips / "b.tsv").write_text("path\tsentence\n2.wav\tvier\n")
    run(clips / "b.tsv", overwrite=True)
    assert [row["text"] for row in rows_of()] == ["vier"]
    with pytest.raises(ConfigError, match="no column saetze; it has path, sentence"):
        run(clips / "b.tsv", "text=saetze", overwrite=True)


def test_line_numbers_of_tables_count_lines_inside_cells(clips: Path) -> None:
    (clips / "a.csv").write_text('audio,text\n0.wav,"two\nlines"\ngone.wav,x\n')
    assert [each["row"] for each in run(clips / "a.csv")["rows_left_out"]] == ["line 4"]


def test_line_numbers_of_lists_count_blank_lines(clips: Path) -> None:
    (clips / "metadata.csv").write_text("0|zero|zero\n\ngone|x|y\n")
    assert [each["row"] for each in run(clips)["rows_left_out"]] == ["line 3"]


def test_a_record_of_another_form_is_left_out_by_itself(clips: Path) -> None:
    cut = {"type": "MonoCut", "recording": {"sources": [{"type": "file", "source": "1.wav"}]}}
    rows = [{"audio": "0.wav", "text": "zero", "type": 3}, cut, {"audio": "2.wav", "text": "two"}]
    report = run(write_lines(clips / "rows.jsonl", rows))
    assert report["rows"] == 2
    assert [(each["row"], each["reason"]) for each in report["rows_left_out"]] == [
        ("line 2", "not a row: has no 'duration'")
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.txt", "hello\n"),
        ("0.lab", "hello"),
        ("0.json", '{"text": "hello"}'),
        ("transcripts.txt", "0.wav hello\n"),
        ("text", "0 hello\n"),
        ("a.trans.txt", "0 hello\n"),
        ("metadata.csv", "file_name,transcription\n0.wav,hello\n"),
        ("metadata.csv", "0|hello\n"),
        ("metadata.jsonl", '{"file_name": "0.wav", "text": "hello"}\n'),
    ],
)
def test_folders_with_texts_in_every_usual_form(clips: Path, name: str, content: str) -> None:
    (clips / name).write_text(content)
    run(clips)
    assert [row["text"] for row in rows_of()] == ["hello"]


def test_a_folder_without_texts_is_a_set_without_texts(clips: Path) -> None:
    (clips / "deep").mkdir()
    shutil.move(clips / "9.wav", clips / "deep" / "9.wav")
    report = run(clips, prompt="what is it?")
    assert (report["rows"], report["left_out"]) == (10, 0)
    assert {(row["text"], row["prompt"]) for row in rows_of()} == {("", "what is it?")}


def test_messages_of_all_forms(clips: Path) -> None:
    parts = [{"type": "audio", "audio": "2.wav"}, {"type": "text", "text": "what is it?"}]
    rows = [
        chat("system", "user", "assistant"),
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a horn"}]},
        {"audio": "3.wav", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"audios": ["4.wav"], "instruction": "name it", "input": "in a word", "output": "a drum"},
        {"audios": ["5.wav"], "query": "who?", "response": "a man"},
    ]
    (clips / "rows.json").write_text(json.dumps(rows))
    assert run(clips / "rows.json")["left_out"] == 0
    assert [(row["system"], row["prompt"], row["text"]) for row in rows_of()] == [
        ("be brief", "what is it?", "a bell"),
        ("", "what is it?", "a horn"),
        ("", "q", "a"),
        ("", "name it\nin a word", "a drum"),
        ("", "who?", "a man"),
    ]


def test_lhotse_cuts_are_cut_and_others_named(clips: Path) -> None:
    def cut(name: str, start: float, seconds: float, kind: str = "MonoCut", source: str = "file") -> dict[str, Any]:
        return {
            "id": name, "start": start, "duration": seconds, "channel": 0, "type": kind,
            "supervisions": [{"id": name, "text": name, "speaker": "ann", "start": 0, "duration": seconds}],
            "recording": {"id": "9", "sampling_rate": 8000, "num_samples": 8000, "duration": 1.0,
                          "sources": [{"type": source, "channels": [0], "source": "9.wav"}]},
        }  # fmt: skip

    cuts = [cut("whole", 0, 1.0), cut("part", 0.25, 0.5)]
    cuts += [cut("url", 0, 1.0, source="url"), cut("m", 0, 1, "MixedCut")]
    with gzip.open(clips / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(each) + "\n" for each in cuts)
    report = run(clips / "cuts.jsonl.gz")
    assert {each["row"] for each in report["rows_left_out"]} == {"line 3", "line 4"}
    part, whole = rows_of()
    assert whole["audio"]["bytes"] == (clips / "9.wav").read_bytes() and whole["split_group"] == "ann"
    assert part["duration"] == pytest.approx(0.5)


def test_saved_set_with_a_column_map_and_its_own_splits(clips: Path) -> None:
    from datasets import Audio, Dataset, DatasetDict

    def part(numbers: Iterable[int]) -> Dataset:
        paths, texts = [str(clips / f"{n}.wav") for n in numbers], [f"clip {n}" for n in numbers]
        return Dataset.from_dict({"sound": paths, "words": texts}).cast_column("sound", Audio())

    DatasetDict({"train": part(range(4)), "test": part([8]), "dev": part([9])}).save_to_disk(str(clips / "saved"))
    report = run(clips / "saved", "audio=sound,text=words", split_fraction=0.5)
    assert report["splits"] == {"test": 1, "train": 4, "validation": 1}
    table, indexes = rows_of(), read_indexes(indexes_dir("mine"))
    assert [table[key]["text"] for key in indexes["validation"]] == ["clip 9"]
    first = next(row for row in table if row["text"] == "clip 0")
    assert first["audio"]["bytes"] == (clips / "0.wav").read_bytes()
    with pytest.raises(ConfigError, match="no column audio; it has sound, words"):
        run(clips / "saved", overwrite=True)


def test_splits_are_seeded_and_keep_groups_together(clips: Path) -> None:
    rows = [{"audio": f"{n}.wav", "text": f"{q}", "who": f"s{n % 5}"} for n in range(10) for q in "ab"]
    source = write_lines(clips / "rows.jsonl", rows)
    drawn = set()
    for seed in (1, 1, 2, 3, 4):
        report = run(source, overwrite=True, split_group="who", split_fraction=0.4, split_seed=seed)
        assert report["splits"] == {"train": 12, "validation": 8}
        table, indexes = rows_of(), read_indexes(indexes_dir("mine"))
        groups = {split: {table[key]["split_group"] for key in keys} for split, keys in indexes.items()}
        assert not groups["train"] & groups["validation"]
        drawn.add((seed, *sorted(groups["validation"])))
    assert len(drawn) == 4 and len({each[1:] for each in drawn}) > 1


def test_finished_sets_are_kept_and_changed_sources_are_not_taken_for_them(clips: Path) -> None:
    source = write_lines(clips / "rows.jsonl", [{"audio": "0.wav", "text": "zero"}])
    first = run(source)
    assert run(source) == first
    write_lines(source, [{"audio": "0.wav", "text": "zero"}, {"audio": "1.wav", "text": "one"}])
    with pytest.raises(UserError, match="--overwrite replaces it"):
        run(source)
    assert run(source, overwrite=True)["rows"] == 2


def test_validation_rows_of_a_finished_set_are_not_drawn_again_unasked(clips: Path) -> None:
    source = write_lines(clips / "rows.jsonl", [{"audio": f"{n}.wav", "text": f"{n}"} for n in range(8)])
    run(source, split_fraction=0.25)
    before = read_indexes(indexes_dir("mine"))["validation"].tolist()
    for other in ({"split_fraction": 0.5}, {"split_fraction": 0.25, "split_seed": 7}):
        with pytest.raises(UserError, match="drawn with --split-fraction 0.25, --split-seed 123, not .*--overwrite"):
            run(source, **other)
    assert read_indexes(indexes_dir("mine"))["validation"].tolist() == before
    assert run(source, split_fraction=0.5, overwrite=True)["splits"] == {"train": 4, "validation": 4}


@pytest.mark.parametrize("name", ["esc50", "speech", "all", "", "a/b", ".x"])
def test_names_of_corpora_are_refused(clips: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        import_dataset(str(clips), name, ImportSettings())
