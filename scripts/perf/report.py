"""Tables of docs/performance.md from the rows that the performance programs wrote.

In:  a folder with NAME.json of each program (scripts/perf/all.sh writes it). Out: performance.json and performance.md
in that folder; with --docs the table of each program is written between its markers <!-- perf:NAME --> and
<!-- /perf:NAME --> in the document, and commit, machine and date between those of "machine".

    python scripts/perf/report.py outputs/perf --docs docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import row_cells, warning
from src.common.cli import run_cli
from src.common.errors import UserError
from src.common.files import write_json, write_text

HEADER = ("", "unit", "ours", "baseline", "ratio")
MACHINE = "machine"
RESULT = "performance"
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Flags of x86 processors that decide about the speed of matrix products, widest first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with NAME.json of the programs")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="document whose tables are replaced")
    args = parser.parse_args()
    found = {file.stem: read_rows(file) for file in sorted(args.folder.glob("*.json")) if file.stem != RESULT}
    if not found:
        raise UserError(
            f"{args.folder}: there is no NAME.json of a performance program; run scripts/perf/all.sh first"
        )
    about = machine()
    write_json(args.folder / f"{RESULT}.json", {**about, "programs": found})
    sections = [f"## {name}\n\n{markdown(rows)}" for name, rows in found.items()]
    write_text(args.folder / f"{RESULT}.md", "\n".join([machine_line(about, found), "", *sections]))
    if args.docs:
        text = args.docs.read_text(encoding="utf-8")
        for name, table in {
            MACHINE: machine_line(about, found),
            **{k: markdown(v) for k, v in found.items()},
        }.items():
            text = replace_part(text, name, table)
        write_text(args.docs, text)
    for name, rows in found.items():
        if (said := disturbed(rows)) is not None:
            print(f"{name}: {said}", file=sys.stderr)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of one program. Raises :class:`UserError` for a file that has none."""
    try:
        rows = [dict(row) for row in json.loads(file.read_text(encoding="utf-8")) if row["name"] and row["range"]]
    except (ValueError, TypeError, KeyError):
        rows = []
    if not rows:
        raise UserError(f"{file}: no rows of a performance program; run the program again, or remove the file")
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one program as a table, medians with their ranges, and under it how they were measured."""
    lines = ["| " + " | ".join(HEADER) + " |", "| " + " | ".join("---" for _ in HEADER) + " |"]
    lines += ["| " + " | ".join(row_cells(row)[: len(HEADER)]) + " |" for row in rows]
    first = rows[0]
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    rounds = max(row["rounds"] for row in rows)
    lines += ["", f"`{first['command']}`: {devices}; median (range) of {rounds} rounds."]
    if (said := disturbed(rows)) is not None:
        lines.append(said.capitalize() + ".")
    return "\n".join(lines) + "\n"


def disturbed(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Message about other work on the cores during a measurement; None for a quiet machine."""
    first = rows[0]
    if "other_cores" not in first or warning(first) is None:
        return None
    return (
        f"other processes used {first['other_cores']:.2f} cores meanwhile, the host took {100 * first['steal']:.1f} %"
    )


def machine() -> dict[str, Any]:
    """Processor and its widest instructions, cores, memory and date."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model, flags = said.get("model name", ""), said.get("flags", "").split()
    widest = next((flag for flag in INSTRUCTIONS if flag in flags), None)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": (model or platform.machine()) + (f" ({widest})" if widest else ""),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "date": datetime.now(UTC).date().isoformat(),
    }


def machine_line(about: Mapping[str, Any], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One sentence with commit, machine, date and duration."""
    commits = ", ".join(dict.fromkeys(str(rows[0]["commit"]) for rows in found.values()))
    minutes = sum(rows[0]["seconds"] for rows in found.values()) / 60
    return (
        f"Measured at commit {commits} on {about['date']}: {about['processor']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB of memory; {minutes:.0f} minutes for {len(found)} programs.\n"
    )


def replace_part(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between the markers of ``name``; unchanged without them."""
    pattern = re.compile(rf"(<!-- perf:{re.escape(name)} -->\n).*?(<!-- /perf:{re.escape(name)} -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + table + match[2], text)


if __name__ == "__main__":
    run_cli(main)
