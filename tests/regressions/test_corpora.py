"""Rows C1 to C4 (corpora) and P1, P2, P10 (names in lists, streams and records)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from src.common.errors import UserError
from src.common.files import json_lines, read_json_lines, split_lines
from src.common.paths import REPO_ROOT, raw_dir
from src.common.run_record import public_record, without_paths, write_run_record
from src.corpus.collect import build
from src.corpus.collect.arrow_writer import open_batch
from src.corpus.collect.build import CollectSettings, collect
from src.corpus.collect.commands import add_arguments, collect_command
from src.corpus.collect.row_batches import make_batches
from src.corpus.collect.sources import Workspace, gather
from src.corpus.recipe import IDS, Inputs, Options, Recipe
from src.corpus.recipes import load_recipe
from src.dataset.corpus_names import all_corpora
from src.inference.http_backend import _lines
from tests.support.damaged_cells import damages
from tests.support.toy_corpus import RECIPE as TOY
from tests.support.toy_corpus import write_toy
from tests.support.upstream import IMITATIONS
from tests.support.upstream.writing import audio

ODD = "a\u2028b\u2029c\x85d\x0be\x1cf"
"""Text with every character at which ``str.splitlines`` splits and a file does not."""


# P1: lists were read with str.splitlines, so a name with U+2028 or U+0085 broke the file for every later run.
def test_p1_json_lines_split_at_line_feeds_only(tmp_path: Path) -> None:
    values = [{"name": ODD}, {"name": "x\udcff.wav"}, ODD]
    (tmp_path / "x.jsonl").write_text(json_lines(values), encoding="utf-8")
    assert list(read_json_lines(tmp_path / "x.jsonl")) == values
    assert list(read_json_lines(tmp_path / "none.jsonl")) == []
    assert split_lines(f"{ODD}\r\n\nlast") == [ODD, "", "last"] and split_lines("") == []


def test_p1_a_line_that_is_no_json_is_named_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": ')
    assert list(read_json_lines(tmp_path / "x.jsonl", skip_broken=True)) == [{"a": 1}]
    with pytest.raises(UserError, match="x.jsonl, line 3: not JSON"):
        list(read_json_lines(tmp_path / "x.jsonl"))


# P2: httpx's aiter_lines splits at U+2028, so an event whose JSON contains it was half an event: 502.
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_p2_events_split_at_line_feeds_only(size: int) -> None:
    events = [f"data: {json.dumps({'text': ODD}, ensure_ascii=False)}", "", "data: [DONE]"]
    body = "\r\n".join(events).encode()

    async def read() -> list[str]:
        async def pieces():  # type: ignore[no-untyped-def]
            for start in range(0, len(body), size):
                yield body[start : start + size]

        return [line async for line in _lines(httpx.Response(200, content=pieces()))]

    assert asyncio.run(read()) == events


# P10: run.json went to the Hub as it was, with the folders of the author's machine.
def test_p10_a_published_record_has_no_folders(tmp_path: Path) -> None:
    home = "/home/some one"
    config = {
        "llm": f"{home}/models/llm", "out": f"{home}/runs/a/", "hub": "Qwen/Qwen3-4B", "url": "https://x.org/a/b",
        "text": "1/2 or /no_think and so on", "rows": [["esc50", Path("/data/raw/esc50")]], "n": 3,
        "/data/clips/a.wav": "~/b/c", "failed": "cannot open '/data/clips/b.wav': no such file",
    }  # fmt: skip
    write_run_record(
        tmp_path, json.loads(json.dumps(config, default=str)), command=["train.py", f"out={home}/x", "/a"]
    )
    record = public_record(tmp_path / "run.json")
    assert record["config"] == {
        "llm": "llm", "out": "a", "hub": "Qwen/Qwen3-4B", "url": "https://x.org/a/b",
        "text": "1/2 or /no_think and so on", "rows": [["esc50", "esc50"]], "n": 3, "a.wav": "c",
        "failed": "cannot open 'b.wav': no such file",
    }  # fmt: skip
    assert record["command"] == ["train.py", "out=x", "a"]
    assert without_paths({"versions": {"torch": "2"}, "none": None}) == {"versions": {"torch": "2"}, "none": None}


def first_pass(name: str, inputs: Inputs, folder: Path) -> tuple[set[tuple[str, ...]], list[dict[str, str]]]:
    """Rows ``(ids, text)`` and what was dropped."""
    recipe = load_recipe(name)
    results = list(make_batches(recipe, inputs, folder, 0))
    shown = "question" if recipe.text_type == "none" else "audio_description"
    rows, dropped = set(), []
    for number in range(len(results)):
        path = folder / f"{number:06d}.arrow"
        open_batch.cache_clear()
        rows |= {tuple(str(row[key]) for key in (*IDS, shown)) for row in open_batch(str(path)).to_pylist()}
        dropped += read_json_lines(path.with_suffix(".dropped.jsonl"))
    return rows, dropped


def upstream(name: str, folder: Path, as_published: bool) -> Inputs:
    IMITATIONS[name](folder)
    return gather(load_recipe(name), Workspace(folder.parent / "work", folder), Options(as_published))


DEPENDENT = {
    "globe_v3", "vocalsound", "librispeech", "alimeeting", "dailytalk", "librimix", "audioset", "instructs2s",
}  # fmt: skip
"""Corpora whose imitation has one row, or rows that all come from one line of a table or one recording."""
AS_PUBLISHED = {"nisqa", "mucs", "dailytalk", "meld", "fma", "singmos", "nsynth", "amicorpus", "fsd50k"}
"""Corpora that are tried with ``--as-published``; the others without."""
ONLY_FILES = {"gtzan", "mridangam"}
"""Corpora without tables, lists or rows: all is in the names of files."""


# C2: an empty age ended the collection of VocalSound with a ValueError, and that of the corpora behind it.
@pytest.mark.parametrize("name", sorted({*all_corpora()} - ONLY_FILES))
def test_c2_one_bad_cell_leaves_the_other_rows_alone(name: str, tmp_path: Path, data_root: Path) -> None:
    as_published = name in AS_PUBLISHED
    inputs = upstream(name, tmp_path / "upstream", as_published)
    whole, before = first_pass(name, inputs, tmp_path / "whole")
    assert whole
    left_out = 0
    for number, (what, damaged) in enumerate(damages(tmp_path / "upstream", inputs, 10)):
        rows, dropped = first_pass(name, damaged, tmp_path / f"{number}")
        assert rows & whole or name in DEPENDENT, what
        assert all(entry["reason"] for entry in dropped), what
        left_out += len(dropped) > len(before)
    assert left_out or name in {"opensinger", "vctk", "globe_v3"}, "their texts and fields may be anything"


def collected(name: str, folder: Path, as_published: bool) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows of a collected set in order, and reasons of what was dropped by second id."""
    from datasets import load_from_disk

    settings = CollectSettings(0, folder, Options(as_published), overwrite=True, check_rows=0)
    assert collect(load_recipe(name), settings)["problems"] == []
    rows = load_from_disk(str(raw_dir(name)))["train"].remove_columns("audio").to_list()
    dropped = read_json_lines(raw_dir(name) / "dropped.jsonl")
    return rows, {entry["unique_id_2"]: entry["reason"] for entry in dropped}


def edit(path: Path, *pairs: tuple[str, str]) -> None:
    """Replace texts in a file; each must be there."""
    text = path.read_bytes().decode("utf-8")
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    path.write_bytes(text.encode("utf-8"))


@pytest.mark.parametrize("as_published", [False, True])
def test_c2_an_empty_score_or_age_is_dropped_or_written_as_published(
    as_published: bool, tmp_path: Path, data_root: Path
) -> None:
    IMITATIONS["nisqa"](tmp_path / "nisqa")
    edit(tmp_path / "nisqa/NISQA_Corpus/NISQA_corpus_file.csv", ("b.wav,3.14159,2.5", "b.wav,,"))
    rows, dropped = collected("nisqa", tmp_path / "nisqa", as_published)
    texts = [row["audio_description"] for row in rows]
    assert len(rows) == (2 if as_published else 1) and "mos: 3.0, noise level: 2.5/5" in texts[0]
    if as_published:
        assert "mos: nan, noise level: nan/5" in texts[1] and not dropped
    else:
        assert dropped == {"NISQA_TRAIN_SIM": "mos is empty"}

    IMITATIONS["vocalsound"](tmp_path / "vocalsound")
    edit(tmp_path / "vocalsound/meta/tr_meta.csv", ("yes\n", "yes\nf0004,female,,USA,English,no\n"))
    (tmp_path / "vocalsound/audio_16k/f0004_0_sigh.wav").write_bytes(audio(1.0))
    rows, dropped = collected("vocalsound", tmp_path / "vocalsound", as_published)
    # pandas reads the whole column as floats where one cell is empty
    assert [row["age"] for row in rows] == (["50.0s", "50.0s", "nans"] if as_published else ["50s", "50s"])
    assert (dropped.get("f0004_0_sigh.wav") == "age is empty") is not as_published


def test_c2_other_corpora_of_a_command_go_on(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def one(recipe: Recipe, settings: CollectSettings) -> dict[str, object]:
        if recipe.name == "vocalsound":
            raise ValueError("of any kind")
        done.append(recipe.name)
        return {}

    monkeypatch.setattr(build, "collect", one)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert collect_command(["fsd50k", "vocalsound", "nsynth"], parser.parse_args([])) == 1
    assert done == ["fsd50k", "nsynth"] and "vocalsound: ValueError: of any kind" in caplog.text


# C1: times were counted over the dialogue and subtracted, so 5.5 s became 5.4999999999999964 s, and 5 s.
@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize(
    "seconds",
    [
        (6.0, 4.2, 4.9, 3.7, 2.2, 5.8, 5.5),
        (5.7, 2.2, 3.9, 4.4, 5.1, 4.2, 3.9, 3.5, 3.2, 4.8, 3.8, 5.8, 3.9),
    ],
)
def test_c1_the_clock_of_every_chunk_starts_at_0(
    seconds: tuple[float, ...], as_published: bool, tmp_path: Path, data_root: Path
) -> None:
    keys = [str(turn) for turn in range(len(seconds))]
    if as_published:
        keys.sort()
    turns = {key: {"speaker": 0, "act": "inform", "emotion": "anger"} for key in keys}
    root = tmp_path / "up/dailytalk"
    (root / "data/7").mkdir(parents=True)
    (root / "metadata.json").write_text(json.dumps({"7": turns}))
    (root / "train.txt").write_text("".join(f"{key}_0_d7|0|x|x|anger\n" for key in keys))
    for key, length in zip(keys, seconds, strict=True):
        (root / f"data/7/{key}_0_d7.wav").write_bytes(audio(length))
    rows, _ = collected("dailytalk", tmp_path / "up", as_published)

    published: dict[str, float] = {}  # the published rule: the sum so far, which is 0 again behind each chunk
    total, names = 0.0, []
    for key, length in zip(keys, seconds, strict=True):
        total, names = total + length, [*names, key]
        if total >= 25 or key == keys[-1]:
            published[f"7_{len(published)}_{'_'.join(names)}"] = total
            total, names = 0.0, []
    assert {row["unique_id_2"]: row["duration"] for row in rows} == published
    if len(seconds) == 7:
        last = rows[-1]["audio_description"]
        assert last.startswith("[00:00-00:06, the first speaker") and "(duration: 6s, " in last
    else:
        assert [len(name.split("_")) - 2 for name in published] == [6, 6, 1]


# C3: odd lists and tables made other rows than the published readers, and none of it was in DATASET.md.
def test_c3_a_pair_given_twice_and_an_unknown_nationality(tmp_path: Path, data_root: Path) -> None:
    IMITATIONS["voxceleb1"](tmp_path / "up")
    edit(tmp_path / "up/meta.csv", ("Norway", ""))
    pair = "id1/v1/00001.wav\tid2/v1/00001.wav\n"
    (tmp_path / "up/train_list.txt").write_text(f"{pair}{pair}id2/v1/00001.wav\tid9/v1/00001.wav\nbroken\n")
    rows, dropped = collected("voxceleb1", tmp_path / "up", as_published=True)
    assert [row["unique_id_1"] for row in rows] == ["id1/v1/00001.wav"] * 2
    assert "the first speaker's nationality: nan, " in rows[0]["audio_description"]
    assert dropped["id9/v1/00001.wav"] == "meta.csv has no 'id9'" and len(dropped) == 2
    rows, dropped = collected("voxceleb1", tmp_path / "up", as_published=False)
    assert len(rows) == 1 and "the first speaker's nationality" not in rows[0]["audio_description"]
    assert dropped["id2/v1/00001.wav"] == "an earlier row has the same pair of ids"


def test_c3_a_speaker_listed_twice(tmp_path: Path, data_root: Path) -> None:
    IMITATIONS["vocalsound"](tmp_path / "up")
    edit(tmp_path / "up/meta/tr_meta.csv", ("m0600", "f0003,female,31,USA,English,no\nm0600"))
    rows, _ = collected("vocalsound", tmp_path / "up", as_published=True)
    assert [(row["unique_id_2"][8:12], row["age"]) for row in rows] == [
        ("laug", "50s"), ("laug", "30s"), ("thro", "50s"), ("thro", "30s"),
    ]  # fmt: skip
    rows, dropped = collected("vocalsound", tmp_path / "up", as_published=False)
    assert [row["age"] for row in rows] == ["50s", "50s"]
    assert dropped["f0003_0_laughter.wav"] == "an earlier row has the same pair of ids"


def test_c3_empty_tags(tmp_path: Path, data_root: Path) -> None:
    IMITATIONS["fma"](tmp_path / "up")
    edit(tmp_path / "up/fma_metadata/tracks.csv", ("\"['a', 'b']\"", "\"['', 'b']\""), ("['x']", "['']"))
    for as_published, wanted in ((True, "album tags: /b, song tags: )"), (False, "album tags: b)")):
        rows, _ = collected("fma", tmp_path / "up", as_published)
        row = next(row for row in rows if row["unique_id_1"] == "000002")
        assert row["audio_description"].endswith(wanted), row["audio_description"]


def test_c3_an_empty_text_of_a_turn(tmp_path: Path, data_root: Path) -> None:
    IMITATIONS["dailytalk"](tmp_path / "up")
    edit(tmp_path / "up/dailytalk/train.txt", ("| turn 1 |", "||"))
    rows, dropped = collected("dailytalk", tmp_path / "up", as_published=True)
    assert not dropped and "speech act: inform]  [" in rows[0]["audio_description"]
    assert rows[0]["text"].startswith("turn 0;;turn 10;")
    rows, dropped = collected("dailytalk", tmp_path / "up", as_published=False)
    assert dropped == {"1_1_d7.wav": "the training list has no text of it"}
    assert [row["unique_id_2"] for row in rows] == ["7_0_0", "7_1_2_3_4_5_6_7_8_9_10"]


LISTS = {
    "mls": ("german/mls_german_opus/train/transcripts.txt", 0),
    "mucs": ("Hindi-English/train/transcripts/*", 1),
    "noisy_vctk": ("raw_data/log_trainset_28spk.txt", 0),
    "vctk": ("VCTK-Corpus/speaker-info.txt", 1),
}
"""Lists of the imitations, and how many ends of lines the published reader wants behind the last row it reads."""


@pytest.mark.parametrize("name", sorted(LISTS))
def test_c3_lists_without_a_final_line_end_or_with_a_blank_last_line(
    name: str, tmp_path: Path, data_root: Path
) -> None:
    IMITATIONS[name](tmp_path / "up")
    pattern, kept = LISTS[name]
    paths = list((tmp_path / "up").glob(pattern))
    contents = {path: path.read_text().rstrip("\n") for path in paths}
    counts: dict[bool, list[int]] = {False: [], True: []}
    for ends in ("", "\n", "\n\n"):
        for path, text in contents.items():
            path.write_text(text + ends)
        for as_published, found in counts.items():
            found.append(len(collected(name, tmp_path / "up", as_published)[0]))
    assert len(set(counts[False])) == 1, "the default reads every line"
    lost = {"mls": 1, "mucs": 1, "noisy_vctk": 2, "vctk": 1}[name]
    other = {"mls": 6, "noisy_vctk": 2}.get(name, 0)  # last lines of the other lists, which end with a line end
    all_rows = counts[False][0] - other
    # readlines()[:-1] drops the last line, blank or not; split("\\n")[:-1] drops what is behind the last line end
    assert counts[True] == [all_rows - lost, all_rows - (0 if kept else lost), all_rows]


# C4: DATASET.md said that only two things cannot be brought back.
def test_c4_the_guide_names_sonicmaster_among_what_cannot_be_brought_back() -> None:
    guide = (REPO_ROOT / "DATASET.md").read_text(encoding="utf-8")
    section = guide.partition("cannot be brought back:")[2].partition("##")[0]
    assert "`sonicmaster`" in section and "torchcodec" in section and "`voxceleb1`" in section


# P1: an unreadable clip with such a name ended the collection in a traceback, on every retry.
@pytest.mark.parametrize("name", ["x\u2028y.wav", "x\x85y.wav", os.fsdecode(b"x\xffy.wav")])
@pytest.mark.parametrize("content", [b"RIFF", audio(1.0)])
def test_p1_a_clip_with_an_odd_name_is_listed(name: str, content: bytes, tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 3)
    (tmp_path / "toy" / name).write_bytes(content)
    readable = content != b"RIFF" and "\udcff" not in name
    for _ in range(2):
        result = collect(TOY, CollectSettings(0, tmp_path, overwrite=True))
        assert result["rows"] == {"train": 4 if readable else 3} and result["problems"] == []
        dropped = list(read_json_lines(raw_dir("toy") / "dropped.jsonl"))
        assert [entry["unique_id_2"] for entry in dropped] == ([] if readable else [Path(name).stem])
        assert json.loads((raw_dir("toy") / "run.json").read_text())["result"]["dropped"] == len(dropped)


def test_a_stopped_fma_run_knows_its_batches_again(tmp_path: Path, data_root: Path) -> None:
    """Jobs had sets of texts, whose order differs between processes: every start made all batches again."""
    IMITATIONS["fma"](tmp_path)
    program = (
        "import pickle, sys; from pathlib import Path; from src.corpus.recipe import Inputs; "
        "from src.corpus.recipes import load_recipe; "
        "print(pickle.dumps(list(load_recipe('fma').work.jobs(Inputs((Path(sys.argv[1]),))))).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=REPO_ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)}, stdout=subprocess.PIPE, check=True,
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(found) == 1
