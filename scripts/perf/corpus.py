"""How fast the corpus builder works, and how much memory it takes, against building one row at a time.

Throughput: corpora of WAV and of FLAC files in ESC-50's layout, collected with worker processes, and with a loop that
decodes, describes and appends, then sorts and saves. Memory: a corpus of a million tiny rows, both ways.

    python scripts/perf/corpus.py --root /tmp/corpus --json corpus.json
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import shutil
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, in_a_process, own_memory, rates, run_bench
from src.common.cli import run_cli
from src.corpus.description import describe_audio
from src.corpus.recipe import CorpusRow, Draft, Dropped, Inputs, Recipe, Stored, Work, columns, row_fields

RATE = 16000
PER_JOB = 500


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for the corpora; must not exist")
    parser.add_argument("--files", type=int, default=4000, help="files of the throughput corpus")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a file")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the memory corpus")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="worker processes")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """All ways, each in a process of its own."""
    args.root.mkdir(parents=True)
    try:
        for kind, make in (("wav", wav), ("flac", flac)):
            write_files(args.root / kind, args.files, args.seconds, make)
        found = alternate({way: partial(way_alone, way, args) for way in WAYS}, args.rounds)
    finally:
        shutil.rmtree(args.root)
    about = f"{args.files:,} files of {args.seconds:g} s, {args.jobs} processes"
    cases = [
        ("wav", f"collect {about}, WAV", args.files),
        ("flac", f"collect {about}, FLAC", args.files),
        ("rows", f"build {args.rows:,} tiny rows, {args.jobs} processes", args.rows),
    ]
    rows = []
    for way, title, count in cases:
        speeds = (rates(count, [each["seconds"] for each in found[name]]) for name in (way, f"{way}_plain"))
        rows.append(BenchRow(title, "rows/s", *speeds, "cpu"))
    for way, count in (("rows", args.rows), ("tenth", args.rows // 10)):
        memory = ([each["memory"] for each in found[name]] for name in (way, f"{way}_plain"))
        rows.append(BenchRow(f"peak memory, {count:,} rows, all processes", "GB", *memory, "cpu"))
    return rows


def way_alone(way: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one way in a process of its own."""
    out = args.root / f"out_{way}"
    preload = ("torchcodec.decoders", "datasets")
    given = {"ALARM_DATA_ROOT": str(out.resolve()), "TQDM_DISABLE": "1"}
    found = in_a_process(measured, way, args, preload=preload, **given)
    shutil.rmtree(out, ignore_errors=True)
    return found


def measured(way: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and the most memory of this process and its workers, files mapped into memory left out."""
    import datasets
    import torchcodec.decoders  # noqa: F401

    datasets.disable_progress_bars()
    watch = Watch()
    began = time.perf_counter()
    WAYS[way](args)
    return {"seconds": time.perf_counter() - began, "memory": watch.stop()}


class Watch:
    """The sum of the anonymous memory of this process and its children, looked at ten times a second."""

    def __init__(self) -> None:
        self._most, self._going = 0.0, True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._going:
            self._most = max(self._most, own_memory())
            time.sleep(0.1)

    def stop(self) -> float:
        """The peak in GB."""
        self._going = False
        self._thread.join()
        return self._most


def wav(samples: int, seed: int) -> bytes:
    """Noise as a 16-bit mono WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(random.Random(seed).randbytes(2 * samples))
    return buffer.getvalue()


def flac(samples: int, seed: int) -> bytes:
    """Noise without high frequencies, which packs about as well as speech, as FLAC."""
    import numpy as np
    import soundfile

    noise = np.random.default_rng(seed).standard_normal(samples)
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.convolve(noise, np.ones(30) / 30, "same"), RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_files(folder: Path, count: int, seconds: float, make: Callable[[int, int], bytes]) -> None:
    """Files and table in ESC-50's layout; a hundred different contents."""
    audio = folder / "ESC-50-master/audio"
    audio.mkdir(parents=True)
    (folder / "ESC-50-master/meta").mkdir()
    contents = [make(int(seconds * RATE), seed) for seed in range(100)]
    with (folder / "ESC-50-master/meta/esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "category", "src_file"])
        for number in range(count):
            name = f"{number % 7}-{number:07d}.wav"
            (audio / name).write_bytes(contents[number % 100])
            table.writerow([name, 1, "pouring_water", number])


def collect_files(args: argparse.Namespace, kind: str) -> None:
    """Our builder over the files, its check included."""
    from src.corpus.collect.build import CollectSettings, collect
    from src.corpus.recipes import load_recipe

    collect(load_recipe("esc50"), CollectSettings(args.jobs, args.root / kind))


def collect_files_plainly(args: argparse.Namespace, kind: str) -> None:
    """One file after the other, everything in one dictionary, then the library's own sorting and saving."""
    from datasets import Audio, Dataset, DatasetDict
    from torchcodec.decoders import AudioDecoder

    root = args.root / kind / "ESC-50-master"
    found: dict[str, list[Any]] = {}
    with (root / "meta/esc50.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            path = root / "audio" / row["filename"]
            heard = AudioDecoder(str(path)).get_all_samples()
            seconds = heard.data.shape[1] / heard.sample_rate
            line = {
                "audio_description": describe_audio(seconds, row["category"], "caption"),
                "duration": seconds, "text": row["category"], "audio": str(path),
                "unique_id_1": row["filename"], "unique_id_2": row["src_file"],
            }  # fmt: skip
            for key, value in line.items():
                found.setdefault(key, []).append(value)
    save_plainly(Dataset.from_dict(found).cast_column("audio", Audio(sampling_rate=RATE)), DatasetDict)


def save_plainly(rows: Any, dictionary: Any) -> None:
    """Sort, number and save."""
    from src.common.paths import raw_dir

    rows = rows.sort(["unique_id_1", "unique_id_2"])
    rows = rows.add_column("dataset_index", list(range(len(rows))))
    dictionary({"train": rows}).save_to_disk(str(raw_dir("plain")))


def tiny_ids(number: int) -> tuple[str, str]:
    """Ids that are not in order."""
    return f"part {number % 97}", f"{number * 7919 % 1_000_003:07d}"


def tiny_jobs(inputs: Inputs) -> Iterator[int]:
    """Numbers of jobs."""
    assert inputs.options.limit is not None
    yield from range(0, inputs.options.limit, PER_JOB)


def make_tiny(job: int, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Rows of 20 ms, written to a new set."""
    assert inputs.options.limit is not None
    for number in range(job, min(job + PER_JOB, inputs.options.limit)):
        data = wav(320, number)
        draft = Draft(*tiny_ids(number), "noise " * 20, {"kind": "tiny"})
        yield CorpusRow(row_fields(recipe, draft, 0.02), Stored(f"{number}.wav", data=data, size=len(data)))


RECIPE = Recipe(
    name="tiny",
    title="Tiny rows",
    sources=(),
    work=Work(tiny_jobs, make_tiny, per_batch=20),
    text_type="caption",
    description=("kind",),
    columns=columns("audio_description | duration | text | kind | audio | unique_id_1 | unique_id_2 | dataset_index"),
    module="scripts.perf.corpus",
)


def build_rows(args: argparse.Namespace, rows: int) -> None:
    """Our builder over rows that need no files."""
    from src.corpus.collect.build import CollectSettings, collect
    from src.corpus.recipe import Options

    collect(RECIPE, CollectSettings(args.jobs, options=Options(limit=rows)))


def build_rows_plainly(args: argparse.Namespace, rows: int) -> None:
    """All rows in one dictionary, then the library's own sorting and saving."""
    from datasets import Audio, Dataset, DatasetDict

    names = ("audio_description", "duration", "text", "kind", "audio", "unique_id_1", "unique_id_2")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rows):
        text = "noise " * 20
        values = (
            describe_audio(0.02, text, "caption", {"kind": "tiny"}), 0.02, text, "tiny",
            {"bytes": wav(320, number), "path": f"{number}.wav"}, *tiny_ids(number),
        )  # fmt: skip
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
    save_plainly(Dataset.from_dict(found).cast_column("audio", Audio(sampling_rate=RATE)), DatasetDict)


WAYS = {
    "wav": lambda args: collect_files(args, "wav"),
    "wav_plain": lambda args: collect_files_plainly(args, "wav"),
    "flac": lambda args: collect_files(args, "flac"),
    "flac_plain": lambda args: collect_files_plainly(args, "flac"),
    "rows": lambda args: build_rows(args, args.rows),
    "rows_plain": lambda args: build_rows_plainly(args, args.rows),
    "tenth": lambda args: build_rows(args, args.rows // 10),
    "tenth_plain": lambda args: build_rows_plainly(args, args.rows // 10),
}


if __name__ == "__main__":
    run_cli(main)
