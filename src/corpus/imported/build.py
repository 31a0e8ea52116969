"""Import a user's data: collect a source's rows as a raw set, draw the splits, and report what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import ConfigError, UserError
from src.common.files import read_json_lines, write_json
from src.common.log import get_logger
from src.common.paths import indexes_dir, raw_dir
from src.corpus.collect.build import DROPPED, CollectSettings, collect
from src.corpus.imported.recipe import RECIPE, ImportJob, cell_rows
from src.corpus.imported.row import Columns, checked
from src.corpus.imported.sources import fingerprint, is_rows_source, open_source
from src.corpus.recipe import HubRows, Inputs, Options, Recipe
from src.dataset.corpus_names import all_corpora, groups
from src.dataset.splits import index_problem, read_indexes, write_indexes
from src.dataset.tables import open_keyed

_log = get_logger(__name__)
REPORT = "import_report.json"
_SHOWN = 20
PROMPTS = {"speech": "Transcribe the audio.", "caption": "Describe the audio."}
"""The prompt of rows that have none of their own, by what their texts are."""
_SPLITS = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "validation"}
"""Other names of a source's validation split."""


@dataclass(frozen=True)
class ImportSettings:
    """How a user's data are imported; :data:`ABOUT` explains each."""

    columns: str | None = None
    text_type: str = "speech"
    prompt: str | None = None
    split_fraction: float = 0.1
    split_seed: int = 123
    split_group: str | None = None
    revision: str = "main"
    config: str | None = None
    limit: int | None = None
    jobs: int | None = None
    check_rows: int = 100

    def __post_init__(self) -> None:
        if self.text_type not in PROMPTS:
            raise ConfigError(f"--text-type {self.text_type}: expected {' or '.join(PROMPTS)}")
        if not 0 <= self.split_fraction < 1:
            raise ConfigError(f"--split-fraction {self.split_fraction}: expected 0 <= share < 1")
        if self.jobs is not None and self.jobs < 0:
            raise ConfigError(f"--jobs {self.jobs}: expected 0 (no worker processes) or more")


ABOUT = {
    "columns": "FIELD=COLUMN,…: columns of audio, text, prompt, system, messages, id, group, split with other names",
    "text_type": "what the texts are, for the clip's description: speech (words that are spoken) or caption",
    "prompt": f"the user's text of rows without one; usually {PROMPTS['speech']!r}, captions: {PROMPTS['caption']!r}",
    "split_fraction": "share of validation rows, unless the source has some",
    "split_seed": "seed of their draw",
    "split_group": "column whose rows of one value (speaker, session) are in one split; usually those of one clip",
    "revision": "of a data set of the Hub",
    "config": "configuration of a data set of the Hub",
    "limit": "a trial: only the first rows",
    "jobs": "worker processes; usually one for each processor",
    "check_rows": "rows whose audio is decoded again at the end; -1: all",
}


def import_dataset(source: str, name: str, settings: ImportSettings, overwrite: bool = False) -> dict[str, Any]:
    """Make the raw set ``name`` and its split indexes; returns the report.

    A set that the same command has completed is kept; a killed run continues. Raises :class:`UserError` if the
    source cannot be read, nothing of it is left, or the name is taken.
    """
    if name in {*all_corpora(), *groups(), "all"} or not name or "/" in name or name.startswith("."):
        raise ConfigError(f"--name {name!r}: the name of a corpus or group of this project, or no folder name")
    recipe, from_dir = _recipe(source, name, settings)
    drawn = {"fraction": settings.split_fraction, "seed": settings.split_seed}
    path = raw_dir(name) / REPORT
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text(encoding="utf-8")).get("split_draw", drawn)
        if before != drawn:
            has, wanted = (
                ", ".join(f"--split-{key} {value}" for key, value in each.items()) for each in (before, drawn)
            )
            raise UserError(
                f"{raw_dir(name)}: its validation rows were drawn with {has}, not {wanted}; --overwrite replaces it"
            )
    result = collect(
        recipe,
        CollectSettings(
            jobs=settings.jobs,
            from_dir=from_dir,
            options=Options(limit=settings.limit),
            overwrite=overwrite,
            check_rows=settings.check_rows,
        ),
    )
    if not result:
        raise UserError(f"{raw_dir(name)} was not imported from {source}; choose another --name, or --overwrite")
    splits = _splits(name, settings)
    left_out = list(read_json_lines(raw_dir(name) / DROPPED))
    reasons = [each["reason"] for each in left_out]
    kinds = Counter(reason.partition(":")[0] if ":" in reason else "other" for reason in reasons)
    report = {
        "source": source,
        "rows": sum(splits.values()),
        "splits": splits,
        "split_draw": drawn,
        "hours": result["hours"],
        "left_out": len(left_out),
        "reasons": dict(kinds.most_common()),
        "problems": result["problems"],
        "rows_left_out": [
            {"row": each["unique_id_1"], "audio": each["unique_id_2"], "reason": each["reason"]} for each in left_out
        ],
    }
    write_json(path, report)
    return report


def log_report(name: str, report: dict[str, Any]) -> None:
    """Log the rows that were left out, by their place in the source, and the counts."""
    for each in report["rows_left_out"][:_SHOWN]:
        _log.warning("left out: %s: %s", each["row"], each["reason"])
    if report["left_out"] > _SHOWN:
        _log.warning("left out: %d more, listed in %s", report["left_out"] - _SHOWN, raw_dir(name) / REPORT)
    for problem in report["problems"]:
        _log.error("%s", problem)
    counts = ", ".join(f"{split} {count:,}" for split, count in report["splits"].items())
    reasons = ", ".join(f"{count} {kind}" for kind, count in report["reasons"].items())
    _log.info("%s: %s rows (%s), %.2f h", raw_dir(name), f"{report['rows']:,}", counts, report["hours"] or 0.0)
    _log.info("left out: %d rows%s; %s", report["left_out"], f" ({reasons})" if reasons else "",
              raw_dir(name) / REPORT)  # fmt: skip


def _recipe(source: str, name: str, settings: ImportSettings) -> tuple[Recipe, Path | None]:
    """The recipe of a source, and the folder of a saved set."""
    given = Columns.parse(settings.columns, settings.split_group)
    prompt = PROMPTS[settings.text_type] if settings.prompt is None else settings.prompt
    facts: dict[str, Any] = {"source": source, "columns": dict(given.given)}
    facts |= {"text_type": settings.text_type, "prompt": prompt}
    hub: tuple[HubRows, ...] = ()
    folder = None
    if is_rows_source(source):
        path = Path(source).expanduser()
        folder = path if path.is_dir() else None
        hub = (HubRows("" if folder else source, settings.revision, None, settings.config, verify=False),)
        facts |= {"revision": settings.revision, "config": settings.config}
        facts["fingerprint"] = fingerprint(sorted(path.rglob("*.*"))) if folder else None
    else:
        read, facts["fingerprint"] = open_source(source, given)

    def jobs(inputs: Inputs) -> Iterator[ImportJob]:
        for row in checked(cell_rows(inputs.rows, given) if hub else read()):
            yield (row if row.prompt else replace(row, prompt=prompt)), settings.text_type

    # only this process lists the jobs: they are sent to the workers, which load RECIPE itself
    work = replace(RECIPE.work, jobs=jobs)
    audio = given.given.get("audio", "audio")
    return replace(RECIPE, name=name, sources=hub, work=work, audio=audio, settings=facts), folder


def _splits(name: str, settings: ImportSettings) -> dict[str, int]:
    """Write the indexes of the splits, unless they are there and of these rows; returns the rows of each.

    A source's own splits stay as they are. If none of them is for validation, it is drawn from the training rows,
    those of one group (``--split-group``, else of one clip) together.
    """
    folder = indexes_dir(name)
    table, keys = open_keyed(raw_dir(name), "train", f"raw set {name}")
    texts = table.select_columns(["split_group", "source_split"]).with_format("arrow")[:]
    assigned = [_SPLITS.get(each, each) or "train" for each in texts.column("source_split").to_pylist()]
    if "validation" not in assigned:
        places = [place for place, split in enumerate(assigned) if split == "train"]
        groups_of = texts.column("split_group").to_pylist()
        drawn = draw_groups([groups_of[place] for place in places], settings)
        for place, split in zip(places, drawn, strict=True):
            assigned[place] = split
    chosen = {split: keys[np.array([each == split for each in assigned])] for split in dict.fromkeys(assigned)}
    for split in ("train", "validation"):
        chosen.setdefault(split, keys[:0])
    there = {} if index_problem(folder) else read_indexes(folder)
    if there.keys() != chosen.keys() or any(not np.array_equal(there[split], chosen[split]) for split in chosen):
        for split, part in chosen.items():
            write_indexes(folder, split, part)
        for obsolete in there.keys() - chosen.keys():
            (folder / f"{obsolete}_indexes.npy").unlink()
    return {split: int(part.size) for split, part in sorted(chosen.items())}


def draw_groups(groups: list[str], settings: ImportSettings) -> list[str]:
    """``train`` or ``validation`` of each row: groups in drawn order until the share of the rows is reached."""
    counts = Counter(groups)
    names = sorted(counts)
    # RandomState, whose numbers stay the same in every version: https://numpy.org/doc/stable/reference/random/legacy.html
    order = np.random.RandomState(settings.split_seed).permutation(len(names))
    wanted, held, validation = int(len(groups) * settings.split_fraction), 0, set()
    for place in order:
        # a group that is too large is passed over, so that a later and smaller one may still fill the share
        if held + counts[names[place]] <= wanted:
            validation.add(names[place])
            held += counts[names[place]]
    return ["validation" if each in validation else "train" for each in groups]
