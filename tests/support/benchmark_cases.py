"""Recorded cases of the benchmarks, run through this implementation; every difference is reported by case.

A folder of cases holds ``expected.json`` (scores by file), ``conversion/``, ``end_to_end/``, ``parsing.json``,
``join.json`` and ``unscorable.json``; files that are missing are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.benchmarks.airbench import BENCHMARK as AIRBENCH
from src.benchmarks.airbench import DOMAINS, MOST_SECONDS, RATE, source_path
from src.benchmarks.answers import join_answers
from src.benchmarks.intervals import macro
from src.benchmarks.registry import benchmark, generic
from src.benchmarks.run_loader import read_rows
from src.benchmarks.scoring import COMMON_COLUMNS, PREDICTION, RIGHT, Accuracy, BenchmarkRow, Rule, RuleResult
from src.common.errors import UserError
from src.common.naming import generated_name
from src.prompts.multiple_choice import map_answer
from src.prompts.reasoning import extract_answer

RULES: dict[str, tuple[str, Rule]] = {
    "mmau": ("mmau", benchmark("mmau").published),
    "mmar": ("mmar", benchmark("mmar").published),
    "mmsu_text": ("mmsu", benchmark("mmsu").published),
    "mmsu_letter": ("mmsu", benchmark("mmsu").official_replies or benchmark("mmsu").published),
    "air_text": ("airbench", benchmark("airbench").published),
    "air_letter": ("airbench", benchmark("airbench").official_replies or benchmark("airbench").published),
}
E2E_RULES = {"mmau": "mmau", "mmar": "mmar", "mmsu": "mmsu_text", "airbench": "air_text"}
NOT_SCORES = ("rule", "ran", "note")
_PRINTED = re.compile(
    r"(Total Accuracy|No prediction count|Category|Overall Accuracy|Total count|total_|fail_num|.+: Sum=)"
)


@dataclass(frozen=True)
class CaseResult:
    """One case: its name, how many values were compared, and each difference in words."""

    name: str
    compared: int
    differences: tuple[str, ...] = ()

    def line(self) -> str:
        """The case in one line, differences below it."""
        head = f"{'FAIL' if self.differences else 'ok  '} {self.name} ({self.compared} values)"
        return "\n".join([head, *(f"       {difference}" for difference in self.differences)])


def check_cases(folder: Path) -> Iterator[CaseResult]:
    """Results of every case in the folder. Raises :class:`UserError` if it holds none of the known files."""
    found = False
    for name, check in _CHECKS.items():
        path = folder / name
        if path.exists():
            found = True
            yield from check(path)
    if not found:
        raise UserError(f"{folder} holds no cases; expected some of {', '.join(_CHECKS)}")


class _Compare:
    """Collects differences between expected and found values."""

    def __init__(self) -> None:
        self.count = 0
        self.differences: list[str] = []

    def __call__(self, where: str, expected: Any, found: Any) -> None:
        self.count += 1
        if expected != found:
            self.differences.append(f"{where}: expected {_shown(expected)}, found {_shown(found)}")

    def mapping(self, where: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        for key in expected:
            if isinstance(expected[key], Mapping) and isinstance(found.get(key), Mapping):
                self.mapping(f"{where}{key}.", expected[key], found[key])
            else:
                self(f"{where}{key}", expected[key], found.get(key, "nothing"))

    def result(self, name: str) -> CaseResult:
        return CaseResult(name, self.count, tuple(self.differences))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _scores(path: Path) -> Iterator[CaseResult]:
    for name, expected in _read(path).items():
        compare = _Compare()
        _, rule = RULES[expected["rule"]]
        _compare_scores(compare, expected, rule(read_rows(path.parent / name).rows), expected["rule"])
        yield compare.result(name)


def _compare_scores(compare: _Compare, expected: Mapping[str, Any], result: RuleResult, rule: str) -> None:
    wanted = {key: value for key, value in expected.items() if key not in NOT_SCORES}
    compare.mapping("", wanted, _found_scores(result, rule))
    for table, groups in wanted.items():
        if isinstance(groups, Mapping) and table in result.tables:  # a group too many would go unseen
            compare(f"{table}, groups", sorted(groups), sorted(result.tables[table]))


def _found_scores(result: RuleResult, rule: str) -> dict[str, Any]:
    """Everything that a case of ``rule`` may state: tables, totals, marks, and what follows from them."""
    found: dict[str, Any] = {
        **result.numbers,
        "rows_outcome": result.per_row,
        "rows_in_file": len(result.per_row),
        "correct": result.published.right,
        "rows_scored_with_a_stale_letter": list(result.reused_letter),
        "derived_unparsed_counts_as_wrong": _without_stale(result),
    }
    if rule in ("mmau", "mmar"):
        tables = {name: _each(counts, _percent) for name, counts in result.tables.items()}
        return found | tables | {"total": _percent(result.published)}
    if rule.startswith("mmsu"):
        return found | {name: _each(counts, _four) for name, counts in result.tables.items()}
    tables = {name: _each(counts, _plain) for name, counts in result.tables.items()}
    return found | tables | {"derived_not_printed": _derived(result.tables["task"])}


def _each(counts: Mapping[str, Accuracy], form: Any) -> dict[str, Any]:
    return {label: form(count) for label, count in counts.items()}


def _percent(count: Accuracy) -> dict[str, Any]:
    return {"pct": count.percent, "n": count.n, "correct": count.right}


def _four(count: Accuracy) -> str:
    return f"{count.share:.4f}"


def _plain(count: Accuracy) -> dict[str, Any]:
    return {"n": count.n, "correct": count.right, "acc": str(count.share)}


def _without_stale(result: RuleResult) -> dict[str, Any]:
    """The published marks with unparsed replies counted as wrong, over all rows of the file."""
    right = sum(mark == RIGHT and row not in result.reused_letter for row, mark in enumerate(result.per_row))
    count = Accuracy(right, len(result.per_row))
    return {"correct": count.right, "n": count.n, "acc": round(count.share, 6)}


def _derived(tasks: Mapping[str, Accuracy]) -> dict[str, Any]:
    leaderboard, over_tasks = AIRBENCH.averages
    domains = {}
    for domain, names in DOMAINS.items():
        inside = {name: tasks[name] for name in names if name in tasks}
        if inside:
            domains[domain] = round(macro(inside, over_tasks), 6)
    return {
        "domain_mean_of_task_acc": domains,
        "macro_over_tasks": round(macro(tasks, over_tasks), 6),
        "leaderboard_style_mean_of_domain_means": round(macro(tasks, leaderboard), 6),
    }


def _unscorable(path: Path) -> Iterator[CaseResult]:
    for case in _read(path):
        compare = _Compare()
        rows = [] if case["row"] is None else [case["row"]]
        try:
            result = RULES[case["rule"]][1](rows)
        except Exception as error:  # whatever it is, it is what the case is about
            compare("outcome", "no exception", f"{type(error).__name__}: {error}")
        else:
            compare("rows", len(rows), len(result.per_row_strict))
            if case["official_outcome"] == "runs":
                printed = [line for line in case["stdout_tail"] if _PRINTED.match(line)]
                compare("printed", printed, [line for line in printed if line in result.lines])
        yield compare.result(f"unscorable, {case['rule']}: {case['what']}")


def _conversions(folder: Path) -> Iterator[CaseResult]:
    for path in sorted(folder.glob("*.json")):
        case, spec, compare = _read(path), benchmark(path.stem), _Compare()
        for split, raw in case["raw"].items():
            made = [spec.convert(row, index) for index, row in enumerate(raw)]
            expected = dict(case["columns"][split])
            compare(f"{split}, columns", sorted(expected), sorted(COMMON_COLUMNS))
            expected["audio"] = [_below_download(audio, path.stem) for audio in expected["audio"]]
            for column, values in expected.items():
                for index, value in enumerate(values):
                    compare(f"{split}, {column}, row {index}", value, made[index][column])
            compare(f"{split}, rows", len(expected["question"]), len(made))
            if "source_audio" in case:
                _compare_audio(compare, case, raw, path.stem)
            if "written_metadata" in case:
                written = case["written_metadata"]
                kept = [spec.keep(row) for row in raw]
                compare(f"{split}, written metadata", written[split] if isinstance(written, dict) else written, kept)
        yield compare.result(f"conversion, {path.stem}")


def _below_download(path: str, name: str) -> str:
    return path.removeprefix(f"{name}/").removeprefix("tmp/")


def _compare_audio(compare: _Compare, case: Mapping[str, Any], raw: list[BenchmarkRow], name: str) -> None:
    for index, row in enumerate(raw):
        source, written = case["source_audio"][index], case["written_audio"][index]
        compare(f"source of row {index}", _below_download(source[0], name), source_path(row))
        samples = min(MOST_SECONDS * RATE, -(-source[2] * RATE // source[3]))
        compare(f"audio of row {index}", written[1:], [1, samples, RATE])


def _parsing(path: Path) -> Iterator[CaseResult]:
    data, compare = _read(path), _Compare()
    for case in data["cases"]:
        choices = case["choices"]
        parsed = map_answer(case["response"], choices, "option_0")
        where = f"{case['response']!r} with {len(choices)} choices"
        compare(f"{where}, extracted", case["extracted"], parsed.extracted)
        compare(f"{where}, choice", case["choice"], parsed.choice)
        compare(f"{where}, path", case["path"], published_path(case["response"], len(choices)))
    yield compare.result("parsing")
    compare = _Compare()
    for case in data.get("folder_names", ()):
        found = generated_name(
            case["benchmark"], case["checkpoint"], case["max_tokens"], case["max_thinking_tokens"], case["seed"]
        )
        compare(str(case["checkpoint"]), case["folder"], found)
    yield compare.result("folder names")


def published_path(response: str, count: int) -> str:
    """The published mapping's path for a response to ``count`` options, in the words of the cases."""
    try:
        number = int(extract_answer(response))
    except ValueError:
        return "not an integer -> option 0"
    if 0 <= number < count:
        return "index"
    return "negative index" if -count <= number < 0 else "number out of range -> number as text"


def _joins(path: Path) -> Iterator[CaseResult]:
    for case in _read(path):
        compare, written = _Compare(), []
        for split, answers in case["response"].items():
            if split not in case["metadata"]:
                continue
            try:
                joined = join_answers(
                    generic("bm"), case["base"][split], answers, case["metadata"][split], where=split
                )
                written += [[row["id"], row[PREDICTION]] for row in joined.rows]
            except UserError:
                written = []
        if written:  # refusing is always allowed
            compare("joined rows", case["right_by_id"], written)
        else:
            refusable = case["right_by_id"] is None or case["right_by_id"] != _all_rows(case)
            compare("refused", True, refusable)
        yield compare.result(f"join, {case['name']}: {'joined' if written else 'refused'}")


def _all_rows(case: Mapping[str, Any]) -> Any:
    """The complete assignment, where every base row of the answered splits has its answer and metadata row."""
    for split, answers in case["response"].items():
        by_index = {row["dataset_index"]: row["llm_answer"] for row in answers}
        by_id = {row["id"]: by_index.get(row["dataset_index"]) for row in case["base"][split]}
        rows = case["metadata"].get(split, ())
        if len(rows) == len(by_id) == len(answers) and all(row["id"] in by_id for row in rows):
            return [[row["id"], by_id[row["id"]]] for row in rows]
    return "incomplete"


def _end_to_end(folder: Path) -> Iterator[CaseResult]:
    for path in sorted(folder.glob("*.json")):
        case, spec, compare = _read(path), benchmark(path.stem), _Compare()
        scored = []
        for index, (raw, response) in enumerate(zip(case["raw_metadata"], case["responses"], strict=True)):
            choices = spec.convert(raw, index)["choices"]
            chosen = map_answer(response, choices, "option_0").choice
            compare(f"prediction of row {index}", case["expected_predictions"][index], chosen)
            compare(f"path of row {index}", case["expected_path"][index], published_path(response, len(choices)))
            scored.append({**raw, PREDICTION: chosen})
        rule = case["expected_score"].get("rule", E2E_RULES[path.stem])
        _compare_scores(compare, case["expected_score"], RULES[rule][1](scored), rule)
        yield compare.result(f"end to end, {path.stem}")


_CHECKS: dict[str, Callable[[Path], Iterator[CaseResult]]] = {
    "expected.json": _scores,
    "unscorable.json": _unscorable,
    "conversion": _conversions,
    "parsing.json": _parsing,
    "join.json": _joins,
    "end_to_end": _end_to_end,
}
