"""Collect one corpus: everything from its sources to a checked raw set; what is finished is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.collection.retry import Patience
from src.common.errors import UserError
from src.common.existing import next_step, set_problem
from src.common.json_lines import json_lines, read_json_lines
from src.common.lock import held, may_discard
from src.common.log import get_logger
from src.common.paths import raw_dir
from src.common.run_record import write_json, write_run_record, write_text
from src.corpus.collect.check import check_raw_set
from src.corpus.collect.parts import PartResult, drop_stale, make_parts
from src.corpus.collect.shards import SplitOrder, open_part, sort_rows, write_splits
from src.corpus.collect.sources import Workspace, gather, given_folder
from src.corpus.recipe import IDS, Inputs, Options, Recipe
from src.dataset.tables import KEY, native_splits, open_split
from src.dataset.writer import move_in

_log = get_logger(__name__)
COMPLETED, DROPPED, WORK = ".completed", "dropped.jsonl", ".work"
_MANY = 0.02
"""Share of dropped rows from which on a build says so aloud."""


@dataclass(frozen=True)
class CollectSettings:
    """How to collect.

    ``jobs`` are worker processes (default: one for each processor; 0: none, for debugging); ``from_dir`` holds
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
    attempts: int = Patience.attempts


def collect(recipe: Recipe, settings: CollectSettings) -> dict[str, Any]:
    """Build ``raw/NAME``; returns counts: rows, hours, dropped, filtered, problems that the check found.

    A set that is complete is skipped, whoever made it; then, where this program has no counts of it, the result is
    empty. Raises :class:`UserError` for what the user can fix.
    """
    folder = raw_dir(recipe.name)
    config = {"recipe": recipe.name, "version": recipe.version, **asdict(settings.options)}
    if not settings.overwrite and (result := _completed_result(recipe, folder, config)) is not None:
        return result
    with held([folder]) as changed:
        return _collect(recipe, folder, config, settings, may_discard(settings.overwrite, changed, folder))


def _completed_result(recipe: Recipe, folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Counts of a set that is complete, ``None`` if there is none. Raises :class:`UserError` for other options."""
    done = completed(folder)
    if done is None:
        return None
    if done["config"] != config and not done["config"].get("adopted"):
        raise UserError(
            f"{folder} was made with {_options(done['config'])}, not {_options(config)}; --overwrite replaces it"
        )
    next_step(f"raw set {recipe.name}", folder, None)
    return dict(done["result"])


def _collect(
    recipe: Recipe, folder: Path, config: dict[str, Any], settings: CollectSettings, overwrite: bool
) -> dict[str, Any]:
    """Build the set in its folder, which is held; another run may have completed it meanwhile."""
    if not overwrite and (result := _completed_result(recipe, folder, config)) is not None:
        return result
    if settings.adopt:
        return adopt(recipe, folder, config, settings.check_rows)
    if completed(folder) is None and _has_set(folder):
        problem = set_problem(folder, _needed(recipe))
        other = "--adopt to check and keep it" if problem is None else "move it to another folder to keep it"
        what, ours = f"raw set {recipe.name}", (folder / WORK).is_dir()
        if next_step(what, folder, problem, ours=ours, overwrite=overwrite, other_name=other) == "skip":
            return {}
    work = Workspace(folder / WORK, given_folder(settings.from_dir, recipe))
    _discard_other_work(work.folder, config)
    patience = Patience(settings.attempts)
    inputs = gather(recipe, work, settings.options, settings.check_space, settings.keep_downloads, patience)
    result = _build(recipe, inputs, work.folder, folder, _processes(settings.jobs))
    problems = check_raw_set(recipe, folder, settings.check_rows, settings.options.as_published)
    result["problems"] = problems
    write_run_record(folder, config, sources=[asdict(source) for source in recipe.sources], result=result)
    write_json(folder / COMPLETED, {"config": config, "result": result})
    _clean(work, settings.keep_downloads)
    return result


def adopt(recipe: Recipe, folder: Path, config: dict[str, Any], check_rows: int) -> dict[str, Any]:
    """Check a set that the published program made and record it; returns its counts. Its files stay as they are.

    Raises :class:`UserError` if there is no set, or if it is not what the published program writes.
    """
    if not _has_set(folder):
        raise UserError(f"{folder} has no saved set that could be adopted; collect {recipe.name} without --adopt")
    problem = set_problem(folder, _needed(recipe))
    problems = [problem] if problem else check_raw_set(recipe, folder, check_rows, as_published=True)
    if problems:
        raise UserError(f"{folder} cannot be adopted: {'; '.join(problems)}")
    rows = {split: len(open_split(folder, split, folder.name)) for split in native_splits(folder)}
    published = {"rows": recipe.rows, "hours": recipe.hours}
    nothing: dict[str, Any] = {"dropped": 0, "filtered": 0, "problems": []}
    result = {"rows": rows, "hours": hours_of(recipe, folder), "published": published, **nothing}
    config = {**config, "as_published": True, "limit": None, "adopted": True}
    write_run_record(folder, config, result=result)
    write_json(folder / COMPLETED, {"config": config, "result": result})
    return result


def _has_set(folder: Path) -> bool:
    """Whether there is a saved set in the folder, or a part of one, and not only downloads."""
    return any(folder.glob("dataset_dict.json")) or any(folder.glob("*/state.json")) or any(folder.glob("*/*.arrow"))


def _needed(recipe: Recipe) -> tuple[str, ...]:
    """Columns that every later stage reads."""
    texts = ("question", "context") if recipe.text_type == "none" else ("audio_description", "duration")
    return ("audio", *texts, *IDS, KEY)


def completed(folder: Path) -> dict[str, Any] | None:
    """The mark of a finished set, or ``None``."""
    mark = folder / COMPLETED
    found: dict[str, Any] | None = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    return found


def _options(config: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items() if key != "recipe")


def _processes(jobs: int | None) -> int:
    return len(os.sched_getaffinity(0)) if jobs is None else jobs


def _discard_other_work(work: Path, config: dict[str, Any]) -> None:
    """Rows made with other options are of no use; downloads are."""
    mark = work / "config.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) != config:
        shutil.rmtree(work / "parts", ignore_errors=True)
        shutil.rmtree(work / "set", ignore_errors=True)
    write_json(mark, config)


def _clean(work: Workspace, keep_downloads: bool) -> None:
    if not keep_downloads:
        shutil.rmtree(work.folder)
        return
    for name in ("parts", "set", "tree"):
        shutil.rmtree(work.folder / name, ignore_errors=True)


def _build(recipe: Recipe, inputs: Inputs, work: Path, folder: Path, processes: int) -> dict[str, Any]:
    parts = work / "parts"
    results = list(_with_progress(recipe, make_parts(recipe, inputs, parts, processes)))
    drop_stale(parts, len(results))
    counts = Counter({key: 0 for key in ("rows", "dropped", "filtered")})
    for each in results:
        counts.update(asdict(each))
    paths = [parts / f"{number:06d}.arrow" for number in range(len(results))]
    dropped = _dropped(paths)
    if counts["rows"] == 0:
        first = f"; the first reason: {dropped[0]['reason']}" if dropped else ""
        raise UserError(f"{recipe.name}: no row could be made, {counts['dropped']} were dropped{first}")
    orders = sort_rows(paths, keep_repeated=inputs.options.as_published)
    for order in () if inputs.options.as_published else orders:
        for first_id, second_id in order.repeated:
            ids = {"unique_id_1": first_id, "unique_id_2": second_id}
            dropped.append({**ids, "reason": "an earlier row has the same pair of ids"})
    open_part.cache_clear()
    _save(recipe, inputs, paths, orders, work, folder, processes)
    _write_dropped(folder, dropped)
    return _result(recipe, folder, orders, counts, dropped)


def _with_progress(recipe: Recipe, results: Iterator[PartResult]) -> Iterator[PartResult]:
    from tqdm import tqdm

    with tqdm(desc=recipe.name, total=recipe.rows, unit=" rows", unit_scale=True) as bar:
        for result in results:
            bar.update(result.rows)
            bar.set_postfix_str(f"{result.dropped} dropped" if result.dropped else "")
            yield result


def _save(
    recipe: Recipe, inputs: Inputs, parts: list[Path], orders: list[SplitOrder], work: Path, folder: Path, jobs: int
) -> None:
    """Write the final set beside the work and put it in place of an older one."""
    from tqdm import tqdm

    target = work / "set"
    digest = hashlib.blake2b(digest_size=12)
    for order in orders:
        digest.update(order.split.encode() + order.order.tobytes() + repr(order.bounds).encode())
    digest.update(b"".join(path.read_bytes() if path.stat().st_size < 4096 else _stamp(path) for path in parts))
    mark = target / ".order"
    if not mark.is_file() or mark.read_text() != digest.hexdigest():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        mark.write_text(digest.hexdigest())
    total = sum(order.order.size for order in orders)
    with tqdm(desc=f"{recipe.name}: saving", total=total, unit=" rows", unit_scale=True) as bar:
        for rows in write_splits(recipe, inputs, parts, orders, target, jobs):
            bar.update(rows)
    (folder / COMPLETED).unlink(missing_ok=True)
    move_in(target, folder)


def _stamp(path: Path) -> bytes:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}".encode()


def _dropped(parts: list[Path]) -> list[dict[str, str]]:
    return [entry for path in parts for entry in read_json_lines(path.with_suffix(".dropped.jsonl"))]


def _write_dropped(folder: Path, dropped: list[dict[str, str]]) -> None:
    write_text(folder / DROPPED, json_lines(dropped))


def _result(
    recipe: Recipe, folder: Path, orders: list[SplitOrder], counts: Counter[str], dropped: list[dict[str, str]]
) -> dict[str, Any]:
    rows = {order.split: int(order.order.size) for order in orders}
    total = sum(rows.values())
    if dropped:
        level = _log.warning if len(dropped) > _MANY * (total + len(dropped)) else _log.info
        level("%s: %d rows dropped, listed with reasons in %s", recipe.name, len(dropped), folder / DROPPED)
    return {
        "rows": rows,
        "hours": hours_of(recipe, folder),
        "dropped": len(dropped),
        "filtered": counts["filtered"],
        "published": {"rows": recipe.rows, "hours": recipe.hours},
    }


def hours_of(recipe: Recipe, folder: Path) -> float | None:
    """Hours of all rows of a saved set; ``None`` for instruction sets, which state no duration."""
    if "duration" not in recipe.columns:
        return None
    import pyarrow.compute as pc
    from datasets import load_from_disk

    total = 0.0
    for rows in load_from_disk(str(folder)).values():
        total += pc.sum(rows.data.column("duration")).as_py() or 0.0
    return round(total / 3600, 4)
