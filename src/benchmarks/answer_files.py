"""From a run's folder to metadata files with predictions: what ``create_answer_json.py`` does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.benchmarks.answers import JoinedRows, join_answers
from src.benchmarks.registry import BENCHMARKS, benchmark
from src.benchmarks.run_loader import JsonRows, metadata_file, open_hub, open_splits, read_rows, text_rows
from src.benchmarks.scoring import RESPONSE, Benchmark
from src.common.errors import UserError
from src.common.existing import read_record
from src.common.files import write_text
from src.common.log import get_logger
from src.common.naming import generated_name, model_short_name
from src.common.paths import data_root, raw_dir

log = get_logger(__name__)
DATASET, LLM = "mmar", "Qwen/Qwen3-4B-Thinking-2507"
CHECKPOINT = "saved/Qwen3-4B-Thinking-2507/bigdataset_whisper_downsample_conformer/checkpoint-30000"
"""Published defaults of what names a run."""


@dataclass(frozen=True)
class AnswerFile:
    """A written file and what was left out of it (partial joins only)."""

    split: str
    path: Path
    rows: int
    left_out: tuple[str, ...]


def find_run(
    dataset: str,
    checkpoint: str | Sequence[str],
    max_tokens: int,
    max_thinking_tokens: int,
    seed: int | None = None,
    llm: str | None = None,
    tag: str | None = None,
) -> Path:
    """The folder of a run's answers, by what was asked for.

    Without ``llm`` it is the published default's, else that of the only language model that has such a run. Raises
    :class:`UserError` if there is none, or several.
    """
    name = generated_name(data_set_name(dataset), checkpoint, max_tokens, max_thinking_tokens, seed)
    name += f"_{tag}" if tag else ""
    pattern = model_short_name(llm) if llm else "*"
    found = sorted(path for path in (data_root() / "generated").glob(f"{pattern}/{name}") if path.is_dir())
    if len(found) == 1:
        return found[0]
    # the published command line has no --llm: its default decides between runs of the same name
    published = [path for path in found if path.parent.name == model_short_name(LLM)]
    if published:
        return published[0]
    if found:
        raise UserError(
            f"several runs are called {name}: {', '.join(map(str, found))}; name the language model (--llm)"
        )
    raise UserError(
        f"there is no {data_root() / 'generated' / pattern / name}; generate the answers first "
        "(generate_vllm_mcqa.py), or give the run's folder with --run"
    )


def run_dataset(folder: Path) -> str:
    """The data set that a run was asked about.

    It is read from the run's ``run.json``. Answers of another program have none; the folder's name begins with the
    data set's. Raises :class:`UserError` if neither is found.
    """
    try:
        return str(read_record(folder)["config"]["dataset"]["name"])
    except (KeyError, TypeError) as error:
        sets = [path.name for path in raw_dir("x").parent.glob("*") if path.is_dir()]
        named = [name for name in sets if folder.resolve().name.startswith(f"{name}_")]
        if named:  # the longest one: mmar_x also begins with mmar
            return max(named, key=len)
        raise UserError(
            f"{folder} has no run.json that names its data set, and is named after no set in {raw_dir('x').parent}; "
            "give --dataset NAME"
        ) from error


def base_folder(dataset: str) -> Path | None:
    """Folder of the converted set: a name below raw/, or a folder; None if it is neither (a Hub id)."""
    return next((folder for folder in (raw_dir(dataset), Path(dataset)) if folder.is_dir()), None)


def open_base(dataset: str) -> dict[str, Any]:
    """Splits of the data set that a run was asked about. Raises :class:`UserError` if there is none of that name."""
    folder = base_folder(dataset)
    if folder is not None:
        return open_splits(folder)
    # ORG/NAME is a Hub id; the benchmarks' own Hub data sets are not in the common columns
    if dataset in BENCHMARKS or dataset.count("/") != 1 or dataset.startswith((".", "/")):
        raise UserError(f"no data set {dataset!r}: there is no {raw_dir(dataset)}; convert it first")
    return open_hub(dataset)


def data_set_name(dataset: str) -> str:
    """Name of a data set in file names and tables: a folder's last part."""
    return Path(dataset).name if dataset.startswith(("/", ".")) else dataset


def read_metadata(dataset: str, split: str, base: JsonRows) -> JsonRows | None:
    """Metadata of a split: the kept file, for unknown benchmarks without one the set's own columns, else None."""
    folder = base_folder(dataset)
    if folder is not None and metadata_file(folder, split).is_file():
        return read_rows(metadata_file(folder, split)).rows
    # the converted set of a known benchmark lacks the columns of its groups: no scores, rather than other ones
    return None if dataset in BENCHMARKS else base


@dataclass(frozen=True)
class AnsweredSplit:
    """A split of a run: metadata with predictions, the run's saved rows, and the data set's split (with audio)."""

    split: str
    joined: JoinedRows
    answers: JsonRows
    data: Any


def join_run(
    run: Path, dataset: str | None = None, *, partial: bool = False, keys: Sequence[str] = ()
) -> tuple[Benchmark, list[AnsweredSplit]]:
    """Join a run's answers with the metadata of its benchmark, split by split.

    Splits without answers or metadata are passed over with a message. Raises :class:`UserError` if none is left or
    rows do not belong together.
    """
    name = dataset or run_dataset(run)
    answers, base = open_splits(run), open_base(name)
    spec = benchmark(data_set_name(name))
    found = []
    for split, data in base.items():
        if split not in answers:
            log.info("%s: no answers to the split %s; passed over", run, split)
            continue
        rows = text_rows(data)
        metadata = read_metadata(name, split, rows)
        if metadata is None:
            log.warning("%s has no metadata of the split %s; passed over", name, split)
            continue
        saved = text_rows(answers[split])
        joined = join_answers(spec, rows, saved, metadata, where=f"{run} ({split})", partial=partial, keys=keys)
        for problem in joined.left_out:
            log.warning("%s (%s): %s; left out", run, split, problem)
        found.append(AnsweredSplit(split, joined, saved, data))
    if not found:
        raise UserError(
            f"{run}: no split has both answers and metadata; the run has {', '.join(answers)}, "
            f"{name} has {', '.join(base)}"
        )
    return spec, found


def write_answers(
    run: Path, dataset: str | None = None, *, partial: bool = False, keys: Sequence[str] = ()
) -> list[AnswerFile]:
    """Write ``RUN/metadata/{split}_metadata.json`` for each split that :func:`join_run` finds.

    With the key ``response`` the letter replies that official scripts read are also written as JSON lines next to it.
    """
    written = []
    for found in join_run(run, dataset, partial=partial, keys=keys)[1]:
        path, joined = metadata_file(run, found.split), found.joined
        write_text(path, json.dumps(joined.rows, indent=4))  # as published: indent 4, other characters escaped
        if RESPONSE in keys:
            write_text(path.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in joined.rows))
        written.append(AnswerFile(found.split, path, len(joined.rows), joined.left_out))
    return written


def parse_checkpoints(text: str) -> str | list[str]:
    """Checkpoints of a command line: several are separated by commas and, as published, not trimmed.

    A list as Hydra programs take it (``[A,B]``, ``["A","B"]``) is read as they read it.
    """
    listed = text.startswith("[") and text.endswith("]")
    names = [name.strip() for name in text[1:-1].split(",")] if listed else text.split(",")
    names = [name[1:-1] if re.fullmatch(r"""(['"]).*\1""", name, re.DOTALL) else name for name in names]
    return names[0] if len(names) == 1 else names


def write_command(args: Any) -> list[AnswerFile]:
    """Run ``create_answer_json.py`` with its parsed arguments."""
    run, dataset = args.run, args.dataset
    if run is None:
        dataset = dataset or DATASET
        run = find_run(
            dataset, parse_checkpoints(args.checkpoint or CHECKPOINT), args.max_tokens, args.max_thinking_tokens,
            args.seed, args.llm, args.tag,
        )  # fmt: skip
    return write_answers(run, dataset, partial=args.partial, keys=args.key)
