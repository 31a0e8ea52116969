"""A run over a data set: rows -> requests -> engine -> shards -> the published folder. Killed runs continue."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.config import bind_dataclass
from src.common.log import get_logger
from src.common.naming import model_short_name
from src.common.paths import generated_dir
from src.common.run_record import write_run_record
from src.generation.assemble import assemble
from src.generation.config import RunConfig, read_prompts
from src.generation.engine import Engine
from src.generation.requests import Request, Result, Sampling
from src.generation.respond import Ears, Item, Turns, hearing_requests, text_requests
from src.generation.shards import Shards
from src.generation.tables import Table, need_columns, open_tables, other_rows, with_texts
from src.generation.tasks import FREE, MULTIPLE_CHOICE, Task
from src.model.checkpoints import STATE_FILE, find_checkpoint, read_config
from src.model.llm import resolve_source
from src.prompts import Prompts
from src.prompts.chat import opens_thoughts

log = get_logger(__name__)
_DIGEST_UP_TO = 2**30


def generate_free(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm.py``: free questions. Returns the exit code."""
    return generate(config, FREE)


def generate_choices(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm_mcqa.py``: multiple choice. Returns the exit code."""
    return generate(config, MULTIPLE_CHOICE)


def generate(raw: Mapping[str, Any], task: Task) -> int:
    """Run the resolved configuration ``raw``; rows that fail are saved with their reason and counted."""
    config = bind_dataclass(RunConfig, raw, "config")
    if config.cuda_devices is not None:
        devices = config.cuda_devices
        listed = ",".join(map(str, devices)) if isinstance(devices, list) else str(devices)
        os.environ["CUDA_VISIBLE_DEVICES"] = listed
    job = prepare(config, task)
    settings = job.settings()
    with Shards(job.directory, settings, config.overwrite) as shards:
        records = shards.read()
        pending = job.pending(records)
        log.info("%s: %d rows to do, %d done before", job.directory, len(pending), job.rows - len(pending))
        started = time.monotonic()
        if pending:
            _run_pending(job, pending, shards, records)
    counts = job.finish(records)
    write_run_record(
        job.directory,
        raw,
        task=task.name,
        settings=settings,
        splits=counts,
        rows_this_run=len(pending),
        seconds_this_run=round(time.monotonic() - started, 1),
    )
    _report_errors(job, records)
    return 0


@dataclass
class Job:
    """A checked run: its rows, texts and names; nothing heavy is loaded yet."""

    config: RunConfig
    task: Task
    prompts: Prompts
    llm: str
    llm_revision: str | None
    checkpoint_folders: list[Path]
    tables: list[tuple[Table, str]]
    directory: Path

    @property
    def rows(self) -> int:
        """Number of rows over all splits."""
        return sum(len(table.positions) for table, _ in self.tables)

    def settings(self) -> dict[str, Any]:
        """All that decides a row's result; results made with anything else must not be mixed with these."""
        config, model = self.config, self.config.model
        return {
            "task": self.task.name,
            "dataset": {table.split: table.data._fingerprint for table, _ in self.tables},
            "llm": [self.llm, self.llm_revision, file_digests(Path(resolve_source(self.llm)), "*.safetensors")],
            "checkpoints": [file_digests(folder, STATE_FILE) for folder in self.checkpoint_folders],
            "prompts": self.prompts.digest(),
            "audio_input": config.audio_input,
            "max_tokens": [model.max_tokens, model.max_thinking_tokens],
            "seed": config.seed,
            "greedy": config.greedy,
            "max_model_len": config.engine.max_model_len,
        }

    def sampling(self) -> Sampling:
        """Sampling settings of this run."""
        model = self.config.model
        return Sampling(
            max_tokens=model.max_tokens,
            max_thinking_tokens=model.max_thinking_tokens,
            greedy=self.config.greedy,
            budget_closing=self.prompts.budget_closing,
        )

    def pending(self, records: Mapping[str, Any]) -> list[tuple[Table, str, int]]:
        """Rows without a record: table, text column, position."""
        return [
            (table, column, row)
            for table, column in self.tables
            for row in table.positions
            if table.key(row) not in records
        ]

    def items(self, pending: list[tuple[Table, str, int]]) -> Iterator[Item]:
        """The rows as the task asks about them."""
        others: dict[str, list[int]] = {}
        if self.config.audio_input == "other":
            others = {table.split: other_rows(table, self.config.seed or 0) for table, _ in self.tables}
        for table, column, row in pending:
            key, cells = table.key(row), table.texts[row]
            try:
                content = self.task.content(cells, column, self.prompts)
            except ValueError as error:
                yield Item(key, error=str(error))
                continue
            audio = None
            if self.config.hears:
                audio = table.audio(others[table.split][row] if others else row)
            yield Item(key, content, audio, cells.get("audio_description"), self.config.request_seed(key))

    def finish(self, records: Mapping[str, Any]) -> dict[str, Any]:
        """Assemble the data set; returns the counts for each split."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve_source(self.llm), revision=self.llm_revision)
        return assemble(
            self.directory,
            self.tables,
            records,
            self.task,
            fallback=self.config.answer_fallback,
            inside_thoughts=opens_thoughts(tokenizer),
            save_audio=self.config.save_audio,
        )


def prepare(config: RunConfig, task: Task) -> Job:
    """Check everything that can be checked without loading a model. Raises :class:`UserError`."""
    prompts = read_prompts(config.prompts)
    folders = [find_checkpoint(name) for name in config.checkpoints]
    trained_with = read_config(folders[0]) if folders else None
    llm = config.model.llm or (trained_with.llm if trained_with else "")
    same = trained_with is not None and trained_with.llm == llm
    revision = config.model.llm_revision or (trained_with.llm_revision if same and trained_with else None)
    name = config.dataset.name
    tables: list[tuple[Table, str]] = []
    for table in open_tables(config.dataset, config.seed or 0):
        found, column = with_texts(table, name) if task.free_text else (table, "question")
        if not task.free_text:
            need_columns(found, ("question", "choices"), name, "multiple choice")
        if config.hears:
            need_columns(found, ("audio",), name, f"audio_input={config.audio_input}")
        if config.audio_input == "description":
            need_columns(found, ("audio_description",), name, "audio_input=description")
        tables.append((found, column))
    directory = generated_dir(model_short_name(llm), config.output_name())
    return Job(config, task, prompts, llm, revision, folders, tables, directory)


def _run_pending(
    job: Job, pending: list[tuple[Table, str, int]], shards: Shards, records: dict[str, dict[str, Any]]
) -> None:
    import torch

    from src.generation.vllm_core import VllmEngine, prepare_environment

    prepare_environment()
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda:0", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    ears = Ears.load(job.config.checkpoints, device, dtype) if job.config.hears else None
    engine = VllmEngine(job.llm, job.config.engine, job.llm_revision)
    try:
        requests = make_requests(job, pending, engine, ears)
        for record in respond(engine, requests, job.sampling(), len(pending)):
            shards.append(record)
            records[record["key"]] = record
    finally:
        engine.close()


def make_requests(
    job: Job, pending: list[tuple[Table, str, int]], engine: Engine, ears: Ears | None
) -> Iterator[Request]:
    """Requests of the pending rows, prepared as they are asked for."""
    items = job.items(pending)
    system = job.task.system(job.prompts)
    if ears is None:
        turns = Turns(engine.tokenizer, job.prompts, system)
        return text_requests(items, turns, read=job.config.audio_input == "description")
    turns = Turns(engine.tokenizer, job.prompts, system, ears.explicit_tags)
    return hearing_requests(items, ears, turns, job.config.batch_size)


def respond(engine: Engine, requests: Iterator[Request], sampling: Sampling, total: int) -> Iterator[dict[str, Any]]:
    """Records of finished rows, with a progress bar: rows/s and tokens/s."""
    from tqdm import tqdm

    started, tokens = time.monotonic(), 0
    interval = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=total, unit="row", mininterval=interval, dynamic_ncols=True) as bar:
        for result in engine.run(requests, sampling):
            tokens += result.num_tokens
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update()
            yield to_record(result)


def to_record(result: Result) -> dict[str, Any]:
    """What a shard keeps of a result."""
    return {
        "key": result.key,
        "response": None if result.error is not None else result.text,
        "finish_reason": result.finish_reason,
        "budget_hit": result.budget_hit,
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "error": result.error,
    }


def file_digests(folder: Path, pattern: str) -> dict[str, str]:
    """Content hashes of the matching files, by name; the size stands for the content of very large files."""
    digests = {}
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        size = path.stat().st_size
        if size > _DIGEST_UP_TO:
            digests[path.name] = f"{size} bytes"
        else:
            with path.open("rb") as content:
                digests[path.name] = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    return digests


def _report_errors(job: Job, records: Mapping[str, Mapping[str, Any]]) -> None:
    keys = [table.key(row) for table, _ in job.tables for row in table.positions]
    errors = {key: str(records[key]["error"]) for key in keys if records[key]["error"] is not None}
    log.info("%d rows in %s", len(keys), job.directory)
    if errors:
        first = next(iter(errors.items()))
        kinds = Counter(errors.values()).most_common(1)[0]
        log.warning(
            "%d of %d rows have no answer (column error); first: %s: %s; most often (%d): %s",
            len(errors),
            len(keys),
            *first,
            kinds[1],
            kinds[0],
        )
