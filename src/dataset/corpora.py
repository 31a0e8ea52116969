"""Mixtures over the corpus table: a few names become the rows, evaluation sets and groups of a training run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError
from src.common.naming import ResponseName
from src.dataset.mixture import DatasetConfig
from src.dataset.published import apply_set_options, from_published, is_published

INSTRUCTION_GROUP = "instruction"


@dataclass(frozen=True)
class InstructionSet:
    """How a set of spoken instructions is read.

    ``base`` is the first part of its response folders' names, ``modes`` the ways it is trained on, one row each;
    ``evaluated`` says whether it has a validation split.
    """

    base: str
    modes: list[str]
    evaluated: bool = True


@dataclass(frozen=True)
class CorpusTable:
    """All corpora by group, and the instruction sets by name."""

    groups: dict[str, list[str]]
    instruction: dict[str, InstructionSet] = field(default_factory=dict)

    def select(self, names: Sequence[str], where: str) -> list[str]:
        """Corpora in the given order, groups replaced by their members.

        Raises :class:`ConfigError` naming everything unknown, and what is named twice.
        """
        known = {corpus: [corpus] for members in self.groups.values() for corpus in members} | self.groups
        problems = [_unknown(where, name, known) for name in names if name not in known]
        chosen = [corpus for name in names for corpus in known.get(name, [])]
        twice = sorted({corpus for corpus in chosen if chosen.count(corpus) > 1})
        problems += [f"{where}: {corpus} is named twice" for corpus in twice]
        if problems:
            raise ConfigError("; ".join(problems))
        return chosen


@dataclass(frozen=True)
class MixtureChoice:
    """A mixture as its YAML gives it (``src/configs/dataset/_mixture.yaml`` tells of every key)."""

    name: str
    table: CorpusTable
    llm: str
    max_tokens: int = 512
    rephrased: bool = True
    max_thinking_tokens: int = -1
    instruction: list[str] = field(default_factory=list)
    corpora: list[str] = field(default_factory=list)
    eval_corpora: list[str] | None = None
    fractions: dict[str, float] | None = None
    skip_missing: bool = False
    limit: int | None = None
    return_audio: bool = True


def expand_mixture(dataset: Mapping[str, Any], where: str = "dataset") -> dict[str, Any]:
    """The ``dataset`` group with its rows written out, whichever form it has; published options of its sets apply.

    Training rows are those of the instruction sets, then one for each corpus; every evaluated corpus is an evaluation
    set of that name, and the groups are those of the table, as far as they are evaluated. Raises :class:`ConfigError`
    for unknown names, all at once.
    """
    if is_published(dataset):
        return from_published(dataset, where)
    if "table" not in dataset:
        own = {field.name for field in fields(DatasetConfig)}
        sets = {name: value for name, value in dataset.items() if name not in own and isinstance(value, Mapping)}
        rows = {name: value for name, value in dataset.items() if name not in sets}
        return apply_set_options(rows, sets, where) if sets else rows
    choosing = {field.name for field in fields(MixtureChoice)}
    sets = {name: value for name, value in dataset.items() if name not in choosing and isinstance(value, Mapping)}
    chosen = {name: value for name, value in dataset.items() if name not in sets}
    return apply_set_options(_expand(chosen, where), sets, where)


def _expand(dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    choice = bind_dataclass(MixtureChoice, dataset, where)
    table = choice.table
    problems = [_unknown(f"{where}.instruction", name, table.instruction) for name in choice.instruction
                if name not in table.instruction]  # fmt: skip
    corpora = table.select(choice.corpora, f"{where}.corpora")
    evaluated = corpora
    if choice.eval_corpora is not None:
        evaluated = table.select(choice.eval_corpora, f"{where}.eval_corpora")
    problems += [
        _unknown(f"{where}.fractions", name, dict.fromkeys([*corpora, *evaluated]))
        for name in choice.fractions or {}
        if name not in {*corpora, *evaluated}
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    spoken = {name: _instruction_rows(choice, table.instruction[name]) for name in choice.instruction}
    rows = [row for name in choice.instruction for row in spoken[name]]
    evaluation = {name: spoken[name] for name in choice.instruction if table.instruction[name].evaluated}
    evaluation |= {corpus: [_corpus_row(choice, corpus)] for corpus in evaluated}
    common = {"return_audio": choice.return_audio}
    return {
        "name": choice.name,
        "train": {
            "rows": rows + [_corpus_row(choice, corpus) for corpus in corpora],
            "split": "train",
            "limit": choice.limit,
            **common,
        },
        "eval": {name: {"rows": part, "split": "validation", **common} for name, part in evaluation.items()},
        "groups": _groups(table, evaluation),
        "skip_missing": choice.skip_missing,
    }


def _groups(table: CorpusTable, evaluation: Mapping[str, Any]) -> dict[str, list[str]]:
    groups = {group: [name for name in members if name in evaluation] for group, members in table.groups.items()}
    groups[INSTRUCTION_GROUP] = [name for name in evaluation if name in table.instruction]
    return {group: members for group, members in groups.items() if members}


def _corpus_row(choice: MixtureChoice, corpus: str) -> list[Any]:
    folder = _folder(choice, ResponseName(corpus, choice.llm, choice.max_tokens, choice.rephrased,
                                          choice.max_thinking_tokens))  # fmt: skip
    return [folder, "WithContext", float((choice.fractions or {}).get(corpus, 1.0)), False]


def _instruction_rows(choice: MixtureChoice, chosen: InstructionSet) -> list[list[Any]]:
    folder = _folder(choice, ResponseName(chosen.base, choice.llm, choice.max_tokens))
    return [[folder, mode, 1.0, False] for mode in chosen.modes]


def _folder(choice: MixtureChoice, name: ResponseName) -> str:
    try:
        return name.format()
    except UserError as error:
        raise ConfigError(f"dataset.llm: {error}") from error


def _unknown(where: str, name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"{where}: unknown {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
