"""Filters a response set by status and length: writes split indexes of the rows that stay.

A rewritten response that is too long contains the rewriter's own reasoning; one that is too short was shortened.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError, error_text
from src.common.existing import next_step
from src.common.files import write_json
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import REPO_ROOT, indexes_dir, indexes_filtered_dir, responses_dir
from src.dataset.splits import index_problem, read_indexes, write_indexes
from src.dataset.tables import KEY, find_rows, open_keyed

_log = get_logger(__name__)

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of each text, special ones not added."""
FILTER_FILE = "filter.json"
"""Limits and counts next to indexes that this program filtered."""
MISSING, TOO_SHORT, TOO_LONG = "missing", "too_short", "too_long"


@dataclass(frozen=True)
class LengthLimits:
    """Fewest and most tokens of a response, both allowed."""

    tokens_min: int = 100
    tokens_max: int = 612

    def __post_init__(self) -> None:
        if not 0 <= self.tokens_min <= self.tokens_max:
            raise UserError(
                f"length limits {self.tokens_min} to {self.tokens_max}: expected 0 <= tokens_min <= tokens_max"
            )


# the miniature language model answers in a few words
_LIMITS = {"mini": LengthLimits(8, 400)}


def default_limits(prompts: str) -> LengthLimits:
    """Default limits for a prompt set: 100 to 612 tokens, smaller ones for the miniature system."""
    return _LIMITS.get(prompts, LengthLimits())


def filter_by_answer(
    raw_name: str,
    response_folder: str,
    limits: LengthLimits,
    count_tokens: CountTokens | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``indexes_filtered/NAME/MODEL/RESPONSE/{train,validation}_indexes.npy`` for one response set.

    A row is dropped if its ``status`` is not ``ok``, its response is outside ``limits``, or the set lacks it. Next to
    the indexes: ``dropped.jsonl``, one line per row with the reason, and ``filter.json``. Sets without the columns
    ``status`` and ``num_tokens`` (the published ones) are measured with ``count_tokens``. Indexes of another program
    are left alone unless ``overwrite``.

    Returns counts by split: ``{"train": {"before", "kept", "dropped": {reason: rows}}, ...}``, of indexes that are
    left alone only ``kept``. Raises :class:`UserError` if the response set or its columns are not there.
    """
    name = ResponseName.parse(response_folder)
    table, keys = open_keyed(responses_dir(name.model, response_folder), "train", f"responses {response_folder}")
    target = indexes_filtered_dir(raw_name) / name.model / response_folder
    base = _base_indexes(raw_name, keys)
    # indexes with a record are this program's: brought up to date, because the responses may have grown since
    if not (target / FILTER_FILE).is_file():
        what = f"indexes of {response_folder}"
        if next_step(what, target, index_problem(target, base), ours=False, overwrite=overwrite) == "skip":
            return {split: {"kept": int(kept.size)} for split, kept in read_indexes(target).items()}
    reasons = _reasons(table, response_folder, limits, count_tokens)
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Any] = {}
    with (target / "dropped.jsonl").open("w", encoding="utf-8") as dropped:
        for split, wanted in base.items():
            reason = reasons[find_rows(keys, wanted)]  # -1, no such row, is the last entry
            kept = reason == ""
            write_indexes(target, split, wanted[kept])
            for key, why in zip(wanted[~kept].tolist(), reason[~kept].tolist(), strict=True):
                dropped.write(json.dumps({"split": split, KEY: key, "reason": why}) + "\n")
            left_out = dict(sorted(Counter(reason[~kept].tolist()).items()))
            counts[split] = {"before": int(wanted.size), "kept": int(kept.sum()), "dropped": left_out}
            _log.info("%s, %s: kept %d of %d rows %s", response_folder, split, kept.sum(), wanted.size, counts[split])
    write_json(target / FILTER_FILE, {"limits": asdict(limits), "splits": counts})
    return counts


def require_rows(response_folder: str, counts: Mapping[str, Any], limits: LengthLimits) -> None:
    """Raise :class:`UserError` if the length limits have left no row, by the counts of :func:`filter_by_answer`."""
    dropped: Counter[str] = Counter()
    for split in counts.values():
        dropped.update(split.get("dropped", {}))
    # where every row was dropped by its status, other limits would not help, and the counts say why
    if sum(split["kept"] for split in counts.values()) or not dropped[TOO_SHORT] + dropped[TOO_LONG]:
        return
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
    raise UserError(
        f"responses {response_folder}: the answer filter leaves no row to train on: {reasons}; it keeps responses of "
        f"{limits.tokens_min} to {limits.tokens_max} tokens, expected some within; lower --tokens-min or raise "
        "--tokens-max, or look at the responses and their status"
    )


def _reasons(table: Any, response_folder: str, limits: LengthLimits, count_tokens: CountTokens | None) -> np.ndarray:
    """Reason for dropping each row, strings ``(rows + 1,)``, empty for rows to keep; the last is for missing rows."""
    lacking = [column for column in ("status", "num_tokens") if column not in table.column_names]
    if lacking and count_tokens is None:
        raise UserError(
            f"responses {response_folder} have no column {' and '.join(lacking)}; they have "
            f"{', '.join(table.column_names)}; name the model whose tokenizer counts (--tokenizer)"
        )
    if lacking and count_tokens is not None:
        tokens, reasons = _counted(table, count_tokens), np.full(len(table), "", dtype=object)
    else:
        columns = table.select_columns(["status", "num_tokens"]).with_format("arrow")[:]
        status = np.array(columns.column("status").to_pylist(), dtype=object)
        tokens = columns.column("num_tokens").to_numpy()
        # a failed row keeps its own reason: its length says nothing
        reasons = np.where(status == "ok", "", status)
    reasons = np.where((reasons == "") & (tokens < limits.tokens_min), TOO_SHORT, reasons)
    reasons = np.where((reasons == "") & (tokens > limits.tokens_max), TOO_LONG, reasons)
    return np.append(reasons, MISSING)


def token_counter(model: str) -> CountTokens:
    """Counts tokens with the tokenizer of ``model`` (folder or Hub id).

    The first count raises :class:`UserError` if the model has no tokenizer that can be loaded.
    """

    @functools.cache  # loaded when it is first used: sets with token counts need none
    def tokenizer() -> Any:
        from transformers import AutoTokenizer

        # a relative name is one in the working directory or in the repository, before it is one of the Hub
        folder = next((base for base in (Path(model).expanduser(), REPO_ROOT / model) if base.is_dir()), None)
        try:
            return AutoTokenizer.from_pretrained(folder or model)
        except (OSError, ValueError) as error:
            reason = error_text(error, 200)
            raise UserError(
                f"{model} has no tokenizer that can be loaded ({reason}); name another with --tokenizer"
            ) from error

    return lambda texts: [len(ids) for ids in tokenizer()(list(texts), add_special_tokens=False)["input_ids"]]


def _counted(table: Any, count_tokens: CountTokens) -> np.ndarray:
    """Tokens of every answer, ``(rows,)``."""
    batches = table.select_columns(["llm_answer_with_context"]).iter(batch_size=1000)
    counts = (count for batch in batches for count in count_tokens(batch["llm_answer_with_context"]))
    return np.fromiter(counts, dtype=np.int64)


def _base_indexes(raw_name: str, keys: np.ndarray) -> dict[str, np.ndarray]:
    """Sorted indexes of every split before this filter: after the audio filter, else plain, else all as ``train``."""
    folders = (indexes_filtered_dir(raw_name), indexes_dir(raw_name))
    return next((found for folder in folders if (found := read_indexes(folder))), {"train": np.sort(keys)})
