"""Stages that make training targets: self-generation, self-rephrasing and an optional check by another LLM."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import LISTING, is_empty, read_record
from src.common.paths import prompts_dir
from src.corpus.targets.llm_settings import AnswerSettings, ResponseSettings
from src.corpus.targets.rephrase_text import Prepared, prepare, restore
from src.corpus.targets.stage_job import Stage, StageJob, StageRecord, TextTable, llm_fingerprint, text_fingerprint
from src.dataset.row_log import JOURNAL
from src.dataset.tables import native_splits, open_keyed
from src.prompts.chat import ChatTokenizer, text_ids
from src.prompts.find_reasoning import find_reasoning
from src.prompts.leakage import leaks_text_source
from src.prompts.messages import (
    Messages,
    ResponseTexts,
    checker_messages,
    rephrase_messages,
    self_generation_messages,
)
from src.prompts.reasoning import THINK, THINKING, Reasoning, ReasoningFormat, split_response
from src.prompts.texts import Prompts

if TYPE_CHECKING:
    from src.inference.types import Result

GENERATE, REPHRASE, CHECK = "generate", "rephrase", "check"
LEAKS = "betrays"
"""Status of a response whose author shows that it read a text."""


@dataclass(frozen=True)
class TargetRow:
    """The table's two ``texts`` of a row and the response to them.

    ``status`` is ``ok`` or why the row must not be trained on; ``text`` may then be empty.
    """

    dataset_index: int
    texts: Sequence[str]
    text: str
    status: str
    num_tokens: int
    finish_reason: str
    attempts: int


def response_job(
    dataset: str,
    split: str,
    settings: ResponseSettings,
    prompts: Prompts,
    first_folder: Path,
    final_folder: Path,
    only: int | None = None,
    reasoning: Reasoning = THINKING,
) -> StageJob:
    """The job of one split; the first responses are logged below ``first_folder``, the rest in ``final_folder``.

    ``reasoning`` is that of the language model that answers.
    """
    hint = "make the prompts again with create_prompts_offline.py"
    columns = ("audio_description", "prompt")
    texts = TextTable(f"texts of {dataset}", prompts_dir(dataset), split, columns, hint, settings.limit, only)
    stages = response_stages(settings, prompts, texts, reasoning)
    first, rest = first_folder / JOURNAL / split, final_folder / JOURNAL / split
    return StageJob(dataset, split, texts, stages, rest, settings.seed, first)


def response_stages(
    settings: ResponseSettings,
    prompts: Prompts,
    texts: TextTable | Sequence[tuple[str, str]],
    reasoning: Reasoning = THINKING,
) -> list[Stage]:
    """Generation, and the rephrasing and check that the settings ask for; ``texts`` are description and prompt."""
    tags = (prompts.response_tag, prompts.reasoning_tag)
    closing = {"budget_closing": prompts.budget_closing}
    # self-generation is cut at its limit; the rewriter and the checker have a thinking budget instead
    options = settings.sampling(settings.rephrase_max_tokens, settings.max_thinking_tokens) | closing

    def rephrase(row: int, inputs: Sequence[str]) -> tuple[Messages, Prepared]:
        prepared = prepare(inputs[0], prompts.reasoning_tag, reasoning.format)
        return rephrase_messages(prompts, ResponseTexts(inputs[0], prepared.text, *texts[row])), prepared

    def rephrased(result: Result, prepared: Prepared, tokenizer: ChatTokenizer) -> dict[str, Any]:
        """Restore the format of a rewritten response; the rewriter's whole output is kept next to it."""
        restored = restore(result.text, prepared, find_reasoning(tokenizer).format)
        status = "error" if result.error else restored.status
        return _fields(status, restored.text, result, tokenizer) | {"raw": result.text}

    stages = [
        first_stage(
            GENERATE,
            settings,
            texts,
            lambda description, prompt: self_generation_messages(prompts, description, prompt),
            closing,
            prompt_texts=text_fingerprint(
                prompts.self_generation_system,
                prompts.description_open,
                prompts.description_close,
                *prompts.own_layouts("self_generation_user"),
            ),
        )
    ]
    if settings.rephrase:
        shown = (prompts.rephrase_system, prompts.rephrase_instruction, *tags, *prompts.own_layouts("rephrase_user"))
        fingerprint = stage_fingerprint(settings, settings.llm, options, prompt_texts=text_fingerprint(*shown))
        stages.append(Stage(REPHRASE, settings.llm, options, fingerprint, _last_text, rephrase, rephrased))
    if settings.checker_llm is not None:
        system = _read_checker_prompt(settings, prompts)

        def check(row: int, inputs: Sequence[str]) -> tuple[Messages, None]:
            prepared = prepare(inputs[0], prompts.reasoning_tag, reasoning.format).text
            return checker_messages(prompts, system, ResponseTexts(inputs[0], prepared, *texts[row])), None

        def checked(result: Result, needed: None, tokenizer: ChatTokenizer) -> dict[str, Any]:
            leaks = says_yes(result.text, find_reasoning(tokenizer).format)
            return _fields(LEAKS if leaks else "ok", result.text, result, tokenizer)

        shown = (system, *tags, *prompts.own_layouts("checker_user"))
        fingerprint = stage_fingerprint(
            settings, settings.checker_llm, options, prompt_texts=text_fingerprint(*shown)
        )
        stages.append(Stage(CHECK, settings.checker_llm, options, fingerprint, _last_text, check, checked))
    return stages


def first_stage(
    name: str,
    settings: AnswerSettings,
    texts: TextTable | Sequence[tuple[str, str]],
    messages: Callable[[str, str], Messages],
    options: Mapping[str, Any],
    **fingerprint: Any,
) -> Stage:
    """The first answer to the two texts of a row. One that was cut counts: the target is what the LLM wrote."""

    def read(result: Result, needed: None, tokenizer: ChatTokenizer) -> dict[str, Any]:
        status = "error" if result.error else "ok" if result.text.strip() else "empty"
        return _fields(status, result.text, result, tokenizer)

    options = {**settings.sampling(), **options}
    return Stage(
        name=name,
        llm=settings.llm,
        options=options,
        fingerprint=stage_fingerprint(settings, settings.llm, options, **fingerprint),
        inputs=lambda row, previous: texts[row],
        ask=lambda row, given: (messages(*given), None),
        read=read,
    )


def stage_fingerprint(
    settings: AnswerSettings, llm: str, options: Mapping[str, Any], **further: Any
) -> dict[str, Any]:
    """Every setting that affects a stage's results; stored with them and compared when a run continues."""
    common = {"llm": llm_fingerprint(llm), "seed": settings.seed, "max_model_len": settings.max_model_len}
    # only if it is given: logs from before there were reasoning formats have no such key
    if settings.reasoning is not None and llm == settings.llm:
        further["reasoning"] = settings.reasoning
    return {**common, **options, **further}


def first_rows(job: StageJob) -> Iterator[TargetRow]:
    """All rows with their first self-generated response."""
    for row in range(job.keys.size):
        yield _target_row(job, row, job.log(0, 0).read(row), 1)


def final_rows(job: StageJob) -> Iterator[TargetRow]:
    """All rows after the last stage: the response that passed, else the status of the last attempt."""
    rephrase = next((number for number, stage in enumerate(job.stages) if stage.name == REPHRASE), None)
    for row in range(job.keys.size):
        attempt = int(job.passed[row]) if job.passed[row] >= 0 else job.attempts - 1
        record = generated = job.log(0, attempt).read(row)
        if rephrase is not None and generated["ok"]:
            record = {**job.log(rephrase, attempt).read(row), "finish_reason": generated["finish_reason"]}
        if job.passed[row] < 0 and record["ok"]:
            # a response that is fine by itself and has not passed was refused by the checker
            record = {**record, "status": LEAKS}
        yield _target_row(job, row, record, attempt + 1)


def says_yes(verdict: str, form: ReasoningFormat = THINK) -> bool:
    """Whether a checker's last line is YES, or ends with a colon and YES ("Answer: YES")."""
    # Checkers that explain themselves end with the verdict. All else counts as good: an output that cannot be read
    # is no evidence against a response.
    lines = split_response(verdict, Reasoning(form)).answer.split("\n")
    word = lines[-1].rpartition(":")[2]
    return word.strip().strip("*_.\"'`").strip().upper() == "YES"


class AnswerCounts:
    """Counts over responses while they are written; lengths only of rows that passed."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.cut = self.tokens = 0

    def add(self, row: TargetRow) -> None:
        """Count one row."""
        self.status[row.status] += 1
        if row.status == "ok":
            self.tokens += row.num_tokens
            self.cut += row.finish_reason == "length"

    def result(self) -> dict[str, Any]:
        """``ok`` rows, ``failed`` ones by status, ``cut`` responses and ``mean_tokens``."""
        ok = self.status["ok"]
        return {
            "ok": ok,
            "failed": {status: count for status, count in sorted(self.status.items()) if status != "ok"},
            "cut": self.cut,
            "mean_tokens": round(self.tokens / ok, 2) if ok else 0.0,
        }


class ResponseStatistics(AnswerCounts):
    """The same, and leaking responses, over the rows of a response set."""

    def __init__(self, prompts: Prompts, reasoning: Reasoning = THINKING) -> None:
        super().__init__()
        self._prompts, self._reasoning = prompts, reasoning
        self._leaks: Counter[str] = Counter()
        self._unfinished = 0

    def add(self, row: TargetRow) -> None:
        """Count one row."""
        super().add(row)
        if row.status == "ok":
            parts = split_response(row.text, self._reasoning)
            self._unfinished += parts.status == "unfinished_thoughts"
            leaks = {name: leaks_text_source(getattr(parts, name), self._prompts) for name in ("thoughts", "answer")}
            self._leaks.update({**leaks, "response": any(leaks.values())})

    def result(self) -> dict[str, Any]:
        """Counts of :class:`AnswerCounts`, ``rows``, ``unfinished_thoughts``, and ``betraying`` responses.

        Those are passed rows whose whole response, reasoning or answer contains a phrase that leaks the text source;
        ``betraying_share`` is their share of the passed rows.
        """
        counts = super().result()
        mean = counts.pop("mean_tokens")
        leaks = {name: self._leaks[name] for name in ("response", "thoughts", "answer")}
        share = {name: round(count / counts["ok"], 4) if counts["ok"] else 0.0 for name, count in leaks.items()}
        return {
            "rows": self.status.total(),
            **counts,
            "unfinished_thoughts": self._unfinished,
            "mean_tokens": mean,
            "betraying": leaks,
            "betraying_share": share,
        }


def stored_result(folder: Path, config: Mapping[str, Any], **record: Any) -> dict[str, Any] | None:
    """Statistics of the set in ``folder`` if it is complete and was made with this configuration, else None."""
    written = read_record(folder)
    if not (folder / LISTING).is_file():  # the record may be left from a set that was removed
        return None
    wanted = json.loads(json.dumps({"config": config, **record}))  # as it is read back: tuples are lists
    return written.get("result") if all(written.get(key) == value for key, value in wanted.items()) else None


def made_elsewhere(folder: Path) -> bool:
    """Whether a response folder has something in it, but no log to continue."""
    return not is_empty(folder) and not (folder / JOURNAL).is_dir()


def wanted_keys(source: Path, name: str, limit: int | None) -> dict[str, np.ndarray]:
    """Keys ``(rows,)`` of the rows to answer by split of the set in ``source``, which messages call ``name``."""
    return {split: open_keyed(source, split, name)[1][:limit] for split in native_splits(source)}


def _last_text(row: int, previous: StageRecord) -> tuple[str]:
    return (previous["text"],)


def _fields(status: str, text: str, result: Result, tokenizer: ChatTokenizer) -> dict[str, Any]:
    error = {"error": str(result.error)} if result.error else {}
    return {
        "status": status,
        "text": text,
        "num_tokens": len(text_ids(tokenizer, text)) if text else 0,
        "finish_reason": result.finish_reason or "",
        **error,
    }


def _target_row(job: StageJob, row: int, record: StageRecord, attempts: int) -> TargetRow:
    logged = {name: record[name] for name in ("text", "status", "num_tokens", "finish_reason")}
    return TargetRow(int(job.keys[row]), job.texts[row], **logged, attempts=attempts)


def _read_checker_prompt(settings: ResponseSettings, prompts: Prompts) -> str:
    if settings.checker_prompt is None:
        return prompts.checker_system
    path = Path(settings.checker_prompt)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"checker prompt {path} cannot be read ({error}); give a text file") from error
