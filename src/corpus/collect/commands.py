"""Command lines of the collectors, and the list of all corpora."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.common.cli import add_overwrite, row_limit, run_cli
from src.common.errors import UserError, explain, one_line
from src.common.log import get_logger
from src.common.paths import raw_dir
from src.corpus.recipe import Options, Recipe
from src.corpus.recipes import is_import_path, load_recipe
from src.dataset.corpus_names import group_of, resolve_names

_log = get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every collector."""
    parser.add_argument(
        "--from-dir", type=Path, metavar="DIR",
        help="folder with upstream files (archives or unpacked; for many corpora, one folder each below it): what is "
        "there is not fetched",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: all processors)")
    parser.add_argument("--as-published", action="store_true", help="the published rows, without the repairs")
    limit_help = "a trial: N files, Hub rows or recordings; below 1: all"
    parser.add_argument("--limit", type=row_limit, metavar="N", help=limit_help)
    parser.add_argument("--check-rows", type=int, default=100, metavar="N", help="rows decoded afterwards; -1: all")
    parser.add_argument("--attempts", type=int, default=30, metavar="N", help="tries at every download (default: 30)")
    parser.add_argument("--keep-downloads", action="store_true", help="do not remove archives once unpacked")
    parser.add_argument("--ignore-space", action="store_true", help="start although the disk seems too small")
    parser.add_argument(
        "--adopt", action="store_true", help="check a set of the published program, record it and leave it as it is"
    )
    add_overwrite(parser, "collect again where a set exists", "--force")


def run_collector(name: str, doc: str | None) -> None:
    """The command of one corpus."""
    recipe = load_recipe(name)
    rows = "?" if recipe.rows is None else f"{recipe.rows:,}"
    notes = [f"{name}: {recipe.title}, {rows} rows. Saved as data/datasets/raw/{name}."]
    notes += [f"Before: {recipe.access}."] if recipe.access else []
    notes += ["Unless --as-published:", *(f"- {repair}" for repair in recipe.repairs)] if recipe.repairs else []
    parser = argparse.ArgumentParser(
        description=f"{doc}\n\n" + "\n".join(notes), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    run_cli(lambda: collect_command([name], parser.parse_args()))


def collect_command(names: list[str], args: argparse.Namespace) -> int:
    """Collect corpora, groups or ``all`` one after the other; one that fails leaves the others alone.

    Returns the exit code: 1 if one failed or its check found problems.
    """
    from src.corpus.collect.build import CollectSettings, collect

    if args.jobs is not None and args.jobs < 0:
        raise UserError(f"--jobs {args.jobs}: expected 0 (no worker processes) or more")
    settings = CollectSettings(
        jobs=args.jobs,
        from_dir=args.from_dir,
        options=Options(args.as_published, args.limit),
        overwrite=args.overwrite,
        adopt=args.adopt,
        keep_downloads=args.keep_downloads,
        check_space=not args.ignore_space,
        check_rows=args.check_rows,
        attempts=args.attempts,
    )
    failed = []
    for name in resolve_names(names, is_set=is_import_path):
        try:
            recipe = load_recipe(name)
            result = collect(recipe, settings)
        except Exception as error:  # other corpora of the command go on
            _log.error("%s: %s", name, error if isinstance(error, UserError) else explain(error) or one_line(error))
            _log.debug("%s", name, exc_info=True)
            failed.append(name)
            continue
        if result:
            rows = ", ".join(f"{split} {count:,} rows" for split, count in result["rows"].items())
            hours = "" if result["hours"] is None else f", {result['hours']:,.2f} h"
            left_out = f"{result['dropped']} dropped, {result['filtered']} not wanted"
            _log.info("%s: %s%s; %s", raw_dir(recipe.name), rows, hours, left_out)
        for problem in result.get("problems", ()):
            _log.error("%s", problem)
        failed += [name] if result.get("problems") else []
    if failed:
        _log.error("not well: %s", ", ".join(failed))
    return int(bool(failed))


def listing(names: list[str]) -> str:
    """A table of corpora: group, rows, hours, licence, size on disk, what is asked for, and what is here."""
    head = ("corpus", "group", "rows", "hours", "GB", "licence", "repairs", "status here", "needs")
    lines = [head, *(_entry(load_recipe(name)) for name in resolve_names(names or ["all"], is_set=is_import_path))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _entry(recipe: Recipe) -> tuple[str, ...]:
    folder = raw_dir(recipe.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    gigabytes = f"{size / 1e9:.1f}"
    if not size:
        expected = None if recipe.hours is None or recipe.gb_per_hour is None else recipe.hours * recipe.gb_per_hour
        gigabytes = "?" if expected is None else f"~{expected:.1f}"
    return (
        recipe.name,
        group_of(recipe.name),
        "?" if recipe.rows is None else f"{recipe.rows:,}",
        "?" if recipe.hours is None else f"{recipe.hours:,.2f}",
        gigabytes,
        recipe.licence,
        str(len(recipe.repairs) or "-"),
        _status(folder),
        recipe.access or "-",
    )


def _status(folder: Path) -> str:
    from src.corpus.collect.build import WORK, completed

    done = completed(folder)
    if done is not None:
        options = [key for key in ("as_published", "limit", "adopted") if done["config"].get(key)]
        rows = sum(done["result"]["rows"].values())
        return f"{rows:,} rows{', ' if options else ''}{', '.join(options)}"
    if (folder / WORK).is_dir():
        return "begun"
    return "not made here" if (folder / "dataset_dict.json").is_file() else "-"
