"""A run that is checked but not started: its rows, texts, names, and what decides its results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import ConfigError
from src.common.existing import Step, next_step, set_problem
from src.common.naming import model_short_name
from src.common.paths import generated_dir
from src.generation.assemble import assemble
from src.generation.config import RunConfig
from src.generation.requests import Fault, Sampling
from src.generation.respond import Item
from src.generation.shards import FOLDER
from src.generation.tables import RowRef, Table, need_columns, open_tables, other_rows, with_texts
from src.generation.tasks import Task
from src.model.checkpoints import Checkpoint, open_checkpoint, shared_lora
from src.model.llm import llm_width, resolve_source
from src.prompts import Prompts, choose_prompts
from src.prompts.chat import opens_thoughts

_DIGEST_UP_TO = 2**30


@dataclass
class Job:
    """A checked run: its rows, texts and names; nothing heavy is loaded yet."""

    config: RunConfig
    task: Task
    prompts: Prompts
    llm: str
    llm_revision: str | None
    checkpoints: list[Checkpoint]
    tables: list[tuple[Table, str]]
    directory: Path

    @property
    def rows(self) -> int:
        """Number of rows over all splits."""
        return sum(len(table.positions) for table, _ in self.tables)

    @cached_property
    def lora(self) -> Path | None:
        """LoRA of the language model, as the checkpoints were trained with it."""
        return shared_lora(self.checkpoints)

    def settings(self) -> dict[str, Any]:
        """All that decides a row's result; results made with anything else must not be mixed with these."""
        config, model = self.config, self.config.model
        precision = [model.front_end_dtype, model.encoder_dtype or model.front_end_dtype]
        return {
            "task": self.task.name,
            "dataset": {table.split: table.data._fingerprint for table, _ in self.tables},
            "llm": [self.llm, self.llm_revision, file_digests(Path(resolve_source(self.llm)), "*.safetensors")],
            "checkpoints": [checkpoint.digest() for checkpoint in self.checkpoints],
            "prompts": self.prompts.digest(),
            "audio_input": config.audio_input,
            "max_tokens": [model.max_tokens, model.max_thinking_tokens],
            "seed": config.seed,
            "greedy": config.greedy,
            "max_model_len": config.engine.max_model_len,
            **({} if config.options_seed is None else {"options_seed": config.options_seed}),
            **({"lora": config.engine.lora} if self.lora is not None else {}),
            **({} if precision == ["float32"] * 2 else {"front_end_dtype": precision}),
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

    def pending(self, records: Mapping[str, Any]) -> list[RowRef]:
        """Rows without a record."""
        return [
            (table.split, row) for table, _ in self.tables for row in table.positions if table.key(row) not in records
        ]

    @cached_property
    def _others(self) -> dict[str, list[int]]:
        """For ``audio_input=other``: the rows whose clips are heard."""
        if self.config.audio_input != "other":
            return {}
        return {table.split: other_rows(table, self.config.seed or 0) for table, _ in self.tables}

    def items(self, rows: Iterable[RowRef]) -> Iterator[Item]:
        """The rows as the task asks about them."""
        tables, others = {table.split: (table, column) for table, column in self.tables}, self._others
        for split, row in rows:
            table, column = tables[split]
            key, cells = table.key(row), table.texts[row]
            try:
                content = self.task.content(cells, column, self.prompts)
            except ValueError as error:
                yield Item(key, fault=Fault("missing_text", str(error)))
                continue
            audio = None
            if self.config.hears:
                audio = table.audio(others[split][row] if others else row)
            yield Item(key, content, audio, cells.get("audio_description"), self.config.request_seed(key))

    def next_step(self) -> Step:
        """Decide what to do about existing answers: rows are resumed by their shards, which only this program has.

        Raises :class:`UserError` for incomplete answers of another program that are not to be overwritten.
        """
        ours = (self.directory / FOLDER).is_dir()
        problem = "it has shards to continue" if ours else self._problem()
        return next_step(
            "generated answers",
            self.directory,
            problem,
            ours=ours,
            overwrite=self.config.overwrite and not ours,
            option="overwrite=true",
            other_name="run_tag=NAME to keep both",
        )

    def _problem(self) -> str | None:
        """Why a saved set in the output folder does not answer the rows of this run; None if it does."""
        asked = {
            table.split: np.array([table.dataset_index(row) for row in table.positions]) for table, _ in self.tables
        }
        columns = ("context", "llm_answer") if self.task.free_text else ("question", "choices", "llm_answer")
        return set_problem(self.directory, columns, asked)

    def check_template(self) -> None:
        """Check the language model's chat template. Raises :class:`UserError` if audio cannot be placed in it."""
        from src.model.llm import load_chat_tokenizer

        load_chat_tokenizer(self.llm, self.llm_revision)

    def finish(self, records: Mapping[str, Any]) -> dict[str, Any]:
        """Assemble the data set; returns the counts for each split."""
        from src.model.llm import load_tokenizer

        tokenizer = load_tokenizer(self.llm, self.llm_revision)
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
    checkpoints = [open_checkpoint(name) for name in config.checkpoints]
    trained_with = checkpoints[0].config if checkpoints else None
    llm = config.model.llm or (trained_with.llm if trained_with else "")
    same = trained_with is not None and trained_with.llm == llm
    revision = config.model.llm_revision or (trained_with.llm_revision if same and trained_with else None)
    check_width(config.model.llm_embedding_dim, llm, revision)
    prompts = choose_prompts(config.prompts, [(each.name, each.extra) for each in checkpoints], llm)
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
    directory = output_folder(llm, config)
    job = Job(config, task, prompts, llm, revision, checkpoints, tables, directory)
    _ = job.lora  # members of an ensemble that differ in it are told now
    return job


def output_folder(llm: str, config: RunConfig) -> Path:
    """Folder of a run's answers.

    The published program makes nested folders of the slash in a Hub id; answers that are there already are found.
    """
    place = generated_dir(model_short_name(llm), config.output_name())
    name = config.dataset.name
    if "/" in name and not name.startswith(("/", ".")):
        nested = place.parent / (name + place.name.removeprefix(name.replace("/", "_")))
        if nested.is_dir() and not place.is_dir():
            return nested
    return place


def check_width(stated: int | None, llm: str, revision: str | None = None) -> None:
    """Compare ``model.llm_embedding_dim``, where it is given, with the language model's width.

    Raises :class:`ConfigError` if they differ.
    """
    if stated is None:
        return
    width = llm_width(llm, revision)
    if width != stated:
        raise ConfigError(
            f"model.llm_embedding_dim={stated}: the embeddings of {llm} have {width} values; leave the key out, or "
            "name the language model that it belongs to (model.llm=…)"
        )


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
