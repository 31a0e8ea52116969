"""Rules by which an answer is right: words (MMAU, MMAR), letters and exact text (MMSU, AIR-Bench), equality."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from src.benchmarks.scoring import (
    CHOICE_KEYS,
    NOT_COUNTED,
    PREDICTION,
    RESPONSE,
    RIGHT,
    WRONG,
    BenchmarkRow,
    GroupBy,
    RuleResult,
    count_by,
    first_few,
    is_known,
    is_unparsed,
    strict_codes,
)  # fmt: skip
from src.prompts.multiple_choice import choice_texts

GOLD = "answer_gt"
"""Key of the right answer in MMSU and AIR-Bench."""
LETTERS = "ABCD"
_WORDS = re.compile(r"\w+")


@lru_cache(maxsize=65536)
def _words(text: str) -> frozenset[str]:
    """Set of the lower-cased text's maximal runs of word characters (letters, digits, underscore of any script)."""
    return frozenset(_WORDS.findall(text.lower()))


def right_by_words(prediction: str, answer: str, choices: Iterable[str]) -> bool:
    """Whether all words of the answer are in the prediction, and none that only another choice has.

    The order of words does not matter, punctuation vanishes, a prediction without words is wrong.
    """
    # https://github.com/Sakshi113/MMAU/blob/main/evaluation.py and, the same function,
    # https://github.com/ddlBoJack/MMAR/blob/main/code/evaluation.py#L8: sets of words, so "7/8" is right for "8/7"
    given, wanted = _words(prediction), _words(answer)
    if not given or not wanted <= given:
        return False
    return all((_words(choice) - wanted).isdisjoint(given) for choice in choices)


def score_by_words(rows: Sequence[BenchmarkRow], groupings: Sequence[GroupBy]) -> RuleResult:
    """The word rule over ``model_prediction`` with the printout of MMAU and MMAR.

    Rows without the key ``model_prediction`` are not counted, an empty prediction is wrong. Values that crash the
    official files (null or numeric predictions, choices or answers, groups they do not know) are read as text or
    counted as wrong, and noted. Rows without an answer are not counted.
    """
    right, per_row = [], ""
    for row in rows:
        prediction, gold = row.get(PREDICTION), row.get("answer")
        choices = choice_texts(row.get("choices"))
        right.append(
            prediction is not None and gold is not None and right_by_words(str(prediction), str(gold), choices)
        )
        per_row += NOT_COUNTED if PREDICTION not in row or gold is None else RIGHT if right[-1] else WRONG
    unparsed = tuple(map(is_unparsed, rows))
    tables = {grouping.name: count_by(map(grouping.label, rows), per_row, grouping.fixed) for grouping in groupings}
    result = RuleResult(per_row, strict_codes(right, unparsed, (is_known(row, "answer") for row in rows)), unparsed)
    lines = []
    for name, groups in tables.items():
        lines.append(f"{name}:")
        lines += [f"{label} : {found.percent}% over {found.n} samples" for label, found in groups.items()]
    total = result.published
    # both files print this count, from a branch that cannot be reached: rows without a prediction never get there
    lines += [f"Total Accuracy: {total.percent}% over {total.n} samples", "No prediction count: 0"]
    numbers = {"no_prediction_count": 0, "rows_skipped_no_key": sum(PREDICTION not in row for row in rows)}
    return replace(
        result, lines=tuple(lines), tables=tables, numbers=numbers, notes=tuple(_word_notes(rows, groupings))
    )


def _word_notes(rows: Sequence[BenchmarkRow], groupings: Sequence[GroupBy]) -> list[str]:
    """Rows on which the official word scorers stop, by reason."""
    checks = {
        "the prediction is no text (null: wrong; other values are read as text)": [
            PREDICTION in row and not isinstance(row[PREDICTION], str) for row in rows
        ],
        "the answer is no text (null or missing: not counted)": [
            not isinstance(row.get("answer"), str) for row in rows
        ],
        "a choice is no text": [
            any(not isinstance(item, str) for item in choices)
            if isinstance(choices, Iterable)
            else choices is not None
            for choices in (row.get("choices") for row in rows)
        ],
    }
    for grouping in groupings:
        if grouping.fixed:
            checks[f"a {grouping.name} the official file does not know"] = [
                grouping.label(row) not in grouping.fixed for row in rows
            ]
    notes = []
    for what, flags in checks.items():
        found = [number for number, flag in enumerate(flags) if flag]
        if found:
            notes.append(f"{len(found)} row(s): {what}; row {first_few(found)}. The official file stops there.")
    return notes


def clean(value: object) -> str:
    """A value as the published text rule compares it: text, outer blanks off, line breaks dropped without a blank."""
    return str(value).strip().replace("\n", "")


def read_letter(response: str) -> str | None:
    """The letter of a reply by the official rule of MMSU and AIR-Bench, None if it has none.

    The first character decides if it is A, B, C or D; otherwise the last but one. So ``Answer: C`` is A,
    ``(C)`` is C, and ``the answer is C`` is none.
    """
    # https://github.com/OFA-Sys/AIR-Bench/blob/main/score_foundation.py#L22-L61, in MMSU
    # https://github.com/dingdongwang/MMSU_Bench/blob/main/mmsu_evaluation.py
    text = clean(response)
    if not text or text == "None":  # a null of Python that was written as text
        return None
    if text[0] in LETTERS:
        return text[0]
    return text[-2] if len(text) > 1 and text[-2] in LETTERS else None


def score_by_letters(
    rows: Sequence[BenchmarkRow], is_right: Callable[[BenchmarkRow, str], bool], reuse_letters: bool
) -> RuleResult:
    """The official letter rule over ``response``; ``is_right`` compares a letter with the row's answer.

    Unparsed replies are not counted. With ``reuse_letters`` a blank reply is scored with the letter of the row
    before and listed in ``reused_letter``; for our own count it is unparsed.
    """
    per_row, right, unparsed, reused = "", [], [], []
    last: str | None = None
    for number, row in enumerate(rows):
        response = row.get(RESPONSE, "")
        letter = read_letter(response) if isinstance(response, str) else None
        right.append(letter is not None and is_right(row, letter))
        unparsed.append(letter is None)
        if letter is not None:
            last = letter
            per_row += RIGHT if right[-1] else WRONG
        # mmsu_evaluation.py keeps its variable over a blank reply, so the letter of the row before is compared again
        elif reuse_letters and isinstance(response, str) and clean(response) in ("", "None") and last is not None:
            reused.append(number)
            per_row += RIGHT if is_right(row, last) else WRONG
        else:
            per_row += NOT_COUNTED
    strict = strict_codes(right, unparsed, (is_known(row, GOLD) for row in rows))
    return RuleResult(per_row, strict, tuple(unparsed), reused_letter=tuple(reused))


def score_by_text(rows: Sequence[BenchmarkRow], prediction: Callable[[BenchmarkRow], object]) -> RuleResult:
    """The published system's text rule over ``model_prediction``: exactly equal texts, every row counts.

    ``prediction`` gives the text that the published scorer compares, for rows without a prediction too. A row is
    unparsed, and wrong for us, if it has no prediction of its own.
    """
    right = [clean(prediction(row)) == clean(row.get(GOLD, "")) for row in rows]
    unparsed = tuple(map(is_unparsed, rows))
    strict = strict_codes(right, unparsed, (is_known(row, GOLD) for row in rows))
    return RuleResult("".join(RIGHT if equal else WRONG for equal in right), strict, unparsed)


def score_by_equality(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """Right is the prediction that equals ``answer``; every row with a known answer is counted."""
    right = [row.get(PREDICTION) is not None and str(row[PREDICTION]) == str(row.get("answer")) for row in rows]
    known = [is_known(row, "answer") for row in rows]
    unparsed = tuple(map(is_unparsed, rows))
    return RuleResult(strict_codes(right, [False] * len(rows), known), strict_codes(right, unparsed, known), unparsed)


def as_letter_replies(rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """The rows with the chosen text's letter as ``response``, for the official rule; unparsed ones stay blank.

    A text that is no option's (a number out of range) has no letter either: the official file could not parse it.
    """
    replies: list[BenchmarkRow] = []
    for row in rows:
        chosen = None if is_unparsed(row) else clean(row[PREDICTION])
        options = zip(LETTERS, CHOICE_KEYS, strict=True)
        # of equal options the first, which is the one that score_foundation.py takes for the answer
        letter = next((letter for letter, key in options if key in row and clean(row[key]) == chosen), "")
        replies.append({**row, RESPONSE: letter})
    return replies


def gold_letter(row: BenchmarkRow) -> str | None:
    """The first letter whose choice equals the answer; None if none does."""
    options = zip(LETTERS, CHOICE_KEYS, strict=True)
    return next((letter for letter, key in options if key in row and row[key] == row.get(GOLD)), None)


def present_choices(row: Mapping[str, object]) -> list[str]:
    """Texts of ``choice_a`` to ``choice_d`` whose key exists; a null is the text ``None``, as published."""
    return [str(row[key]) for key in CHOICE_KEYS if key in row]
