"""Settings of a prompt run; light, so that ``--help`` is too."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.cli import add_options
from src.common.errors import UserError
from src.common.json_lines import read_json_lines
from src.common.paths import prompts_dir
from src.corpus.stages.response_settings import ALIASES, SEQUENCES_HELP


@dataclass(frozen=True)
class PromptSettings:
    """Everything that shapes a run.

    ``llm`` writes and, unless ``checker_llm`` is given, also checks. ``examples`` descriptions of the corpus are
    shown to the writer. Rows without a usable list or without a good prompt are asked again, up to ``tries`` times
    in all. ``max_tokens`` bounds each output, ``max_thinking_tokens`` (negative: none) the thoughts of models that
    have them. ``temperature``, ``top_p``, ``top_k``: the model's own where None. ``limit``: first rows of every
    split only. ``max_model_len`` is the context; ``max_num_seqs`` are requests decoded at once (None: as the
    machine can).
    """

    llm: str = "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"
    checker_llm: str | None = None
    prompts: str = "full"
    examples: int = 8
    tries: int = 3
    max_tokens: int = 4000
    max_thinking_tokens: int = -1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    limit: int | None = None
    max_model_len: int = 8704
    max_num_seqs: int | None = None

    def __post_init__(self) -> None:
        for name in ("tries", "max_tokens", "limit", "max_num_seqs", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")
        if self.examples < 0:
            raise UserError(f"examples is {self.examples}, expected 0 or more")

    @property
    def checker(self) -> str:
        """The language model that checks."""
        return self.checker_llm or self.llm

    def recorded(self) -> dict[str, Any]:
        """What a finished set is compared with: all but how far it went and what only concerns speed."""
        left_out = ("limit", "tries", "max_num_seqs")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


DROPPED_FILE = "dropped.jsonl"
"""Rows that the prompt set lacks, beside it: ``split``, ``dataset_index``, ``reason``."""


def work_dir(name: str) -> Path:
    """Where the results of a corpus are kept row by row: beside the prompt set, which is there only when whole."""
    folder = prompts_dir(name)
    return folder.with_name(f"{folder.name}.work")


def dropped_keys(name: str, split: str) -> list[int]:
    """``dataset_index`` of the rows that got no prompt; empty for sets that were not made here."""
    path = prompts_dir(name) / DROPPED_FILE
    return [entry["dataset_index"] for entry in read_json_lines(path) if entry["split"] == split]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for every field of :class:`PromptSettings`."""
    aliases = {name: names for name, names in ALIASES.items() if name in _HELP}
    add_options(parser, PromptSettings, _HELP, aliases)


_HELP = {
    "llm": "language model that writes the prompts: folder or Hub id",
    "checker_llm": "language model that checks them, if it is another one",
    "prompts": "prompt set with the texts for both: full, mini or a file NAME.yaml",
    "examples": "descriptions of the corpus that the writer is shown",
    "tries": "attempts for a row that fails, the first included",
    "max_tokens": "most tokens of an output",
    "max_thinking_tokens": "thinking budget of models that think, negative for none",
    "temperature": "the model's own unless given; 0 is greedy",
    "top_p": "the model's own unless given",
    "top_k": "the model's own unless given",
    "seed": "seed of all rows",
    "limit": "only the first rows of every split; below 1: all",
    "max_model_len": "longest request and output together",
    "max_num_seqs": f"outputs {SEQUENCES_HELP}",
}
