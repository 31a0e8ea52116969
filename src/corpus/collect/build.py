"""Collect one corpus: everything from its sources to a checked raw set; finished work is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.existing import next_step, set_problem
from src.common.files import json_lines, read_json_lines, write_json, write_text
from src.common.lock import locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import raw_dir
from src.common.retry import RetryPolicy
from src.common.run_record import write_run_record
from src.corpus.collect.arrow_writer import SplitOrder, open_batch, sort_rows, write_splits
from src.corpus.collect.check import check_raw_set
from src.corpus.collect.row_batches import make_batches
from src.corpus.collect.sources import Workspace, gather, given_folder
from src.corpus.recipe import IDS, Inputs, Options, Recipe
from src.dataset.tables import KEY, native_splits, open_split
from src.dataset.writer import move_in

_log = get_logger(__name__)
COMPLETED, DROPPED, WORK = ".completed", "dropped.jsonl", ".work"
_MANY = 0.02
"""Share of dropped rows from which on they are a warning."""


@dataclass(frozen=True)
class CollectSettings:
    """How to collect.

    ``jobs`` are worker processes (default: one for each processor; 0: none, for debugging); ``from_dir`` has
    upstream files that are there already; ``attempts`` are tries at each download; ``overwrite`` discards a set that
    exists; ``adopt`` records one that the published program made; ``keep_downloads`` leaves archives.
    """

    jobs: int | None = None
    from_dir: Path | None = None
    options: Options = field(default_factory=Options)
    overwrite: bool = False
    adopt: bool = False
    keep_downloads: bool = False
    check_space: bool = True
    check_rows: int = 100
    attempts: int = RetryPolicy.attempts


def collect(recipe: Recipe, settings: CollectSettings) -> dict[str, Any]:
    """Build ``raw/NAME``; returns counts: rows, hours, dropped, filtered, problems that the check found.

    A set that is complete is skipped, whoever made it; then, where this program has no counts of it, the result is
    empty. Raises :class:`UserError` for faults that the user can fix.
    """
    folder = raw_dir(recipe.name)
    config = {"recipe": recipe.name, "version": recipe.version, **recipe.settings, **asdict(settings.options)}
    if not settings.overwrite and (result := _completed_result(recipe, folder, config)) is not None:
        return result
    with locked_folders([folder]) as changed:
        return _collect(recipe, folder, config, settings, may_discard(settings.overwrite, changed, folder))


def completed(folder: Path) -> dict[str, Any] | None:
    """The mark of a finished set, or ``None``."""
    mark = folder / COMPLETED
    found: dict[str, Any] | None = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    return found


def _completed_result(recipe: Recipe, folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Counts of a set that is complete, ``None`` if there is none. Raises :class:`UserError` for other options."""
    done = completed(folder)
    if done is None:
        return None
    if done["config"] != config and not done["config"].get("adopted"):
        has, wanted = (
            ", ".join(f"{key}={value}" for key, value in each.items() if key != "recipe")
            for each in (done["config"], config)
        )
        raise UserError(f"{folder} was made with {has}, not {wanted}; --overwrite replaces it")
    next_step(f"raw set {recipe.name}", folder, None)
    return dict(done["result"])


def _collect(
    recipe: Recipe, folder: Path, config: dict[str, Any], settings: CollectSettings, overwrite: bool
) -> dict[str, Any]:
    """Build the set in its folder, which is locked; another run may have completed it meanwhile."""
    if not overwrite and (result := _completed_result(recipe, folder, config)) is not None:
        return result
    texts = ("question", "context") if recipe.text_type == "none" else ("audio_description", "duration")
    needed = ("audio", *texts, *IDS, KEY)  # by every later stage
    # downloads and work are no set yet
    has_set = any(any(folder.glob(each)) for each in ("dataset_dict.json", "*/state.json", "*/*.arrow"))
    if settings.adopt:
        if not has_set:
            raise UserError(f"{folder} has no saved set that could be adopted; collect {recipe.name} without --adopt")
        return _adopt(recipe, folder, config, set_problem(folder, needed), settings.check_rows)
    if completed(folder) is None and has_set:
        problem = set_problem(folder, needed)
        other = "--adopt to check and keep it" if problem is None else "move it to another folder to keep it"
        what, ours = f"raw set {recipe.name}", (folder / WORK).is_dir()
        if next_step(what, folder, problem, ours=ours, overwrite=overwrite, other_name=other) == "skip":
            return {}
    work = Workspace(folder / WORK, given_folder(settings.from_dir, recipe))
    mark = work.folder / "config.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) != config:
        for name in ("parts", "set"):  # rows made with other options are of no use; downloads are
            shutil.rmtree(work.folder / name, ignore_errors=True)
    write_json(mark, config)
    policy = RetryPolicy(settings.attempts)
    inputs = gather(recipe, work, settings.options, settings.check_space, settings.keep_downloads, policy)
    processes = len(os.sched_getaffinity(0)) if settings.jobs is None else settings.jobs
    result = _build(recipe, inputs, work.folder, folder, processes)
    result["problems"] = check_raw_set(recipe, folder, settings.check_rows, settings.options.as_published)
    write_run_record(folder, config, sources=[asdict(source) for source in recipe.sources], result=result)
    write_json(folder / COMPLETED, {"config": config, "result": result})
    if settings.keep_downloads:
        for name in ("parts", "set", "tree"):
            shutil.rmtree(work.folder / name, ignore_errors=True)
    else:
        shutil.rmtree(work.folder)
    return result


def _adopt(
    recipe: Recipe, folder: Path, config: dict[str, Any], problem: str | None, check_rows: int
) -> dict[str, Any]:
    """Check a set that the published program made and record it; returns its counts. Its files stay as they are.

    Raises :class:`UserError` if it is not as the published program writes it.
    """
    problems = [problem] if problem else check_raw_set(recipe, folder, check_rows, as_published=True)
    if problems:
        raise UserError(f"{folder} cannot be adopted: {'; '.join(problems)}")
    rows = {split: len(open_split(folder, split, folder.name)) for split in native_splits(folder)}
    published = {"rows": recipe.rows, "hours": recipe.hours}
    nothing: dict[str, Any] = {"dropped": 0, "filtered": 0, "problems": []}
    result = {"rows": rows, "hours": _hours_of(recipe, folder), "published": published, **nothing}
    config = {**config, "as_published": True, "limit": None, "adopted": True}
    write_run_record(folder, config, result=result)
    write_json(folder / COMPLETED, {"config": config, "result": result})
    return result


def _build(recipe: Recipe, inputs: Inputs, work: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Both passes; the final set is written next to the work and moved in place of an older one."""
    from tqdm import tqdm

    counts, batches = Counter({"rows": 0, "dropped": 0, "filtered": 0}), 0
    with tqdm(desc=recipe.name, total=recipe.rows, unit=" rows", unit_scale=True) as bar:
        for each in make_batches(recipe, inputs, work / "parts", processes):
            counts.update(asdict(each))
            batches += 1
            bar.update(each.rows)
            bar.set_postfix_str(f"{each.dropped} dropped" if each.dropped else "")
    paths = [work / "parts" / f"{number:06d}.arrow" for number in range(batches)]
    dropped = [entry for path in paths for entry in read_json_lines(path.with_suffix(".dropped.jsonl"))]
    if counts["rows"] == 0:
        first = f"; the first reason: {dropped[0]['reason']}" if dropped else ""
        raise UserError(f"{recipe.name}: no row could be made, {counts['dropped']} were dropped{first}")
    orders = sort_rows(paths, keep_repeated=inputs.options.as_published)
    for order in () if inputs.options.as_published else orders:
        for first_id, second_id in order.repeated:
            ids = {"unique_id_1": first_id, "unique_id_2": second_id}
            dropped.append({**ids, "reason": "an earlier row has the same pair of ids"})
    open_batch.cache_clear()
    target = _begin_set(work, paths, orders)
    rows = {order.split: int(order.order.size) for order in orders}
    total = sum(rows.values())
    with tqdm(desc=f"{recipe.name}: saving", total=total, unit=" rows", unit_scale=True) as bar:
        for count in write_splits(recipe, inputs, paths, orders, target, processes):
            bar.update(count)
    # first: killed between these lines, a folder with the new set must not have the mark of the old one
    (folder / COMPLETED).unlink(missing_ok=True)
    move_in(target, folder)
    write_text(folder / DROPPED, json_lines(dropped))
    if dropped:
        level = _log.warning if len(dropped) > _MANY * (total + len(dropped)) else _log.info
        level("%s: %d rows dropped, listed with reasons in %s", recipe.name, len(dropped), folder / DROPPED)
    return {
        "rows": rows,
        "hours": _hours_of(recipe, folder),
        "dropped": len(dropped),
        "filtered": counts["filtered"],
        "published": {"rows": recipe.rows, "hours": recipe.hours},
    }


def _begin_set(work: Path, batches: list[Path], orders: list[SplitOrder]) -> Path:
    """Folder of the new set; shards of a stopped run are kept if they are of the same order of the same batches."""
    digest = hashlib.blake2b(digest_size=12)
    for order in orders:
        digest.update(order.split.encode() + order.order.tobytes() + repr(order.bounds).encode())
    for path in batches:
        stat = path.stat()
        small = stat.st_size < 4096
        digest.update(path.read_bytes() if small else f"{stat.st_size} {stat.st_mtime_ns}".encode())
    target = work / "set"
    mark = target / ".order"
    if not mark.is_file() or mark.read_text() != digest.hexdigest():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        mark.write_text(digest.hexdigest())
    return target


def _hours_of(recipe: Recipe, folder: Path) -> float | None:
    """Hours of all rows of a saved set; ``None`` for instruction sets, which state no duration."""
    if "duration" not in recipe.columns:
        return None
    import pyarrow.compute as pc
    from datasets import load_from_disk

    seconds = [pc.sum(rows.data.column("duration")).as_py() or 0.0 for rows in load_from_disk(str(folder)).values()]
    return round(sum(seconds, 0.0) / 3600, 4)
