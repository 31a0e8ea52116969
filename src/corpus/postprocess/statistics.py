"""Numbers of the collected corpora by group and split: rows, hours, distinct prompts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.audio.roots import roots_of
from src.common.config import compose
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import indexes_dir, indexes_filtered_dir, prompts_dir, raw_dir
from src.corpus.postprocess.audio_filter import clip_seconds, undecoded
from src.dataset.corpus_names import INSTRUCTION, OTHER, expand_mixture, group_of
from src.dataset.response_rows import ResponseRows, missing_folders
from src.dataset.splits import read_indexes
from src.dataset.tables import column_numbers, column_values, find_rows, native_splits, open_keyed, open_split

TITLES = {
    "speech": "Speech", "complicated_speech": "Speech", "environment": "Sound", "event": "Sound", "music": "Music",
    INSTRUCTION: "Instruction", OTHER: "Other",
}  # fmt: skip
"""Names of the published table's lines by group."""
SPLITS = ("all", "train", "validation")
_log = get_logger(__name__)


@dataclass
class Count:
    """Rows, seconds and hashes of distinct prompts."""

    rows: int = 0
    seconds: float = 0.0
    prompts: set[bytes] = field(default_factory=set)

    def add(self, other: Count) -> None:
        """Count the other's as well."""
        self.rows += other.rows
        self.seconds += other.seconds
        self.prompts |= other.prompts


def count_corpus(name: str) -> dict[str, Count]:
    """Counts of ``all`` rows and of each split, of the filtered split if there is one."""
    if group_of(name) == INSTRUCTION:
        return _count_instructions(name)
    table, keys = open_keyed(raw_dir(name), "train", f"raw set {name}")
    seconds = column_numbers(table, "duration")
    splits = read_indexes(indexes_filtered_dir(name)) or read_indexes(indexes_dir(name))
    hashes = _prompt_hashes(name, keys)
    found = {}
    for split, wanted in {"all": keys, **splits}.items():
        rows = find_rows(keys, wanted)
        rows = rows[rows >= 0]  # the set may have been collected again, with fewer rows than were split
        prompts = set() if hashes is None else {hashes[row] for row in rows.tolist()} - {b""}
        found[split] = Count(int(rows.size), 0.0 if seconds is None else float(np.nansum(seconds[rows])), prompts)
    return found


def _count_instructions(name: str) -> dict[str, Count]:
    """Instruction sets state no durations; every question counts as a prompt."""
    total, found = Count(), {}
    for split in native_splits(raw_dir(name)):
        table = open_split(raw_dir(name), split, f"raw set {name}")
        found[split] = Count(len(table), 0.0, set(map(_hash, column_values(table, "question"))))
        total.add(found[split])
    return {"all": total, **found}


def _prompt_hashes(name: str, keys: np.ndarray) -> list[bytes] | None:
    """Hash of each row's prompt, empty where there is none; ``None`` if the corpus has no prompts yet."""
    if not prompts_dir(name).is_dir():
        return None
    prompts, prompted = open_keyed(prompts_dir(name), "train", f"prompts of {name}")
    hashes = [*map(_hash, column_values(prompts, "prompt")), b""]  # -1, no such row, is the last entry
    return [hashes[row] for row in find_rows(prompted, keys).tolist()]


def _hash(text: str) -> bytes:
    # eight bytes instead of the text: the corpora have millions of prompts
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def statistics(names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for each line of the published table (and ``Total``) and split: elements, hours, unique prompts."""
    lines: dict[str, dict[str, Count]] = {}
    for name in names:
        for split, count in count_corpus(name).items():
            for title in (TITLES[group_of(name)], "Total"):
                lines.setdefault(title, {}).setdefault(split, Count()).add(count)
    order = [*dict.fromkeys(TITLES.values()), "Total"]
    return [
        {"group": title, "split": split, "elements": lines[title][split].rows,
         "hours": round(lines[title][split].seconds / 3600, 4), "unique_prompts": len(lines[title][split].prompts)}
        for title in order if title in lines
        for split in SPLITS if split in lines[title]
    ]  # fmt: skip


def statistics_table(entries: Sequence[dict[str, Any]]) -> str:
    """The entries as aligned text."""
    head = ("group", "split", "elements", "hours", "unique prompts")
    cells = [(each["group"], each["split"], f"{each['elements']:,}", f"{each['hours']:,.2f}",
              f"{each['unique_prompts']:,}") for each in entries]  # fmt: skip
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
                     for line in [head, *cells])  # fmt: skip


MIXTURES = ("content_4b", "speech_4b", "audio_4b", "music_4b")
"""Training mixtures of the published adapters."""


def mixture_statistics(name: str) -> dict[str, Any]:
    """Examples and hours of the training rows of ``dataset=NAME``, as training reads them, and sets that are missing.

    A clip that is trained on with and without its context counts twice. Durations that the raw set does not state are
    measured on its clips.
    """
    rows = expand_mixture(compose(f"dataset/{name}", [])["dataset"])["train"]["rows"]
    elements, seconds, missing = 0, 0.0, []
    for folder, mode, fraction, random in rows:
        if missing_folders(folder):
            missing.append(folder)
            continue
        examples = ResponseRows(folder, mode, fraction, random, "train", return_audio=False)
        elements += len(examples)
        seconds += _seconds(examples.raw_name, examples.keys)
    return {"dataset": name, "elements": elements, "hours": round(seconds / 3600, 3), "missing": sorted(set(missing))}


def _seconds(raw_name: str, keys: np.ndarray) -> float:
    """Seconds of these rows of a raw set's training split."""
    table, own = open_keyed(raw_dir(raw_name), "train", f"raw set {raw_name}")
    rows = find_rows(own, keys)
    seconds = column_numbers(table, "duration")
    return float(np.nansum((_measured(raw_name) if seconds is None else seconds)[rows]))


@functools.cache  # instruction sets are part of several mixtures, and decoding one takes long
def _measured(raw_name: str) -> np.ndarray:
    """Seconds of every clip of a raw set's training split, float64 ``(rows,)``; 0 for one that cannot be decoded."""
    table = open_split(raw_dir(raw_name), "train", f"raw set {raw_name}").select_columns(["audio"])
    found, roots = np.zeros(len(table)), roots_of(table)
    for row, cell in enumerate(undecoded(table)["audio"]):
        try:
            found[row] = clip_seconds(cell, roots)
        except UserError as error:
            _log.warning("raw set %s, row %d: %s", raw_name, row, error)
    return found
