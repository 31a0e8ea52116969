"""Seconds and memory for opening the whole training mixture: 6 M rows of 33 corpora, and its 32 evaluation sets.

In:  nothing; a synthetic corpus with the real row counts is written to --root (12 GB at scale 1) and removed again.
Out: a table; rows with --json. Both ways run in processes of their own. Ours joins raw sets, responses and indexes
by key on every row, compares the descriptions of both, and estimates all lengths. The baseline is the straightforward
way: load_from_disk, columns put side by side, rows selected, parts concatenated, first and last key compared.

    python scripts/perf/open_dataset.py --root /fast/disk/corpus --json open.json
    python scripts/perf/open_dataset.py --root corpus --scale 0.01
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, in_a_process, run_bench, status_gb
from src.common.cli import run_cli
from src.corpus.recipes import load_recipe
from src.dataset.corpus_names import audio_corpora

ROWS = {name: load_recipe(name).rows or 0 for name in audio_corpora()}
INSTRUCTION = {"heysquad_human_filtered": {"train": 100_000, "validation": 10_000}, "instructs2s": {"train": 460_000}}
PART = 100_000
CONFIG = ["model=mini_whisper", "dataset=all_4b", "training_args.output_dir=unused"]


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder to write the corpus to; must not exist")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real row counts")
    parser.add_argument("--keep", action="store_true", help="keep the corpus; --root may exist then")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """Seconds and memory of both ways."""
    if not (args.keep and args.root.exists()):
        args.root.mkdir(parents=True)
        build(args.root, args.scale)
    ways = {way: partial(from_disk, way, args.root) for way in ("ours", "baseline")}
    found = alternate(ways, args.rounds)
    if not args.keep:
        shutil.rmtree(args.root)
    rows = f"{found['ours'][0]['rows']:,.0f} rows"
    about = {
        "seconds": (f"open {rows}, all joins checked", "s"),
        "private": (f"{rows}: peak memory, mapped files left out", "GB"),
        "peak": (f"{rows}: peak memory, mapped files included", "GB"),
    }
    return [
        BenchRow(*title, *([each[key] for each in found[way]] for way in ways), "cpu") for key, title in about.items()
    ]


def from_disk(way: str, root: Path) -> dict[str, float]:
    """Measure one way in a process of its own, its files out of the page cache where the system lets us."""
    for file in root.rglob("*.arrow"):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    preload = ("torch", "transformers", "datasets")
    return in_a_process(measured, way, preload=preload, ALARM_DATA_ROOT=str(root.resolve()))


def measured(way: str) -> dict[str, float]:
    """Open the mixture and its evaluation sets; imports are not counted."""
    import datasets  # noqa: F401

    from src.common.config import compose
    from src.training.config import bind_train_config

    config = bind_train_config(compose("train", CONFIG)).dataset
    began = time.perf_counter()
    opened = open_ours(config) if way == "ours" else open_plainly(config)
    seconds = time.perf_counter() - began
    private, peak = status_gb("RssAnon"), status_gb("VmHWM")
    del opened[1]
    return {"rows": opened[0], "seconds": seconds, "private": private, "peak": peak}


def open_ours(config: Any) -> list[Any]:
    """Rows of the training mixture, and everything opened."""
    from src.dataset.mixture import open_mixture

    train = open_mixture(config.train)
    evaluation = {name: open_mixture(mixture) for name, mixture in config.eval.items()}
    lengths = [train.lengths(), *(mixture.lengths() for mixture in evaluation.values())]
    return [len(train), (train, evaluation, lengths)]


def open_plainly(config: Any) -> list[Any]:
    """The straightforward way, without lengths and without a check of the rows between first and last."""
    import numpy as np
    from datasets import concatenate_datasets, load_from_disk

    from src.common.naming import ResponseName
    from src.common.paths import indexes_filtered_dir, raw_dir, responses_dir

    def part(folder: str, split: str) -> Any:
        name = ResponseName.parse(folder)
        base = f"{name.base}_filtered" if name.checked else name.base
        stored = split if base in INSTRUCTION else "train"
        raw = load_from_disk(str(raw_dir(base)))[stored]
        responses = load_from_disk(str(responses_dir(name.model, folder)))[stored]
        left, right = (table.select_columns(["dataset_index"]) for table in (raw, responses))
        assert left[0] == right[0] and left[-1] == right[-1]
        shared = [column for column in responses.column_names if column in raw.column_names]
        joined = concatenate_datasets([raw, responses.remove_columns(shared)], axis=1)
        indexes = indexes_filtered_dir(base) / f"{split}_indexes.npy"
        return joined.select(np.sort(np.load(indexes))) if indexes.is_file() else joined

    def mixture(chosen: Any) -> Any:
        keep = ["audio", "dataset_index", "llm_answer_with_context", "llm_answer_no_context"]
        parts = [part(row[0], chosen.split).select_columns(keep) for row in chosen.rows]
        return concatenate_datasets(parts)

    train = mixture(config.train)
    return [len(train), (train, {name: mixture(chosen) for name, chosen in config.eval.items()})]


def build(root: Path, scale: float) -> None:
    """Raw sets, responses and filtered indexes of every corpus."""
    import numpy as np
    from datasets.utils.logging import disable_progress_bar

    from src.common.naming import ResponseName

    disable_progress_bar()
    llm = "Qwen3-4B-Thinking-2507"
    corpora = {name: {"train": count} for name, count in ROWS.items()} | INSTRUCTION
    for seed, (name, splits) in enumerate(corpora.items()):
        spoken = name in INSTRUCTION
        response = f"{name}_{llm}_512" if spoken else ResponseName(name, llm, 512, True, 1536).format()
        for split, count in splits.items():
            rows = max(20, int(count * scale))
            save(root / "raw" / name, split, rows, seed, spoken, responses=False)
            save(root / "responses" / llm / response, split, rows, seed, spoken, responses=True)
        for folder in (root / "raw" / name, root / "responses" / llm / response):
            (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
        if not spoken:
            rows = max(20, int(splits["train"] * scale))
            order = np.random.default_rng(seed).permutation(rows)
            cut = rows // 10
            folder = root / "indexes_filtered" / name
            folder.mkdir(parents=True)
            np.save(folder / "validation_indexes.npy", order[:cut])
            np.save(folder / "train_indexes.npy", np.delete(order[cut:], slice(0, None, 50)))
        print(f"{name}: written", file=sys.stderr, flush=True)


def save(folder: Path, split: str, rows: int, seed: int, spoken: bool, responses: bool) -> None:
    """One split, texts drawn from one long random text: descriptions 200 bytes, answers 1.4 kB on average."""
    import numpy as np
    import pyarrow as pa
    from datasets import Audio, Dataset, Features, Value

    noise = np.random.default_rng(0).integers(97, 123, 4_000_000, dtype=np.uint8)

    def texts(count: int, mean: int, start: int) -> pa.Array:
        draw = np.random.default_rng([seed, mean, start])
        lengths = draw.integers(mean // 2, mean * 3 // 2, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        body = np.resize(noise[(start * 37) % 1000 :], int(offsets[-1]))
        return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(body))

    about = "question" if spoken else "audio_description"
    text = ("prompt", "context")[spoken]
    kinds = {"dataset_index": Value("int64"), about: Value("string")}
    if responses:
        kinds |= {name: Value("string") for name in (text, "llm_answer_with_context", "llm_answer_no_context")}
    else:
        kinds |= {"audio": Audio(), "unique_id_1": Value("string"), "duration": Value("float64")}
    features = Features(kinds)
    place = folder / split
    files = [f"part-{start:09d}.arrow" for start in range(0, rows, PART)]
    for start, file in zip(range(0, rows, PART), files, strict=True):
        count = min(PART, rows - start)
        columns: dict[str, Any] = {"dataset_index": pa.array(np.arange(start, start + count))}
        columns[about] = texts(count, 200, start)
        if responses:
            columns[text] = texts(count, 80, start)
            columns["llm_answer_with_context"] = texts(count, 1400, start)
            columns["llm_answer_no_context"] = pa.array([""] * count) if not spoken else texts(count, 1400, start)
        else:
            content = pa.array([b"x" * 20] * count)
            columns["audio"] = pa.StructArray.from_arrays([content, pa.array([""] * count)], ["bytes", "path"])
            columns["unique_id_1"] = texts(count, 20, start)
            columns["duration"] = pa.array(np.random.default_rng(start).uniform(1, 30, count))
        table = pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)
        if start == 0:  # gives the folder its description; its own data file is replaced by the parts
            Dataset(table[:10]).save_to_disk(str(place))
            (place / "data-00000-of-00001.arrow").unlink()
        with pa.OSFile(str(place / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": file} for file in files]}))


if __name__ == "__main__":
    run_cli(main)
