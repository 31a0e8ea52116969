"""Configuration at the boundary: YAML through Hydra, then checked into dataclasses, all errors at once."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from src.common.cli import run_cli
from src.common.errors import ConfigError
from src.common.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)
CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
OPEN_GROUPS = {"train": ("training_args.", "model.", "dataset.")}
"""Groups whose keys need no ``+``, by configuration: a library, or a user's YAML, decides which keys there are."""
FILE_GROUPS = ("prompts",)
"""Config groups that hold a ``name`` and single keys; the name may also be the path of a user's YAML file."""


def bind_dataclass(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from ``mapping``, nested dataclasses too.

    Raises :class:`ConfigError` listing every unknown, missing or mistyped key with its path below ``where``.
    """
    errors: list[str] = []
    value = _bind(cls, mapping, where, errors)
    if errors:
        raise ConfigError("; ".join(errors))
    return typing.cast(T, value)


def _bind(cls: Any, mapping: Any, where: str, errors: list[str]) -> Any:
    if not isinstance(mapping, Mapping):
        errors.append(f"{where}: got {type(mapping).__name__}, expected a mapping of {cls.__name__}'s keys")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), list(fields), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(fields)}"
            errors.append(f"{where}.{key}: unknown key; {hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        path = f"{where}.{name}"
        if name in mapping and mapping[name] != "???":
            values[name] = _convert(hints[name], mapping[name], path, errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(f"{path}: missing, a value is required")
    if errors:
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        errors.append(f"{where}: {error}")
        return None


def _convert(hint: Any, value: Any, path: str, errors: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert_union([arg for arg in args if arg is not type(None)], value, path, errors)
    if origin is typing.Literal:
        if value not in args:
            errors.append(f"{path}: got {value!r}; known: {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        return _bind(hint, value, path, errors)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        inner = args[0] if args else Any
        return origin(_convert(inner, item, f"{path}[{i}]", errors) for i, item in enumerate(value))
    if (origin is dict or origin is Mapping or origin is typing.get_origin(Mapping[str, Any])) and isinstance(
        value, Mapping
    ):
        inner = args[1] if args else Any
        return {str(key): _convert(inner, item, f"{path}.{key}", errors) for key, item in value.items()}
    return _convert_scalar(origin or hint, value, path, errors)


def _convert_union(options: list[Any], value: Any, path: str, errors: list[str]) -> Any:
    collected: list[list[str]] = []
    for option in options:
        attempt: list[str] = []
        converted = _convert(option, value, path, attempt)
        if not attempt:
            return converted
        collected.append(attempt)
    errors.extend(collected[0])
    return None


def _convert_scalar(kind: Any, value: Any, path: str, errors: list[str]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    matches = isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool))
    if not matches:
        errors.append(f"{path}: got {value!r} ({type(value).__name__}), expected {getattr(kind, '__name__', kind)}")
    return value


def hydra_cli(config_name: str, main: Callable[[dict[str, Any]], int | None]) -> NoReturn:
    """Entry of a Hydra program: compose ``config_name`` with the command line, resolve it, call ``main(config)``.

    A misspelt key or group, or a missing value, ends in one message and exit code 2. ``--help`` lists the keys.
    Hydra's ``--config-name NAME`` (``-cn NAME``) reads another file of ``src/configs``, such as a user's own.
    """

    def run() -> int | None:
        name, overrides = split_config_name(config_name, sys.argv[1:])
        return main(compose(name, overrides))

    run_cli(run)


def split_config_name(default: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Name of the configuration (Hydra's ``--config-name NAME``, else ``default``) and the other arguments.

    Raises :class:`ConfigError` for one that does not exist.
    """
    name, rest, waiting = default, [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if waiting:
            name, waiting = argument, False
        elif flag in ("--config-name", "-cn"):
            name, waiting = value or name, not equals
        else:
            rest.append(argument)
    if waiting or not (CONFIG_DIR / f"{name.removesuffix('.yaml')}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in CONFIG_DIR.glob("*.yaml")))
        raise ConfigError(f"--config-name: there is no {CONFIG_DIR / name}.yaml; known: {known}")
    return name.removesuffix(".yaml"), rest


def compose(config_name: str, overrides: list[str], like: str | None = None) -> dict[str, Any]:
    """Resolved configuration as plain containers; ``like`` names the shipped one that a user's own stands for.

    Raises :class:`ConfigError` with Hydra's reason in one line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    overrides = _opened([word for word in overrides if not _is_run_setting(word)], like or config_name)
    if any(item in ("--help", "-h") for item in overrides):
        _print_help(config_name)
    overrides, files = _take_files(overrides, config_name)
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            config = hydra_compose(config_name, overrides=overrides)
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:  # the last: a group set to null
        reason = " ".join(str(part).strip() for part in (error, error.__cause__) if part)
        raise ConfigError(f"{config_name}: {' '.join(reason.split())}") from error
    resolved = typing.cast(dict[str, Any], container)
    for group, file in files.items():
        single = {key: value for key, value in (resolved.get(group) or {}).items() if key != "name"}
        resolved[group] = {"name": file, **single} if file is not None else single or None
    return resolved


def _take_files(overrides: Sequence[str], config_name: str) -> tuple[list[str], dict[str, str | None]]:
    """Separate ``prompts=FILE`` and ``prompts=NAME`` from the overrides that are left to Hydra, which has no files.

    Returns the other overrides, and for each group the name or absolute path, the last one given; ``None`` for null.
    Raises :class:`ConfigError` for a name that is not known.
    """
    others: list[str] = []
    files: dict[str, str | None] = {}
    for item in overrides:
        group, equals, value = item.partition("=")
        value = value.strip("'\"")
        if not equals or group not in FILE_GROUPS:
            others.append(item)
        elif "/" in value or value.endswith((".yaml", ".yml")):
            files[group] = str(Path(value).expanduser().resolve())
        elif value in ("null", ""):
            files[group] = None
        elif (CONFIG_DIR / group / f"{value}.yaml").is_file():
            files[group] = value
        else:
            known = ", ".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
            raise ConfigError(f"{config_name}: {group}={value} is not known; there are {known}, or name a file.yaml")
    return others, files


def _is_run_setting(word: str) -> bool:
    """Whether an override is for Hydra's run folder; there is none here."""
    setting = word.lstrip("+~").startswith("hydra.") and not word.startswith("hydra.searchpath=")
    if setting:
        log.info("%s: no Hydra run folder is made here; left out", word)
    return setting


def _opened(overrides: list[str], config_name: str) -> list[str]:
    """Overrides with a ``+`` where keys of an open group need one: they are checked when they are bound."""
    groups = OPEN_GROUPS.get(config_name, ())
    return [
        f"++{word.removeprefix('+')}" if word.removeprefix("+").startswith(groups) else word for word in overrides
    ]


def _print_help(config_name: str) -> NoReturn:
    text = (CONFIG_DIR / f"{config_name}.yaml").read_text(encoding="utf-8")
    print(f"usage: {Path(sys.argv[0]).name} [KEY=VALUE ...]\n\nKeys and defaults (Hydra overrides):\n\n{text}")
    sys.exit(0)
