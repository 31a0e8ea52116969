"""Common parts of the performance programs: command line, alternating rounds, other work on the machine, rows.

Every figure is the median of ``--rounds`` rounds, and is shown with its range. In each round all ways run one after
another, and every other round in the reverse order, so that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from src.common.files import write_json
from src.common.run_record import git_state

T = TypeVar("T")
ROUNDS = 3
OTHER_CORES = 0.1
"""Cores that other processes may keep busy on average before a warning."""
STEAL = 0.02
"""Share of the machine's time that the host may take before a warning."""
PRIVATE_OPTIONS = ("--json", "--root", "--folder", "--out")
"""Options with paths of this machine; they are left out of the recorded command."""


@dataclass(frozen=True)
class BenchRow:
    """One measured quantity: ours and the straightforward way's on the same machine in the same run.

    ``ours`` and ``baseline`` are the values of each round; ``baseline`` is None where the straightforward way could
    not do it at all. ``unit`` with ``/s`` in it is a rate, where more is better, and so is a share of a peak (``%``);
    anything else is a cost.
    """

    name: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float] | None
    device: str

    @property
    def ratios(self) -> list[float] | None:
        """How many times better ours is, round by round."""
        if self.baseline is None:
            return None
        more_is_better = "/s" in self.unit or self.unit == "%"
        pairs = zip(self.ours, self.baseline, strict=True)
        return [ours / other if more_is_better else other / ours for ours, other in pairs]

    def as_dict(self) -> dict[str, Any]:
        """The row as it is written: medians under the names of the fields, and the ranges as ``[least, most]``."""
        series = {"ours": self.ours, "baseline": self.baseline, "ratio": self.ratios}
        found: dict[str, Any] = {"name": self.name, "unit": self.unit, "device": self.device}
        found |= {key: None if values is None else statistics.median(values) for key, values in series.items()}
        found["range"] = {
            key: None if values is None else [min(values), max(values)] for key, values in series.items()
        }
        return found | {"rounds": len(self.ours)}


class OtherWork:
    """Watches what else takes the machine's cores: other processes, and the host of a virtual machine (steal)."""

    def __init__(self) -> None:
        self._began, self._machine, self._own = time.monotonic(), _machine_seconds(), _own_seconds()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def read(self) -> dict[str, float] | None:
        """Since the start: mean ``other_cores`` and the ``steal`` share; None where there is no ``/proc/stat``."""
        now, seconds = _machine_seconds(), max(self.seconds, 1e-3)
        if now is None or self._machine is None:
            return None
        busy, steal = (after - before for after, before in zip(now, self._machine, strict=True))
        others = max(0.0, busy - (_own_seconds() - self._own)) / seconds
        return {"other_cores": round(others, 3), "steal": round(steal / seconds / (os.cpu_count() or 1), 4)}


def warning(other: Mapping[str, float] | None) -> str | None:
    """Message about other work during a measurement; None for a quiet machine."""
    if other is None or (other["other_cores"] <= OTHER_CORES and other["steal"] <= STEAL):
        return None
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return (
        f"warning: other work disturbed this run: other processes used {other['other_cores']:.2f} cores, the host "
        f"took {100 * other['steal']:.1f} % of the time ({load}); run it again on a quiet machine"
    )


def _machine_seconds() -> tuple[float, float] | None:
    """Seconds that all cores were busy, and that the host took from them (steal), since the start of the machine."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields)
    return user + nice + system + irq + softirq, steal


def _own_seconds() -> float:
    """CPU seconds of this process and all that it started, ended ones included."""
    total = 0.0
    for process in [os.getpid(), *descendants()]:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, and those of ended children
    return total


def descendants(process: int | str = "self") -> list[int]:
    """Ids of the running processes that ``process`` started, directly or through others."""
    found = []
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []
    return found + [below for child in found for below in descendants(child)]


def own_memory() -> float:
    """Anonymous memory (no mapped files) of this process and all that it started, in GB."""
    return sum(status_gb("RssAnon", process) for process in ("self", *descendants()))


def status_gb(field: str, process: int | str = "self") -> float:
    """A field of a process's status in GB: ``VmHWM``, ``VmRSS``, ``RssAnon``; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{field}:")), 0.0)


class PeakMemory:
    """Peak memory in GB from now on: allocated on a GPU, resident on a CPU."""

    def __init__(self, device: str = "cpu") -> None:
        self._on_gpu = device.startswith("cuda")
        gc.collect()
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float:
        """The peak so far."""
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated() / 1e9
        return status_gb("VmHWM")


def alternate(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Results of each way in each round; the order is reversed in every other round."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 else reversed(ways):
            found[name].append(ways[name]())
    return found


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """A way whose result is the seconds that ``work`` takes."""

    def run() -> float:
        began = clock()
        work()
        return clock() - began

    return run


def rates(count: float, seconds: Sequence[float]) -> list[float]:
    """``count`` a second for each of the times."""
    return [count / each for each in seconds]


def device_name(device: str | None = None) -> str:
    """The GPU's name, or the number of CPU threads; without ``device`` what torch would use."""
    import torch

    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"


def in_a_process(
    work: Callable[..., T], *arguments: Any, preload: Sequence[str] = ("torch",), **environment: str
) -> T:
    """Result of ``work(*arguments)`` in a process of its own, with these environment variables.

    The processes are forks of a server that has only imported the ``preload`` modules, so that none of them inherits
    memory of this program or of another way, and imports are paid for once. Raises :class:`RuntimeError` if ``work``
    does not return.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))  # only the first call counts: the server is running then
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, work, arguments, environment))
    process.start()
    sender.close()
    try:
        result: T = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    return result


def _send_result(
    sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    sender.send(work(*arguments))


def bench_parser(about: str | None, rounds: int = ROUNDS) -> argparse.ArgumentParser:
    """A parser with the options that all programs have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"of every way, in alternation (default: {rounds})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    return parser


def run_bench(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Sequence[BenchRow]]) -> None:
    """Parse the command line, measure, print the table, and write the rows with --json."""
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}, expected at least 1")
    watch = OtherWork()
    rows = measure(args)
    other = watch.read()
    print(bench_table(rows))
    if (said := warning(other)) is not None:
        print(said, file=sys.stderr)
    if args.json:
        write_rows(args.json, rows, other, watch.seconds)


def bench_table(rows: Sequence[BenchRow]) -> str:
    """The rows as aligned text, medians with their ranges."""
    head = ("name", "unit", "ours", "baseline", "ratio", "device")
    cells = [head, *(row_cells(row.as_dict()) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def row_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A written row as text, values as ``median (least to most)``."""

    def cell(key: str, digits: str) -> str:
        if row[key] is None:
            return "-"
        median, *ends = (format(value, digits) for value in (row[key], *row["range"][key]))
        return median if ends[0] == ends[1] else f"{median} ({ends[0]} to {ends[1]})"

    return row["name"], row["unit"], cell("ours", ".4g"), cell("baseline", ".4g"), cell("ratio", ".3g"), row["device"]


def write_rows(path: Path, rows: Sequence[BenchRow], other: Mapping[str, float] | None, seconds: float) -> None:
    """Write the rows as a JSON list, each with commit, command, seconds of the program and other work."""
    git = git_state()
    commit = None if git["commit"] is None else git["commit"][:12] + ("-dirty" if git["dirty"] else "")
    about = {"command": _command(), "seconds": round(seconds, 1), "commit": commit, **(other or {})}
    write_json(path, [row.as_dict() | about for row in rows])


def _command() -> str:
    """The command line without paths of this machine."""
    words, given = [], iter(sys.argv[1:])
    for word in given:
        if word in PRIVATE_OPTIONS:
            next(given, None)
        elif not word.startswith(tuple(f"{name}=" for name in PRIVATE_OPTIONS)):
            words.append(word)
    return " ".join(["python", f"scripts/perf/{Path(sys.argv[0]).name}", *words])
