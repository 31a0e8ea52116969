"""Modules by name: encoders, adapters, fusions, benchmarks, recipes and others, shipped or a user's own.

Each kind has one :class:`ModuleRegistry` next to the code that uses it (``ENCODERS`` in
``src/model/encoders/config.py``, ``FUSIONS`` in ``src/model/config.py``, …). A module is chosen by a short name or by
an import path, in YAML and on the command line: ``whisper``, ``package.module:Class`` or ``package.module.Class``.
Nothing is imported before :meth:`ModuleRegistry.load`, so that ``--help`` stays fast. Import paths are looked up in
the installed packages, in ``PYTHONPATH`` and in the working directory.

To add a kind: make a registry with the shipped names, and let a configuration derive from :class:`ModuleConfig`::

    OBJECTIVES = ModuleRegistry("objective", "src.training.objective:Objective", {"ce": "src.training.objective:Ce"})

    @dataclass(frozen=True)
    class ObjectiveConfig(ModuleConfig):
        registry = OBJECTIVES
        name_key = "objective"
        objective: str = "ce"

``bind_dataclass(ObjectiveConfig, mapping, where)`` then binds the dataclass that the chosen class names as ``Config``
(derived from ``ObjectiveConfig``; it has the class's options and their defaults), and reports unknown, missing and
mistyped keys together.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from src.common.errors import ConfigError, name_hint, one_line

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*([.:][A-Za-z_]\w*)(\.[A-Za-z_]\w*)*")
PATH_FORM = "package.module:Class"


class ModuleRegistry:
    """Short names of one kind of module, and import paths for all others.

    Args:
        kind: the word for it in messages, such as ``encoder``.
        base: import path of the class that modules derive from (or are instances of); ``None``: any callable.
        names: short name -> import path of the shipped modules.
    """

    def __init__(self, kind: str, base: str | None, names: Mapping[str, str]) -> None:
        self.kind = kind
        self.base = base
        self._paths: dict[str, str] = {}
        for name, path in names.items():
            self.register(name, path)

    @property
    def names(self) -> tuple[str, ...]:
        """The short names."""
        return tuple(self._paths)

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is a short name."""
        return name in self._paths

    def register(self, name: str, path: str) -> None:
        """Add a short name. Raises :class:`ConfigError` for one that is taken and for a path of another form."""
        taken = self._paths.get(name)
        if taken is not None:
            raise ConfigError(f"{self.kind} {name!r} is registered twice: as {taken} and as {path}")
        if _split(path) is None or _split(name) is not None:
            raise ConfigError(f"{self.kind} {name!r}: got {path!r}, expected a short name and {PATH_FORM}")
        self._paths[name] = path

    def path(self, name: Any, where: str | None = None) -> str:
        """Import path ``package.module:Class`` of a name, without importing anything.

        Raises :class:`ConfigError` for a name that is neither a short one nor an import path.
        """
        if name in self._paths:
            return self._paths[name]
        parts = _split(name) if isinstance(name, str) else None
        if parts is None:
            raise ConfigError(
                f"{where or self.kind}: unknown {self.kind} {name!r}; known: {', '.join(sorted(self._paths))}; your "
                f"own is named by its import path, {PATH_FORM}"
            )
        return ":".join(parts)

    def stored(self, name: str) -> str:
        """The name as a checkpoint stores it: a short name as it is, an import path as ``package.module:Class``."""
        return name if name in self._paths else self.path(name)

    def load(self, name: Any, where: str | None = None) -> Any:
        """The class (or object) of a name; ``where`` is the key that named it, for messages.

        Raises :class:`ConfigError` for an unknown name, for a package or class that is missing and for one that is
        not of this kind, each with what to do.
        """
        path = self.path(name, where)
        where = where or self.kind
        found = import_object(path, where)
        if self.base is None:
            if not callable(found):
                raise ConfigError(f"{where}: {path} is a {type(found).__name__}, expected a function")
            return found
        base = import_object(self.base, where)
        if not (isinstance(found, base) or (isinstance(found, type) and issubclass(found, base))):
            raise ConfigError(f"{where}: {path} is no {self.kind}; derive it from {self.base.replace(':', '.')}")
        return found


def import_object(path: str, where: str) -> Any:
    """The object at ``package.module:Name``; raises :class:`ConfigError` saying what is missing and how to fix it."""
    module_name, attribute = path.split(":")
    found = None
    while found is None:
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):  # the module is there, and imports one that is not
                raise ConfigError(
                    f"{where}: {path} needs the package {error.name!r}, which is not installed; pip install it"
                ) from error
            folder = os.getcwd()
            if folder in sys.path:
                raise ConfigError(
                    f"{where}: {path} cannot be imported, there is no module {error.name!r} in {folder}, PYTHONPATH "
                    "or the installed packages; start in the folder that contains it, add that folder to "
                    "PYTHONPATH, or pip install it"
                ) from error
            # Python puts the folder of a program that is started by its path in the place of the working directory,
            # which is added behind all others: https://docs.python.org/3/library/sys_path_init.html
            sys.path.append(folder)
            importlib.invalidate_caches()
        except Exception as error:
            raise ConfigError(f"{where}: {module_name} cannot be imported ({one_line(error)})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [name for name, value in vars(found).items() if isinstance(value, type)]
            raise ConfigError(f"{where}: {module_name} has no {attribute}; {name_hint(part, known)}")
        found = getattr(found, part)
    return found


def _split(name: str) -> tuple[str, str] | None:
    """Module and attribute of an import path in either form; ``None`` for a name of another form."""
    if not _PATH.fullmatch(name):
        return None
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    return (module, attribute) if module and attribute else None


@dataclass(frozen=True)
class ModuleConfig:
    """Base of a configuration in which one key chooses a module, whose class says which other keys there are.

    ``registry`` finds the class by the value of ``name_key``; its attribute ``Config`` is the dataclass to bind.
    """

    registry: ClassVar[ModuleRegistry]
    name_key: ClassVar[str]

    @property
    def module_name(self) -> str:
        """Short name or import path of the module."""
        return getattr(self, self.name_key)

    def module(self, where: str | None = None) -> Any:
        """The module's class; raises :class:`ConfigError` as :meth:`ModuleRegistry.load` does."""
        return self.registry.load(self.module_name, where)

    @classmethod
    def choose(cls, mapping: Mapping[str, Any], where: str) -> tuple[type, Mapping[str, Any]]:
        """Dataclass of the module that ``mapping`` names, and the mapping to bind to it.

        A key that is null takes its default, unless null has a meaning of its own: earlier versions stored the
        options of all modules, with null for those of the others.
        """
        default = cls.__dataclass_fields__[cls.name_key].default
        name = mapping.get(cls.name_key, default)
        if name is dataclasses.MISSING:
            raise ConfigError(
                f"{where}.{cls.name_key}: missing, a value is required; known: {', '.join(cls.registry.names)}"
            )
        config = cls.registry.load(name, f"{where}.{cls.name_key}").Config
        if not (isinstance(config, type) and issubclass(config, cls)):
            raise ConfigError(
                f"{where}.{cls.name_key}: Config of {cls.registry.path(name)} must be a dataclass that derives from "
                f"{cls.__module__}.{cls.__name__}"
            )
        hints = typing.get_type_hints(config)
        nullable = {key for key, hint in hints.items() if hint is Any or type(None) in typing.get_args(hint)}
        kept = {key: value for key, value in mapping.items() if value is not None or key in nullable}
        return config, {**kept, cls.name_key: cls.registry.stored(name)}

    @classmethod
    def foreign_key(cls, key: str, mapping: Mapping[str, Any]) -> str | None:
        """Message about a key that other shipped modules of this kind have; ``None`` for any other key."""
        for other in cls.registry.names:
            if key in {field.name for field in dataclasses.fields(cls.registry.load(other).Config)}:
                return f"{key} has no effect with {cls.name_key} {mapping[cls.name_key]!r}"
        return None

    @classmethod
    def option_names(cls, name: str) -> tuple[str, ...]:
        """Options of the module ``name`` that are its own, in order."""
        common = {field.name for field in dataclasses.fields(cls)}
        return tuple(f.name for f in dataclasses.fields(cls.registry.load(name).Config) if f.name not in common)
