"""Split indexes without rows whose audio cannot be decoded or is too long; a run that was stopped continues."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.roots import roots_of
from src.common.errors import UserError
from src.common.existing import LISTING, next_step
from src.common.files import json_lines, write_json, write_text
from src.common.lock import locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import indexes_dir, indexes_filtered_dir, raw_dir
from src.corpus.collect.pool import crashed_at, run_all
from src.corpus.recipe import IDS
from src.corpus.rows.audio import seconds_of
from src.corpus.rows.make import cell_bytes
from src.dataset.splits import index_problem, read_indexes, write_indexes
from src.dataset.tables import find_rows, open_split, read_keys

_log = get_logger(__name__)
BLOCK = 2000  # rows that a killed run decodes again at the most, per process
WORK, FILTER_FILE = ".work", "filter.json"
TOO_LONG, UNREADABLE, MISSING = "too_long", "unreadable", "missing"


@dataclass(frozen=True)
class Block:
    """Rows of a raw set (positions) to check, and the file for the reasons of the bad ones.

    ``crashed`` are rows that ended the process that decoded them.
    """

    name: str
    rows: tuple[int, ...]
    path: Path
    max_duration: float
    crashed: tuple[int, ...] = ()

    @property
    def mark(self) -> Path:
        """File with the row that is being decoded."""
        return self.path.with_suffix(".at")


def filter_by_audio(name: str, max_duration: float = 60.0, jobs: int = 1, overwrite: bool = False) -> dict[str, Any]:
    """Write ``indexes_filtered/NAME``: the split of ``indexes/NAME``, ascending, without bad rows.

    A row is bad if its audio cannot be decoded, or its duration is ``max_duration`` seconds or more. Next to the
    indexes: ``dropped.jsonl`` with key, ids and reason of each bad row, and ``filter.json``.

    A corpus that is filtered is skipped unless ``overwrite``, or unless this program filtered other rows or with
    another limit. Returns counts by split. Raises :class:`UserError` if the corpus is not split yet, or states no
    durations, or if the indexes of another program are not complete.
    """
    splits = read_indexes(indexes_dir(name))
    if not splits:
        raise UserError(f"{name} is not split yet: run scripts/alarm/create_train_val_split.py {name}")
    table = open_split(raw_dir(name), "train", f"raw set {name}")
    if "duration" not in table.column_names:
        raise UserError(f"raw set {name} states no durations; only corpora with descriptions are filtered")
    keys = read_keys(table, f"raw set {name}")
    rows = find_rows(keys, np.sort(np.concatenate(list(splits.values()))))
    target = indexes_filtered_dir(name)
    with locked_folders([target]) as changed:
        overwrite = may_discard(overwrite, changed, target)
        of = {**_about(name, rows[rows >= 0], max_duration), "missing": int((rows < 0).sum())}
        if _is_done(name, target, of, splits, overwrite):
            return {split: {"kept": int(kept.size)} for split, kept in read_indexes(target).items()}
        bad = dict(_find_bad(name, rows[rows >= 0], target / WORK, max_duration, jobs))
        counts: dict[str, Any] = {}
        dropped = []
        for split, wanted in splits.items():
            places = find_rows(keys, wanted)
            reasons = np.array([MISSING if row < 0 else bad.get(row, "") for row in places.tolist()], dtype=object)
            write_indexes(target, split, wanted[reasons == ""])
            for row, key, reason in zip(places.tolist(), wanted.tolist(), reasons.tolist(), strict=True):
                if reason:
                    ids = {} if row < 0 else table.select_columns(list(IDS))[row]
                    dropped.append({"split": split, "dataset_index": key, "reason": reason, **ids})
            left_out = Counter(str(reason).split(":")[0] for reason in reasons if reason)
            kept = int(wanted.size - left_out.total())
            counts[split] = {"before": int(wanted.size), "kept": kept, "dropped": dict(left_out)}
        write_text(target / "dropped.jsonl", json_lines(dropped))
        write_json(target / FILTER_FILE, {"max_duration": max_duration, "splits": counts, "of": of})
        shutil.rmtree(target / WORK, ignore_errors=True)
        return counts


def _about(name: str, rows: np.ndarray, max_duration: float) -> dict[str, Any]:
    """Fingerprint of everything that affects a check of these positions of the raw set."""
    return {"rows": int(rows.size), "sum": int(rows.sum()), "max_duration": max_duration, "made": _made(name)}


def _is_done(name: str, target: Path, of: dict[str, Any], splits: dict[str, np.ndarray], overwrite: bool) -> bool:
    """Whether the indexes in ``target`` stay: those of this program that are up to date, and others' if complete."""
    if not any(target.glob("*_indexes.npy")):
        return False  # the folder also contains those filtered by answer
    record = target / FILTER_FILE
    ours = record.is_file()
    problem = index_problem(target, splits)
    if problem is None and ours and json.loads(record.read_text(encoding="utf-8")).get("of") != of:
        problem = "made from other rows or with another limit"
    if problem is None:
        outside = [split for split, kept in read_indexes(target).items()
                   if split in splits and np.setdiff1d(kept, splits[split]).size]  # fmt: skip
        problem = f"rows of {outside[0]} that the split of {name} does not have there" if outside else None
    return next_step(f"filtered split of {name}", target, problem, ours=ours, overwrite=overwrite) == "skip"


def _find_bad(name: str, rows: np.ndarray, work: Path, max_duration: float, jobs: int) -> Iterator[tuple[int, str]]:
    """Position and reason of every bad row; blocks that an earlier run checked are not checked again."""
    from tqdm import tqdm

    work.mkdir(parents=True, exist_ok=True)
    about = _about(name, rows, max_duration)
    mark = work / "of.json"
    # blocks are numbered by position, so they mean nothing for other rows or after the set was collected again
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) != about:
        shutil.rmtree(work)
        work.mkdir()
    write_json(mark, about)
    for old in work.glob("*.at"):  # of a run that was killed
        old.unlink()
    blocks = [
        Block(name, tuple(rows[start : start + BLOCK].tolist()), work / f"{start:09d}.json", max_duration)
        for start in range(0, rows.size, BLOCK)
    ]
    todo = [block for block in blocks if not block.path.is_file()]
    results = run_all(_check_block, todo, jobs, _after_crash)
    for _ in tqdm(results, desc=f"{name}: audio", total=len(todo), unit=" blocks", leave=False):
        pass
    for block in blocks:
        yield from json.loads(block.path.read_text(encoding="utf-8"))


def _after_crash(block: Block) -> Block:
    """The same block without the row that was under way when its process died."""
    return replace(block, crashed=(*block.crashed, crashed_at(block.mark, block.crashed, block.name)))


def _made(name: str) -> int:
    return (raw_dir(name) / LISTING).stat().st_mtime_ns


@lru_cache(maxsize=1)
def _opened(folder: Path, made: int) -> Any:
    """Undecoded audio and durations of a raw set; ``made``, when it was written, keeps the cache from going stale."""
    table = open_split(folder, "train", f"raw set {folder.name}").select_columns(["audio", "duration"])
    return undecoded(table)


def undecoded(table: Any) -> Any:
    """A raw set whose audio cells are read as they are stored: a broken clip must not fail the read of its row."""
    from datasets import Audio

    return table.cast_column("audio", Audio(decode=False))


def clip_seconds(cell: Any, roots: Sequence[Path]) -> float:
    """Length of an undecoded clip, by decoding it. Raises :class:`UserError` if that is not possible."""
    return seconds_of(cell_bytes(cell, roots), cell.get("path") or "")


def _check_block(block: Block) -> int:
    """Write position and reason of the bad rows of a block; returns how many."""
    table = _opened(raw_dir(block.name), _made(block.name))
    durations, roots = table.select_columns(["duration"]), roots_of(table)
    bad = []
    for row in block.rows:
        seconds = durations[row]["duration"]
        if seconds is None or not seconds < block.max_duration:  # also one that is not a number
            bad.append((row, TOO_LONG))
            continue
        if row in block.crashed:
            bad.append((row, f"{UNREADABLE}: ended the process that decoded it"))
            continue
        # a decoder may crash the process (a native library and a hostile file): the next one skips this row
        block.mark.write_text(str(row))
        try:
            clip_seconds(table[row]["audio"], roots)
        except UserError as error:
            bad.append((row, f"{UNREADABLE}: {error}"))
    block.mark.unlink(missing_ok=True)
    write_text(block.path, json.dumps(bad, ensure_ascii=False))
    return len(bad)
