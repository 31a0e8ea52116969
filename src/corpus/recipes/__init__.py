"""One recipe per file; groups of corpora are in ``src/configs/corpora/alarm.yaml``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from src.common.errors import ConfigError
from src.common.modules import ModuleRegistry
from src.corpus.recipe import Recipe

RECIPES = ModuleRegistry(
    "recipe",
    "src.corpus.recipe:Recipe",
    {path.stem: f"{__name__}.{path.stem}:RECIPE" for path in sorted(Path(__file__).parent.glob("[!_]*.py"))},
)


def is_import_path(name: str) -> bool:
    """Whether the name of a corpus is the import path of a recipe, or of a module with a ``RECIPE``."""
    return name not in RECIPES and (":" in name or "." in name)


def load_recipe(name: str) -> Recipe:
    """The recipe of a corpus: by its name, an import path, or the path of a module with a ``RECIPE``.

    Raises :class:`ConfigError` as :meth:`ModuleRegistry.load` does, and for a name that a shipped recipe has.
    """
    if not is_import_path(name):
        found: Recipe = RECIPES.load(name, "corpus")
        return found
    path = name if ":" in name or name.endswith(".RECIPE") else f"{name}:RECIPE"
    found = RECIPES.load(path, "corpus")
    if found.name in RECIPES and not path.startswith(f"{__name__}."):
        raise ConfigError(f"corpus {path}: the name {found.name!r} is taken by a shipped recipe; choose another name")
    return dataclasses.replace(found, module=RECIPES.path(path))
