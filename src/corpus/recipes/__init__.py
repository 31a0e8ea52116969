"""One recipe a file; the corpora and their groups are those of ``src/configs/corpora/alarm.yaml``."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from src.common.config import CONFIG_DIR
from src.common.errors import ConfigError
from src.corpus.recipe import Recipe

INSTRUCTION = "instruction"


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


OTHER = "other"


def group_of(name: str) -> str:
    """The group a corpus belongs to; ``other`` for a set without a recipe."""
    return next((group for group, names in groups().items() if name in names), OTHER)


def choose(names: list[str], known: list[str] | None = None) -> list[str]:
    """Corpora from names, groups and ``all``, each once. Raises :class:`ConfigError` naming the unknown ones."""
    known = all_corpora() if known is None else known
    chosen: dict[str, None] = {}
    for name in names:
        members = known if name == "all" else [each for each in groups().get(name, (name,)) if each in known]
        if not members:
            close = difflib.get_close_matches(name, [*known, *groups()], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}, and all"
            raise ConfigError(f"unknown corpus {name!r}; {hint}")
        chosen.update(dict.fromkeys(members))
    return list(chosen)


def expand(names: Sequence[str], here: Callable[[str], bool]) -> list[str]:
    """Names of sets, each once: groups and ``all`` become those of their corpora that are ``here``."""
    listed: dict[str, None] = {}
    for name in names:
        members = audio_corpora() if name == "all" else groups().get(name)
        listed.update(dict.fromkeys((name,) if members is None else filter(here, members)))
    return list(listed)


def load_recipe(name: str) -> Recipe:
    """The recipe of a corpus, by its name or the path of its module."""
    module = name if "." in name else f"{__name__}.{name}"
    recipe = importlib.import_module(module).RECIPE
    assert isinstance(recipe, Recipe)
    return recipe
