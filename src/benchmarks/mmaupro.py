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
from functools import partial
from typing import Any

from src.benchmarks.outcomes import (
    LEFT_OUT,
    PREDICTION,
    RIGHT,
    WRONG,
    Row,
    Ruling,
    count_by,
    is_known,
    is_unread,
    label_of,
    strict_marks,
)  # fmt: skip
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row
from src.prompts.options import choice_texts

OTHER_KINDS = ("open", "instruction following")
GROUPINGS = (
    Grouping("category", partial(label_of, key="category")),
    Grouping("length", partial(label_of, key="length_type")),
    Grouping("sub-category", partial(label_of, key="sub-cat")),
)


def left_out(row: Row) -> str | None:
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


def _clips(row: Row) -> list[str]:
    paths = row.get("audio_path")
    return [paths] if isinstance(paths, str) else [str(path) for path in (paths if paths is not None else ())]


def published(rows: Sequence[Row]) -> Ruling:
    """Equality with the answer; rows without a prediction are wrong, as the official file fills them with blanks."""
    right = [row.get(PREDICTION) is not None and str(row[PREDICTION]) == str(row.get("answer")) for row in rows]
    known = [is_known(row, "answer") for row in rows]
    unread = tuple(is_unread(row) for row in rows)
    marks = "".join(
        LEFT_OUT if not has_gold else RIGHT if correct else WRONG
        for correct, has_gold in zip(right, known, strict=True)
    )
    tables = {"category": count_by((label_of(row, "category") for row in rows), marks)}
    lines = [f"{name}: Count: {count.n}, Accuracy: {count.share:.4f}" for name, count in tables["category"].items()]
    ruling = Ruling(marks, strict_marks(right, unread, known), unread, (), tables)
    lines.append(f"Overall Accuracy: {ruling.published.share:.4f}")
    return replace(ruling, lines=tuple(lines), numbers={"overall": f"{ruling.published.share:.4f}"})


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that holds ``data``."""
    choices = choice_texts(row["choices"])
    return common_row(str(row["question"]), choices, str(row["answer"]), _clips(row)[0], str(row["id"]), index)


BENCHMARK = Benchmark(
    name="mmaupro",
    title="MMAU-Pro, multiple choice over one clip",
    splits=("test",),
    groupings=GROUPINGS,
    published_title="official rule for closed questions, on chosen texts (equality)",
    published=published,
    convert=convert,
    left_out=left_out,
    averages=(Average("mean over categories", "category"),),
    prediction_keys=("model_output",),
    notes=(
        "Open questions, instruction following and questions about several clips are left out: the number is not "
        "the leaderboard's overall, single categories are comparable where all their rows are of one clip.",
    ),
)
