"""Settings of a response run and the names of what it writes; light, so that ``--help`` is too."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from src.common.cli import add_options
from src.common.errors import UserError
from src.common.naming import ResponseName, model_short_name
from src.corpus.stages.answer_filter import LengthLimits, default_limits

SettingsT = TypeVar("SettingsT")


class Drawing(Protocol):
    """How tokens are drawn; None is the model's own value, temperature 0 is greedy."""

    @property
    def temperature(self) -> float | None: ...

    @property
    def top_p(self) -> float | None: ...

    @property
    def top_k(self) -> int | None: ...


def drawing(settings: Drawing, max_tokens: int, max_thinking_tokens: int) -> dict[str, Any]:
    """Options of ``Sampling``, also kept as what results depend on."""
    return {
        "max_tokens": max_tokens,
        "max_thinking_tokens": max_thinking_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "greedy": settings.temperature == 0,
    }


@dataclass(frozen=True)
class AnswerSettings:
    """How a language model answers the rows of a set.

    ``max_tokens`` bounds the first answer. ``temperature``, ``top_p``, ``top_k``: the model's own where None.
    ``limit``: first rows of every split only. Rows that fail are answered again, up to ``tries`` attempts in all.
    ``max_model_len`` is the context; ``max_num_seqs`` are requests decoded at once (None: as the machine can).
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

    def __post_init__(self) -> None:
        for name in ("max_tokens", "rephrase_max_tokens", "limit", "tries", "max_num_seqs", "max_model_len"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    @property
    def attempts(self) -> int:
        """Most attempts for a row."""
        return self.tries or 1

    def sampling(self) -> dict[str, Any]:
        """Options of ``Sampling`` for a first answer: cut at its limit, without a thinking budget."""
        return drawing(self, self.max_tokens, -1)


@dataclass(frozen=True)
class ResponseSettings(AnswerSettings):
    """Everything that shapes a run over audio corpora.

    ``max_thinking_tokens`` (negative: none) and ``rephrase_max_tokens`` bound the rewriter and the checker. Rows fail
    if the rewriting is unusable, or betrays a reader in the eyes of ``checker_llm``; ``tries`` None is 3 with a
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

    @property
    def length_limits(self) -> LengthLimits:
        """The answer filter's limits: the prompt set's, unless given."""
        limits = default_limits(self.prompts)
        low = limits.tokens_min if self.tokens_min is None else self.tokens_min
        high = limits.tokens_max if self.tokens_max is None else self.tokens_max
        return LengthLimits(low, high)


@dataclass(frozen=True)
class SetNames:
    """Response folders of one corpus: the plain set, and the final one (the same without rephrasing and check)."""

    plain: str
    final: str

    @classmethod
    def of(cls, dataset: str, settings: ResponseSettings) -> SetNames:
        """Names by the published rule."""
        plain = ResponseName(dataset, model_short_name(settings.llm), settings.max_tokens)
        final = replace(
            plain,
            rephrased=settings.rephrase,
            max_thinking_tokens=settings.max_thinking_tokens if settings.rephrase else -1,
            checked=settings.checker_llm is not None,
        )
        return cls(plain.format(), final.format())


def add_arguments(parser: argparse.ArgumentParser, kind: type[AnswerSettings] = ResponseSettings) -> None:
    """One option for every field of the settings, ``max_tokens`` as ``--max-tokens``."""
    add_options(parser, kind, _HELP, ALIASES)


def read_arguments(arguments: argparse.Namespace, kind: type[SettingsT]) -> SettingsT:
    """The settings that were given."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(arguments, name) for name in names})


ALIASES = {
    "llm": ("--model-name",),
    "tries": ("--max-tries",),
    "max_num_seqs": ("--batch-size",),
    "tokens_min": ("--tokens-min-limit",),
    "tokens_max": ("--tokens-max-limit",),
}
"""Published names of options."""
SEQUENCES_HELP = "decoded at once (default: 2048 on a GPU, 64 on a CPU)"
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
    "checker_llm": "language model that looks for betraying responses; failing rows are tried again",
    "checker_prompt": "text file with the checker's task, instead of the shipped one",
    "tries": "attempts for a row that fails, the first included (3 with a checker, else 1)",
    "tokens_min": "shortest response to keep for training; the prompt set's unless given (full: 100)",
    "tokens_max": "longest response to keep for training; the prompt set's unless given (full: 612)",
    "max_model_len": "longest prompt and response together",
    "max_num_seqs": f"responses {SEQUENCES_HELP}",
}
