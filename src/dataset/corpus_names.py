"""Names of corpora: groups, ``all`` and mixtures over the table ``src/configs/corpora/alarm.yaml``.

A mixture of a few names becomes the rows, evaluation sets and groups of a training run.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from src.common.config import CONFIG_DIR, bind_dataclass
from src.common.errors import ConfigError, UserError, name_hint
from src.common.existing import LISTING
from src.common.naming import ResponseName
from src.common.paths import raw_dir
from src.dataset.mixture import StreamConfig, TrainDatasetConfig
from src.dataset.published import apply_set_options, from_published, is_published
from src.dataset.shard_index import is_shard_set

INSTRUCTION = "instruction"
"""Group of the sets of spoken instructions."""
OTHER = "other"
"""Group of sets without a recipe."""


@functools.cache
def _table() -> dict[str, Any]:
    import yaml

    table: dict[str, Any] = yaml.safe_load((CONFIG_DIR / "corpora" / "alarm.yaml").read_text(encoding="utf-8"))
    return table


def instruction_base(name: str) -> str:
    """The raw set of an instruction set that is trained on: itself, or its filtered one."""
    base: str = _table()[INSTRUCTION][name]["base"]
    return base


def instruction_modes(raw_name: str) -> tuple[str, ...]:
    """Ways in which an instruction set is trained on, by its name or its filtered one's; both for an unknown set."""
    for name, entry in _table()[INSTRUCTION].items():
        if raw_name in (name, entry["base"]):
            return tuple(entry["modes"])
    return ("WithContext", "NoContext")


@functools.cache
def groups() -> dict[str, tuple[str, ...]]:
    """Names of all corpora by group, in the order in which every stage goes through them; instruction sets last."""
    table = _table()
    return {
        **{group: tuple(names) for group, names in table["groups"].items()},
        INSTRUCTION: tuple(table[INSTRUCTION]),
    }


def audio_corpora() -> list[str]:
    """The corpora with descriptions, without the instruction sets."""
    return [name for group, names in groups().items() if group != INSTRUCTION for name in names]


def instruction_sets() -> tuple[str, ...]:
    """The sets of spoken instructions."""
    return groups()[INSTRUCTION]


def all_corpora() -> list[str]:
    """Every corpus that has a recipe."""
    return [name for names in groups().values() for name in names]


def group_of(name: str) -> str:
    """The group a corpus belongs to; ``other`` for a set without a recipe."""
    return next((group for group, names in groups().items() if name in names), OTHER)


def resolve_names(
    names: Sequence[str],
    known: Sequence[str] | None = None,
    is_set: Callable[[str], bool] = lambda name: False,
    lacking: str | None = "",
) -> list[str]:
    """Corpora from names, groups and ``all``, each once; every command reads its names with this.

    ``known`` are the corpora in question (default: all that have a recipe); a name for which ``is_set`` holds stands
    for itself. Raises :class:`ConfigError` for an unknown name. A group without a corpus in question counts as
    unknown; with ``lacking`` it raises :class:`UserError`, whose message ends so; with None it is left out.
    """
    known = all_corpora() if known is None else known
    chosen: dict[str, None] = {}
    for name in names:
        members = [name] if is_set(name) or name in known else []
        is_group = not members and (name == "all" or name in groups())
        if is_group:
            members = [each for each in known if name == "all" or each in groups()[name]]
        if is_group and not members and lacking:
            raise UserError(f"no corpus of {name!r} {lacking}")
        if not members and not (is_group and lacking is None):
            close = difflib.get_close_matches(name, [*known, *groups()], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}, and all"
            raise ConfigError(f"unknown corpus {name!r}; {hint}")
        chosen.update(dict.fromkeys(members))
    return list(chosen)


def corpora(names: Sequence[str], instruction: bool = False) -> list[str]:
    """The named corpora, or all that are collected. Raises :class:`UserError` if none is."""
    known = all_corpora() if instruction else audio_corpora()
    found = resolve_names(names, known) if names else collected(instruction)
    if not found:
        raise UserError(f"no corpus is collected in {raw_dir('NAME').parent}; see scripts/alarm/collect.py --list")
    return found


def collected(instruction: bool = False) -> list[str]:
    """All corpora that have a raw set here, whoever made it."""
    known = all_corpora() if instruction else audio_corpora()
    return [name for name in known if (raw_dir(name) / LISTING).is_file()]


def corpora_with_sets(names: Sequence[str], instruction: bool = False) -> list[str]:
    """Like :func:`corpora`, but any raw set may be named, also one without a recipe."""
    if not names:
        return corpora((), instruction)
    known = all_corpora() if instruction else audio_corpora()
    return resolve_names(names, known, lambda name: raw_dir(name).is_dir())


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


@dataclass(frozen=True, kw_only=True)
class _SetOptions:
    """Keys that mixtures and imported sets have in common: which responses, and how much of which sets."""

    max_tokens: int = 512
    rephrased: bool = True
    max_thinking_tokens: int = -1
    fractions: dict[str, float] | None = None
    skip_missing: bool = False
    limit: int | None = None
    return_audio: bool = True


@dataclass(frozen=True, kw_only=True)
class MixtureChoice(_SetOptions):
    """A mixture as its YAML gives it (``src/configs/dataset/_mixture.yaml`` describes every key)."""

    name: str
    table: CorpusTable
    llm: str
    instruction: list[str] = field(default_factory=list)
    corpora: list[str] = field(default_factory=list)
    eval_corpora: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class OwnSets(_SetOptions):
    """Imported raw sets (``src/configs/dataset/own.yaml`` describes every key)."""

    name: str
    sets: list[str]
    targets: Literal["text", "generated"] = "text"
    prompt: str | None = None
    eval_sets: list[str] | None = None
    llm: str = ""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("sets: which raw sets? e.g. dataset.sets=[mine], made by scripts/import_dataset.py")
        if self.prompt is not None and self.targets != "text":
            raise ValueError("prompt is for targets=text; generated responses have the prompt that they answer")


@dataclass(frozen=True)
class StreamedSets:
    """Shard sets by their addresses (``src/configs/dataset/shards.yaml`` explains every key)."""

    name: str
    shards: list[str]
    modes: list[str] = field(default_factory=lambda: ["WithContext"])
    eval_shards: list[str] = field(default_factory=list)
    prompt: str | None = None
    stream: StreamConfig = field(default_factory=StreamConfig)
    limit: int | None = None
    return_audio: bool = True

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError(
                "shards: which sets? e.g. dataset.shards=[s3://bucket/mine], by scripts/shard_dataset.py"
            )
        for address in (*self.shards, *self.eval_shards):
            if not is_shard_set(address):
                raise ValueError(f"shards: {address!r} is not an address or a path; for a folder here: ./{address}")


def expand_mixture(dataset: Mapping[str, Any], where: str = "dataset") -> dict[str, Any]:
    """The ``dataset`` group with its rows written out, whichever form it has; published options of its sets apply.

    Training rows are those of the instruction sets, then one for each corpus; every evaluated corpus is an evaluation
    set of that name, and the groups are those of the table, as far as they are evaluated. Raises :class:`ConfigError`
    for unknown names, all at once.
    """
    if is_published(dataset):
        return from_published(dataset, where)
    if "sets" in dataset:
        return _expand_own(bind_dataclass(OwnSets, dataset, where), where)
    if "shards" in dataset:
        return _expand_streamed(bind_dataclass(StreamedSets, dataset, where))
    form = MixtureChoice if "table" in dataset else TrainDatasetConfig
    own = {field.name for field in fields(form)}
    options = {name: value for name, value in dataset.items() if name not in own and isinstance(value, Mapping)}
    rest = {name: value for name, value in dataset.items() if name not in options}
    if form is MixtureChoice:
        rest = _expand(rest, where)
    return apply_set_options(rest, options, where) if options else rest


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
        _unknown(f"{where}.fractions", name, dict.fromkeys([*corpora, *evaluated]))  # each once, in this order
        for name in choice.fractions or {}
        if name not in {*corpora, *evaluated}
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    spoken = {name: _instruction_rows(choice, table.instruction[name]) for name in choice.instruction}
    rows = [row for name in choice.instruction for row in spoken[name]]
    evaluation = {name: spoken[name] for name in choice.instruction if table.instruction[name].evaluated}
    evaluation |= {corpus: [_corpus_row(choice, corpus)] for corpus in evaluated}
    groups = {group: [name for name in members if name in evaluation] for group, members in table.groups.items()}
    groups[INSTRUCTION] = [name for name in evaluation if name in table.instruction]
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
        "groups": {group: members for group, members in groups.items() if members},
        "skip_missing": choice.skip_missing,
    }


def _expand_own(own: OwnSets, where: str) -> dict[str, Any]:
    evaluated = own.sets if own.eval_sets is None else own.eval_sets
    if own.targets == "generated":
        options = {field.name: getattr(own, field.name) for field in fields(_SetOptions)}
        table = {"groups": {"own": [*dict.fromkeys([*own.sets, *evaluated])]}}
        named = {"name": own.name, "llm": own.llm, "corpora": own.sets, "eval_corpora": evaluated}
        return _expand({**options, **named, "table": table}, where)
    common = {"return_audio": own.return_audio, "prompt": own.prompt}
    rows = {
        name: [name, "Text", float((own.fractions or {}).get(name, 1.0)), False] for name in (*own.sets, *evaluated)
    }
    return {
        "name": own.name,
        "train": {"rows": [rows[name] for name in own.sets], "split": "train", "limit": own.limit, **common},
        "eval": {name: {"rows": [rows[name]], "split": "validation", **common} for name in evaluated},
        "skip_missing": own.skip_missing,
    }


def _expand_streamed(streamed: StreamedSets) -> dict[str, Any]:
    common = {
        "return_audio": streamed.return_audio,
        "prompt": streamed.prompt,
        "stream": asdict(streamed.stream),
    }

    def rows(address: str) -> list[list[Any]]:
        return [[address, mode, 1.0, False] for mode in streamed.modes]

    names = [address.rstrip("/").rsplit("/", 1)[-1] for address in streamed.eval_shards]
    evaluation = {
        name if names.count(name) == 1 else f"{name}_{number}": {
            "rows": rows(address),
            "split": "validation",
            **common,
        }
        for number, (name, address) in enumerate(zip(names, streamed.eval_shards, strict=True), 1)
    }
    train = [row for address in streamed.shards for row in rows(address)]
    return {
        "name": streamed.name,
        "train": {"rows": train, "split": "train", "limit": streamed.limit, **common},
        "eval": evaluation,
    }


def _corpus_row(choice: MixtureChoice, corpus: str) -> list[Any]:
    name = ResponseName(corpus, choice.llm, choice.max_tokens, choice.rephrased, choice.max_thinking_tokens)
    return [_folder(name), "WithContext", float((choice.fractions or {}).get(corpus, 1.0)), False]


def _instruction_rows(choice: MixtureChoice, chosen: InstructionSet) -> list[list[Any]]:
    folder = _folder(ResponseName(chosen.base, choice.llm, choice.max_tokens))
    return [[folder, mode, 1.0, False] for mode in chosen.modes]


def _folder(name: ResponseName) -> str:
    try:
        return name.format()
    except UserError as error:
        raise ConfigError(f"dataset.llm: {error}") from error


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    return f"{where}: unknown {name!r}; {name_hint(name, known)}"
