"""MMAU-Pro (arXiv 2508.13992), the part that is multiple choice over one clip.

Facts: Hugging Face gamma-lab-umd/MMAU-Pro (``test.parquet``, 5,305 rows; ``data.zip``) and the official
``evaluate_mmau_pro_comprehensive.py`` (github.com/sonalkum/MMAUPro). Its rows are of three kinds: ``open`` questions
(a language model judges), ``instruction following`` (rules on the reply's form), and closed ones. A closed reply is
matched with the choice whose NV-Embed-v2 embedding is nearest, which must be the answer. A prediction that *is* a
choice is nearest to itself, so for chosen texts the rule is equality, and no embedding model is needed here. Replies
that name no option are wrong; the official file would match them with some choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.benchmarks.rules import score_by_equality
from src.benchmarks.scoring import Average, Benchmark, BenchmarkRow, GroupBy, RuleResult, common_row, count_by
from src.prompts.multiple_choice import choice_texts

OTHER_KINDS = ("open", "instruction following")
GROUPINGS = (
    GroupBy.column("category"),
    GroupBy.column("length", "length_type"),
    GroupBy.column("sub-category", "sub-cat"),
)


def left_out(row: BenchmarkRow) -> str | None:
    """Why a raw row is not part of this benchmark here; None if it is."""
    if row.get("category") in OTHER_KINDS:
        return f"category {row['category']}"
    if len(choice_texts(row.get("choices"))) < 2:
        return "fewer than two choices"
    if row.get("answer") is None:
        return "no answer"
    if len(_clips(row)) != 1:
        return "more than one clip" if _clips(row) else "no clip"
    return None


def _clips(row: BenchmarkRow) -> list[str]:
    paths = row.get("audio_path")
    return [paths] if isinstance(paths, str) else [str(path) for path in (paths if paths is not None else ())]


def published(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """Equality with the answer, with the official printout."""
    # rows without a prediction count as wrong: the official file fills them with blanks before it matches
    result = score_by_equality(rows)
    table = count_by(map(GROUPINGS[0].label, rows), result.per_row)
    overall = f"{result.published.share:.4f}"
    lines = [f"{name}: Count: {found.n}, Accuracy: {found.share:.4f}" for name, found in table.items()]
    return replace(
        result,
        lines=(*lines, f"Overall Accuracy: {overall}"),
        tables={"category": table},
        numbers={"overall": overall},
    )


def convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that contains ``data``."""
    choices = choice_texts(row["choices"])
    return common_row(str(row["question"]), choices, str(row["answer"]), _clips(row)[0], str(row["id"]), index)


BENCHMARK = Benchmark(
    name="mmaupro",
    title="MMAU-Pro, multiple choice over one clip",
    groupings=GROUPINGS,
    published_title="official rule for closed questions, on chosen texts (equality)",
    published=published,
    convert=convert,
    left_out=left_out,
    averages=(Average("mean over categories", "category"),),
    notes=(
        "Open questions, instruction following and questions about several clips are left out: the number is not "
        "the leaderboard's overall, single categories are comparable where all their rows are of one clip.",
    ),
)
