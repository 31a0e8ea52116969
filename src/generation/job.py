"""Job: a checked run with its rows, prompts, names and settings, before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.augment import Augmenter
from src.common.existing import Step, next_step, set_problem
from src.common.naming import model_short_name
from src.common.paths import generated_dir
from src.dataset.row_log import SHARDS
from src.generation.config import RunConfig
from src.generation.input_dataset import (
    RowRef,
    Table,
    mismatched_rows,
    need_columns,
    open_tables,
    row_key,
    with_texts,
)
from src.generation.task_types import Task
from src.inference.config import LlmSource
from src.inference.load import check_embedder_widths, resolve_llm
from src.inference.prompt_builder import RowInput
from src.inference.types import RequestError, Sampling
from src.model.checkpoints import Checkpoint, open_checkpoint
from src.model.llm import load_chat_tokenizer, load_tokenizer, resolve_source
from src.prompts import Prompts, choose_prompts
from src.prompts.find_reasoning import find_reasoning
from src.prompts.multiple_choice import choice_texts
from src.prompts.reasoning import THINK, Reasoning, find_format

_DIGEST_UP_TO = 2**30  # bytes; reading the weights of a large model whole would delay every start by minutes


@dataclass
class Job:
    """A checked run; no model is loaded yet."""

    config: RunConfig
    task: Task
    prompts: Prompts
    llm: LlmSource
    checkpoints: list[Checkpoint]
    tables: list[Table]
    directory: Path

    @property
    def rows(self) -> int:
        """Number of rows over all splits."""
        return sum(len(table.positions) for table in self.tables)

    def settings(self) -> dict[str, Any]:
        """Fingerprint of every setting that affects results: those of other settings must not be mixed with these."""
        config, model, llm = self.config, self.config.model, self.llm
        digests: dict[str, str] = {}
        template = None
        if config.endpoint is None:  # the name of an endpoint's model may be that of a folder here by chance
            folder = Path(resolve_source(llm.name))
            digests, template = file_digests(folder, "*.safetensors"), _template_digest(folder)
        precision = [model.front_end_dtype, model.encoder_dtype or model.front_end_dtype]
        # a setting at its default adds no key: runs that were begun before there was this setting are continued
        return {
            "task": self.task.name,
            "dataset": {table.split: table.data._fingerprint for table in self.tables},
            **({} if config.endpoint is None else {"endpoint": config.endpoint.fingerprint()}),
            "llm": [llm.name, llm.revision, digests],
            "checkpoints": [checkpoint.digest() for checkpoint in self.checkpoints],
            "prompts": self.prompts.digest(),
            "audio_input": config.audio_input,
            "max_tokens": [model.max_tokens, model.max_thinking_tokens],
            "seed": config.seed,
            "greedy": config.greedy,
            "max_model_len": config.engine.max_model_len,
            **({} if template is None else {"chat_template": template}),
            **({} if config.options_seed is None else {"options_seed": config.options_seed}),
            **({} if llm.reasoning is None else {"reasoning": llm.reasoning}),
            **({} if config.answers == "written" else {"answers": config.answers}),
            **({"lora": config.engine.lora} if llm.lora is not None else {}),
            **({"augment": asdict(config.augment)} if config.augment.active else {}),
            **({} if precision == ["float32"] * 2 else {"front_end_dtype": precision}),
        }

    @cached_property
    def reasoning(self) -> Reasoning:
        """How responses are built; those of an endpoint may have reasoning, in ``think`` unless the run says it."""
        if self.config.endpoint is not None:
            return Reasoning(find_format(self.llm.reasoning or THINK.name), opened=False, expected=False)
        return find_reasoning(load_tokenizer(self.llm.name, self.llm.revision, self.llm.reasoning))

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
        """Rows without a record, and those that an endpoint could not answer."""
        # every other status is the row's own fault, which another attempt would meet again
        done = {key for key, record in records.items() if record["status"] != "unavailable"}
        return [row for table in self.tables for row in table.rows if row_key(row) not in done]

    @cached_property
    def _mismatched(self) -> dict[str, list[int]]:
        """For ``audio_input=other``: the position of each row's mismatched clip."""
        if self.config.audio_input != "other":
            return {}
        return {table.split: mismatched_rows(table, self.config.seed or 0) for table in self.tables}

    @cached_property
    def augmenter(self) -> Augmenter | None:
        """Changes the clips, if the run asks for it."""
        return Augmenter(self.config.augment, self.config.seed or 0) if self.config.augment.active else None

    def items(self, rows: Iterable[RowRef]) -> Iterator[RowInput]:
        """Inputs of the prompt builder for the rows."""
        tables, others = {table.split: table for table in self.tables}, self._mismatched
        for split, row in rows:
            table = tables[split]
            key, cells = row_key((split, row)), table.texts[row]
            try:
                content = self.task.content(cells, table.text_column, self.prompts)
            except ValueError as error:
                yield RowInput(key, error=RequestError("missing_text", str(error)))
                continue
            audio = None
            if self.config.uses_audio:
                audio = table.audio(others[split][row] if others else row)
            change = None if self.augmenter is None else partial(self.augmenter.change, key)
            options = () if self.config.answers == "written" else tuple(choice_texts(cells["choices"]))
            seed, description = self.config.request_seed(key), cells.get("audio_description")
            yield RowInput(key, content, audio, description, seed, options=options, change=change)

    def next_step(self) -> Step:
        """Decide what to do about existing answers: rows are resumed by their shards, which only this program has.

        Raises :class:`UserError` for incomplete answers of another program that are not to be overwritten.
        """
        ours = (self.directory / SHARDS).is_dir()
        problem: str | None = "it has shards to continue"
        if not ours:
            asked = {
                table.split: np.array([table.dataset_index(row) for row in table.positions]) for table in self.tables
            }
            columns = ("context", "llm_answer") if self.task.free_text else ("question", "choices", "llm_answer")
            problem = set_problem(self.directory, columns, asked)
        return next_step(
            "generated answers",
            self.directory,
            problem,
            ours=ours,
            overwrite=self.config.overwrite and not ours,
            option="overwrite=true",
            other_name="run_tag=NAME to keep both",
        )

    def check_template(self) -> None:
        """Check the language model's chat template. Raises :class:`UserError` if audio cannot be placed in it."""
        if self.config.endpoint is None:
            load_chat_tokenizer(self.llm.name, self.llm.revision, self.llm.reasoning)


def prepare(config: RunConfig, task: Task) -> Job:
    """Check everything that can be checked without loading a model. Raises :class:`UserError`."""
    checkpoints = [open_checkpoint(name) for name in config.checkpoints]
    if config.endpoint is not None:
        llm = LlmSource(str(config.endpoint.model), reasoning=config.model.reasoning)
    else:
        llm = resolve_llm(checkpoints, config.model)
    if config.uses_audio:
        check_embedder_widths(checkpoints, llm)
    known_llm = llm.name if config.endpoint is None else None
    prompts = choose_prompts(config.prompts, [(each.name, each.extra) for each in checkpoints], known_llm)
    name = config.dataset.name
    tables = open_tables(config.dataset, config.seed or 0)
    if task.free_text:
        tables = [with_texts(table, name) for table in tables]
    for table in tables:
        if not task.free_text:
            need_columns(table, ("question", "choices"), name, "multiple choice")
        if config.uses_audio:
            need_columns(table, ("audio",), name, f"audio_input={config.audio_input}")
        if config.audio_input == "description":
            need_columns(table, ("audio_description",), name, "audio_input=description")
    return Job(config, task, prompts, llm, checkpoints, tables, output_folder(llm.name, config))


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


def _template_digest(folder: Path) -> str | None:
    """Hash of the chat template in a model folder; ``None`` for a Hub id, whose revision stands for its files."""
    file = folder / "chat_template.jinja"  # transformers prefers it to the tokenizer's configuration
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        text = text or json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError):
        return None
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]


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
