"""Settings of the commands that run a language model over rows, and the folders they write; light for ``--help``."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from src.common.cli import add_options
from src.common.errors import UserError
from src.common.files import read_json_lines
from src.common.naming import ResponseName, model_short_name
from src.common.paths import prompts_dir
from src.corpus.targets.answer_filter import LengthLimits, default_limits
from src.prompts.reasoning import THINKING, Reasoning, find_format

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class AnswerSettings:
    """How a language model answers the rows of a set.

    ``max_tokens`` bounds the first answer. ``temperature``, ``top_p``, ``top_k``: the model's own where None.
    ``limit``: first rows of every split only. Rows that fail are answered again, up to ``tries`` attempts in all.
    ``max_model_len`` is the context; ``max_num_seqs`` are requests decoded at once (None: as the machine can).
    ``reasoning`` is the format of the model's reasoning, where its chat template does not show it.
    """

    llm: str = "Qwen/Qwen3-4B-Thinking-2507"
    max_tokens: int = 512
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    limit: int | None = None
    tries: int | None = None
    max_model_len: int = 8192
    max_num_seqs: int | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.reasoning is not None:
            find_format(self.reasoning)
        # also of the subclasses, each of which has some of these fields
        for name in ("max_tokens", "rephrase_max_tokens", "limit", "tries", "max_num_seqs", "max_model_len"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    @property
    def llm_name(self) -> str:
        """Short name of the language model, part of folder names."""
        return model_short_name(self.llm)

    @property
    def attempts(self) -> int:
        """Most attempts for a row."""
        return self.tries or 1

    def recorded(self) -> dict[str, Any]:
        """Settings that a finished set is compared with."""
        # records from before there were reasoning formats have no such key
        return {name: value for name, value in asdict(self).items() if (name, value) != ("reasoning", None)}

    def sampling(self, max_tokens: int | None = None, max_thinking_tokens: int = -1) -> dict[str, Any]:
        """Options of ``Sampling``, also stored as settings of the results; by default those of a first answer."""
        return {
            "max_tokens": self.max_tokens if max_tokens is None else max_tokens,
            "max_thinking_tokens": max_thinking_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "greedy": self.temperature == 0,
        }


@dataclass(frozen=True)
class PromptSettings(AnswerSettings):
    """Everything that shapes a prompt run.

    ``llm`` writes and, unless ``checker_llm`` is given, also checks. ``examples`` descriptions of the corpus are
    shown to the writer. Rows without a usable list or without a good prompt are asked again. ``max_tokens`` bounds
    each output, ``max_thinking_tokens`` (negative: none) the reasoning of models that have one.
    """

    llm: str = "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"
    max_tokens: int = 4000
    tries: int = 3
    max_model_len: int = 8704
    checker_llm: str | None = None
    prompts: str = "full"
    examples: int = 8
    max_thinking_tokens: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples < 0:
            raise UserError(f"examples is {self.examples}, expected 0 or more")

    @property
    def checker(self) -> str:
        """The language model that checks."""
        return self.checker_llm or self.llm

    def recorded(self) -> dict[str, Any]:
        """Settings that a finished set is compared with."""
        # a larger limit or more tries continue the set, and the number of sequences only affects speed
        left_out = ("limit", "tries", "max_num_seqs")
        return {name: value for name, value in super().recorded().items() if name not in left_out}


@dataclass(frozen=True)
class ResponseSettings(AnswerSettings):
    """Everything that shapes a run over audio corpora.

    ``max_thinking_tokens`` (negative: none) and ``rephrase_max_tokens`` bound the rewriter and the checker. Rows fail
    if the rewriting is unusable, or ``checker_llm`` finds a leak of the text source; ``tries`` None is 3 with a
    checker, else 1.
    """

    prompts: str = "full"
    rephrase: bool = True
    max_thinking_tokens: int = 1536
    rephrase_max_tokens: int = 4096
    checker_llm: str | None = None
    checker_prompt: str | None = None
    tokens_min: int | None = None
    tokens_max: int | None = None

    @property
    def attempts(self) -> int:
        """Most attempts for a row."""
        return self.tries or (3 if self.checker_llm else 1)

    def set_names(self, dataset: str) -> tuple[str, str]:
        """Response folders of a corpus: the plain set, and the final one (the same without rephrasing and check)."""
        # the published rule: the thinking budget is the rewriter's, and plain answers have none
        thinking = self.max_thinking_tokens if self.rephrase else -1
        checked = self.checker_llm is not None
        plain = ResponseName(dataset, self.llm_name, self.max_tokens)
        final = replace(plain, rephrased=self.rephrase, max_thinking_tokens=thinking, checked=checked)
        return plain.format(), final.format()

    def length_limits(self, reasoning: Reasoning = THINKING) -> LengthLimits:
        """The answer filter's limits: the prompt set's, unless given."""
        limits = default_limits(self.prompts)
        if not reasoning.expected:  # the published minimum counts thoughts; an answer alone may be brief
            limits = replace(limits, tokens_min=1)
        low = limits.tokens_min if self.tokens_min is None else self.tokens_min
        high = limits.tokens_max if self.tokens_max is None else self.tokens_max
        return LengthLimits(low, high)


DROPPED_FILE = "dropped.jsonl"
"""Rows that the prompt set lacks, next to it: ``split``, ``dataset_index``, ``reason``."""


def work_dir(name: str) -> Path:
    """Folder with the row logs of a corpus's prompts, next to the prompt set, which exists only when complete."""
    folder = prompts_dir(name)
    return folder.with_name(f"{folder.name}.work")


def dropped_keys(name: str, split: str) -> list[int]:
    """``dataset_index`` of the rows that got no prompt; empty for sets that were not made here."""
    path = prompts_dir(name) / DROPPED_FILE
    return [entry["dataset_index"] for entry in read_json_lines(path) if entry["split"] == split]


def add_arguments(parser: argparse.ArgumentParser, kind: type[AnswerSettings]) -> None:
    """One option for every field of the settings, ``max_tokens`` as ``--max-tokens``."""
    add_options(parser, kind, _HELP | (_PROMPT_HELP if kind is PromptSettings else {}), _ALIASES)


def read_arguments(arguments: argparse.Namespace, kind: type[SettingsT]) -> SettingsT:
    """The settings that were given."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(arguments, name) for name in names})


_ALIASES = {
    "llm": ("--model-name",),
    "tries": ("--max-tries",),
    "max_num_seqs": ("--batch-size",),
    "tokens_min": ("--tokens-min-limit",),
    "tokens_max": ("--tokens-max-limit",),
}
"""Published names of options."""
_SEQUENCES = "decoded at once (default: 2048 on a GPU, 64 on a CPU)"
_HELP = {
    "llm": "language model that answers (and rewrites): folder or Hub id",
    "prompts": "prompt set: full, mini or a file NAME.yaml (docs/generation.md)",
    "rephrase": "rewrite the responses into a listener's voice",
    "max_tokens": "most tokens of the first answer; longer ones stay cut",
    "max_thinking_tokens": "the rewriter's thinking budget, negative for none",
    "rephrase_max_tokens": "most tokens of the rewriter's and the checker's output",
    "temperature": "the model's own unless given; 0 is greedy",
    "top_p": "the model's own unless given",
    "top_k": "the model's own unless given",
    "seed": "seed of all rows",
    "limit": "only the first rows of every split; below 1: all",
    "checker_llm": "language model that looks for responses that leak the text source; failing rows are tried again",
    "checker_prompt": "text file with the checker's task, instead of the shipped one",
    "tries": "attempts for a row that fails, the first included (3 with a checker, else 1)",
    "tokens_min": "shortest response to keep for training; the prompt set's unless given (full: 100)",
    "tokens_max": "longest response to keep for training; the prompt set's unless given (full: 612)",
    "max_model_len": "longest prompt and response together",
    "max_num_seqs": f"responses {_SEQUENCES}",
    "reasoning": "format of its reasoning: think, think_brackets, harmony, granite, none, or its two texts with a "
    "blank between them (default: by its chat template)",
}
_PROMPT_HELP = {
    "llm": "language model that writes the prompts: folder or Hub id",
    "checker_llm": "language model that checks them, if it is another one",
    "prompts": "prompt set with the texts for both: full, mini or a file NAME.yaml",
    "examples": "descriptions of the corpus that the writer is shown",
    "tries": "attempts for a row that fails, the first included",
    "max_tokens": "most tokens of an output",
    "max_thinking_tokens": "thinking budget of models that think, negative for none",
    "max_model_len": "longest request and output together",
    "max_num_seqs": f"outputs {_SEQUENCES}",
}
