"""Lays a corpus out as the released one and publishes it with a card; a stopped run continues."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import ConfigError, UserError
from src.common.existing import RECORD
from src.common.files import write_json, write_text
from src.common.hub_upload import send_folder
from src.common.lock import locked_folders
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import raw_dir, responses_dir
from src.common.run_record import public_record, write_run_record
from src.corpus.postprocess.commands import is_unfiltered, response_folder
from src.corpus.postprocess.merge import ANSWERS
from src.corpus.postprocess.order import existing
from src.corpus.recipe import IDS
from src.corpus.recipes import load_recipe
from src.dataset.corpus_names import INSTRUCTION, all_corpora, corpora, group_of, groups, instruction_base
from src.dataset.splits import find_split_indexes
from src.dataset.tables import KEY, join_rows, native_splits, open_keyed

_log = get_logger(__name__)
SHARD_BYTES = 400 * 2**20
_BATCH, _AUDIO_BATCH = 2000, 100  # rows of a Parquet row group: readers of audio load one whole group at a time
RAW = "raw_"
CARD = """# {title}

Training data of ALARM (Audio-Language Alignment for Reasoning Models): descriptions of clips, prompts about them, and
what a reasoning language model answered. {audio}

```bash
python scripts/alarm/collect.py NAME… --as-published     # audio and descriptions from their sources
python scripts/alarm/merge_with_online_alarm_corpora.py NAME… --source {repo}
```

Rows belong to the collected ones by `(unique_id_1, unique_id_2, dataset_name)`.

| corpus | {splits} | licence of the source |
| --- | {rule} | --- |
{rows}

Descriptions and audio have the licences of their sources; the answers were made by {llm}.
"""


@dataclass(frozen=True)
class Release:
    """The published parts: corpora in order, the response folder of each, and ``with_audio``.

    The splits are ``train`` and ``validation`` with ``filtered``, ``raw_train`` and ``raw_validation`` (all rows that
    have a response) with ``unfiltered``, as published both.
    """

    folders: dict[str, str]
    filtered: bool = True
    with_audio: bool = False
    unfiltered: bool = False

    @property
    def splits(self) -> dict[str, str]:
        """Published split -> split here."""
        prefixes = [*([RAW] if self.unfiltered else []), *([""] if self.filtered else [])]
        return {f"{prefix}{split}": split for prefix in prefixes for split in ("train", "validation")}

    def source(self, name: str, split: str) -> tuple[str, str]:
        """Raw set and response folder of a corpus's rows in a published split.

        Instruction sets are published with the rows that stayed after their filter, but unfiltered with all.
        """
        folder = self.folders[name]
        if group_of(name) != INSTRUCTION:
            return name, folder
        parsed = ResponseName.parse(folder)
        unfiltered = ResponseName(name, parsed.model, parsed.max_tokens).format()
        if split.startswith(RAW) and responses_dir(parsed.model, unfiltered).is_dir():
            return name, unfiltered
        return instruction_base(name), folder


def choose_release(args: argparse.Namespace) -> tuple[Release, str]:
    """The parts that the command's arguments publish, and as which data set of the Hub.

    With OWNER/NAME before the corpora one kind of splits, without audio; by ``--username`` and ``--repo-name`` as
    published: all four splits, with audio. Raises :class:`ConfigError` for options that exclude each other, and
    :class:`UserError` if there is nothing to publish.
    """
    names, repo = list(args.names), ""
    # a single argument before the corpora may also be a data set without an owner: one of the user who is logged in
    if names and ("/" in names[0] or names[0] not in {*all_corpora(), *groups(), "all"}):
        repo = names.pop(0)
    as_published = not repo
    if repo and (args.username or args.repo_name):
        raise ConfigError(f"{repo} and --username or --repo-name both name the data set on the Hub; leave one out")
    if as_published:
        if not args.username and not args.lay_out_only:
            raise ConfigError("name the data set on the Hub: OWNER/NAME, or --username OWNER --repo-name NAME")
        repo = "/".join(part for part in (args.username, args.repo_name or "ALARM-Corpora") if part)
    if args.with_audio and args.remove_audio:
        raise ConfigError("--with-audio and --remove-audio exclude each other; leave one out")
    ordered = sorted(corpora(names, instruction=True), key=lambda name: group_of(name) == INSTRUCTION)  # those last
    folders = {name: response_folder(name, args, not args.plain) for name in ordered}
    if not names:
        folders = {name: folder for name, folder in folders.items() if existing([folder])}
    if not folders:
        raise UserError("no collected corpus has such responses; see --llm, --max-tokens and --max-thinking-tokens")
    release = Release(
        folders,
        filtered=as_published or not args.unfiltered,
        with_audio=not args.remove_audio if as_published else args.with_audio,
        unfiltered=as_published or args.unfiltered,
    )
    return release, repo


def lay_out(release: Release, folder: Path, repo: str) -> dict[str, dict[str, int]]:
    """Write Parquet files and the card; returns rows by corpus and split. Files that are there are kept."""
    counts: dict[str, dict[str, int]] = {}
    with locked_folders([folder.resolve()]):
        for number, name in enumerate(release.folders):
            unfiltered = is_unfiltered(name)
            for split, here in release.splits.items():
                if unfiltered and release.source(name, split)[0] != name:
                    continue
                rows = _write_rows(release, name, split, here, folder / "data" / split, number)
                if rows is not None:
                    counts.setdefault(name, {})[split] = rows
        if not counts and any(map(is_unfiltered, release.folders)):
            raise UserError("nothing is left to publish")
        write_text(folder / "README.md", _card(release, counts, repo))
        write_run_record(folder, {"folders": release.folders, "splits": list(release.splits)}, counts=counts)
        write_json(folder / RECORD, public_record(folder / RECORD))  # without paths of this machine
    return counts


def _write_rows(release: Release, name: str, split: str, here: str, folder: Path, number: int) -> int | None:
    """Parquet files of one corpus and published split, which is called ``here``; ``None`` if it has no such split."""
    # written last: a corpus and split with this file is complete and not laid out again
    mark = folder / f".{number:02d}-{name}.json"
    raw_name, responses = release.source(name, split)
    rows = _open_rows(raw_name, responses, here, not split.startswith(RAW), release.with_audio)
    if rows is None:
        return None
    count, total = int(rows.keys.size), int(rows.keys.sum())
    about = {"responses": responses, "rows": count, "sum": total, "audio": release.with_audio}
    if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8")) != about:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{number:02d}-{name}-*.parquet"):
            old.unlink()
        _write_parquet(rows, folder, f"{number:02d}-{name}")
        write_json(mark, about)
    return count


def _write_parquet(rows: _Rows, folder: Path, stem: str) -> None:
    import pyarrow.parquet as pq

    schema = rows.features.arrow_schema
    writer, size, files = None, 0, 0
    for table in rows.tables():
        if writer is None or size > SHARD_BYTES:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(folder / f"{stem}-{files:05d}.parquet", schema)
            files, size = files + 1, 0
        writer.write_table(table.select(schema.names).cast(schema))
        size += table.nbytes
    if writer is not None:
        writer.close()


@dataclass(frozen=True)
class _Rows:
    """Rows of corpus ``name`` in the order of ``keys``: ids and audio of the raw set, texts of the responses."""

    name: str
    keys: np.ndarray
    raw: Any
    texts: Any

    @property
    def features(self) -> Any:
        """Columns of the released corpus."""
        from datasets import Audio, Features, Value

        texts = ("dataset_name", "context", "audio_description", *ANSWERS, *IDS)
        audio = {"audio": Audio(sampling_rate=16000)} if "audio" in self.raw.column_names else {}
        return Features({**audio, **{name: Value("string") for name in texts}, KEY: Value("int64")})

    def tables(self) -> Iterator[Any]:
        """Arrow tables of a few rows each."""
        import pyarrow as pa

        raw, texts = self.raw.with_format("arrow"), self.texts.with_format("arrow")
        step = _AUDIO_BATCH if "audio" in self.raw.column_names else _BATCH
        for start in range(0, self.keys.size, step):
            part = slice(start, start + step)
            left, right = raw[part], texts[part]
            columns = dict(zip(left.column_names, left.columns, strict=True))
            columns |= dict(zip(right.column_names, right.columns, strict=True))
            columns |= {"dataset_name": pa.array([self.name] * left.num_rows), KEY: pa.array(self.keys[part])}
            yield pa.table(columns)


def _open_rows(name: str, responses: str, split: str, filtered: bool, with_audio: bool) -> _Rows | None:
    """Raw set and responses of a corpus's split, joined by key; None if one of them has no such split."""
    parsed = ResponseName.parse(responses)
    folder = responses_dir(parsed.model, responses)
    indexes = find_split_indexes(name, parsed, split) if filtered else None
    stored = "train" if indexes is not None else split
    if stored not in native_splits(raw_dir(name)) or stored not in native_splits(folder):
        return None
    raw, raw_keys = open_keyed(raw_dir(name), stored, f"raw set {name}")
    table, known = open_keyed(folder, stored, f"responses {responses}")
    keys = np.sort(known) if indexes is None else indexes.keys
    asked_by = f"responses {responses}" if indexes is None else str(indexes.path)
    raw_rows = join_rows(raw_keys, keys, f"raw set {name}", asked_by)
    rows = join_rows(known, keys, f"responses {responses}", asked_by)
    columns = table.column_names
    # audio corpora have prompts to descriptions, instruction sets contexts to questions
    context = next((column for column in ("prompt", "context") if column in columns), None)
    about = next((column for column in ("audio_description", "question") if column in columns), None)
    if context is None or about is None:
        raise UserError(f"responses {responses} lack prompt or description; they have {', '.join(columns)}")
    texts = table.select_columns([context, about, *ANSWERS])
    texts = texts.rename_columns({context: "context", about: "audio_description"})
    raw = raw.select_columns([*IDS, *(["audio"] if with_audio else [])])
    return _Rows(name, keys, raw.select(raw_rows), texts.select(rows))


def _card(release: Release, counts: dict[str, dict[str, int]], repo: str) -> str:
    from huggingface_hub import DatasetCardData

    splits = [split for split in release.splits if any(split in rows for rows in counts.values())]
    # named, because files in a folder raw_train would be taken for more of the split train:
    # https://huggingface.co/docs/hub/datasets-manual-configuration
    data = DatasetCardData(
        license="other",
        task_categories=["audio-text-to-text"],
        tags=["alarm", "audio", "reasoning"],
        configs=[
            {"config_name": "default",
             "data_files": [{"split": split, "path": f"data/{split}/*.parquet"} for split in splits]}
        ],
    )  # fmt: skip
    lines = [
        f"| {name} | {' | '.join(f'{rows.get(split, 0):,}' for split in splits)} | {load_recipe(name).licence} |"
        for name, rows in counts.items()
    ]
    model = ResponseName.parse(next(iter(release.folders.values()))).model
    audio = "The audio is included." if release.with_audio else "The audio is collected from its sources:"
    text = CARD.format(title=repo.split("/")[-1], audio=audio, repo=repo, splits=" | ".join(splits),
                       rule=" | ".join("---:" for _ in splits), rows="\n".join(lines), llm=model)  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def upload(folder: Path, repo: str, private: bool = True) -> str:
    """Send a laid-out folder to the Hub as data set ``repo``; its address.

    What an earlier try has sent is not sent again (the Hub's client compares content). Raises :class:`UserError` when
    the Hub refuses.
    """
    failure = "the Hub did not take the upload ({reason}); is `hf auth login` done?"
    # names with a leading dot are marks of complete corpora, and locks
    sent = send_folder(folder, repo, "dataset", private, failure, ignore_patterns=[".*", "**/.*"])
    return str(sent.repo_url)
