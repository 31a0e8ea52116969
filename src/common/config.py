"""Configuration: YAML composed by Hydra, then bound to dataclasses with all errors in one message."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from src.common.errors import ConfigError, name_hint
from src.common.log import get_logger
from src.common.modules import ModuleConfig

T = TypeVar("T")
log = get_logger(__name__)
CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
OPEN_GROUPS = {
    "train": ("training_args.", "model.", "dataset.", "objective.", "augment."),
    "generate": ("augment.", "engine.extra_body."),
}
"""By configuration, the groups whose keys need no ``+``: a library, or a user's YAML, decides which keys exist."""
LLM_FACTS = ("llm_embedding_dim", "llm_revision", "audio_sep_d_embed")
"""Keys below ``model`` that describe one language model and do not belong to another one."""
NAMED_GROUPS = ("objective",)
"""Config groups of a ``name`` and options, without files: ``GROUP=NAME`` on the command line sets ``GROUP.name``."""
FILE_GROUPS = ("prompts",)
"""Config groups of a ``name`` and single keys; the name may also be the path of a user's YAML file."""


def bind_dataclass(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from ``mapping``, nested dataclasses too; a :class:`ModuleConfig` as its module's.

    Raises :class:`ConfigError` listing every unknown, missing or mistyped key with its path below ``where``.
    """
    errors: list[str] = []
    value = _bind(cls, mapping, where, errors)
    if errors:
        raise ConfigError("; ".join(errors))
    return typing.cast(T, value)


def wrong_numbers(cls: type[Any], mapping: Mapping[str, Any], where: str) -> list[str]:
    """Mistyped numbers and switches for a dataclass that checks none itself; a switch may be null for off."""
    errors: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        kinds = {*(typing.get_args(hint) or (hint,))}
        if name not in mapping or not kinds <= {int, float, bool, type(None)}:
            continue
        if mapping[name] is not None or bool not in kinds:
            _convert(hint, mapping[name], f"{where}.{name}", errors)
    return errors


def _bind(cls: Any, mapping: Any, where: str, errors: list[str]) -> Any:
    if not isinstance(mapping, Mapping):
        errors.append(f"{where}: got {type(mapping).__name__}, expected a mapping of {cls.__name__}'s keys")
        return None
    family = cls if issubclass(cls, ModuleConfig) else None
    if family is not None:
        try:
            cls, mapping = family.choose(mapping, where)
        except ConfigError as error:
            errors.append(str(error))
            return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields and family is not None and (foreign := family.foreign_key(key, mapping)):
            errors.append(f"{where}: {foreign}")
        elif key not in fields:
            errors.append(f"{where}.{key}: unknown key; {name_hint(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        path = f"{where}.{name}"
        # "???": a value that must be given (https://hydra.cc/docs/tutorials/basic/your_first_app/using_config)
        if name in mapping and mapping[name] != "???":
            values[name] = _convert(hints[name], mapping[name], path, errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(f"{path}: missing, a value is required")
    if errors:
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError, ConfigError) as error:
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
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        inner = args[1] if args else Any
        return {str(key): _convert(inner, item, f"{path}.{key}", errors) for key, item in value.items()}
    kind = origin or hint
    # bool is a subclass of int: without the check `max_tokens: true` would be 1
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        errors.append(f"{path}: got {value!r} ({type(value).__name__}), expected {getattr(kind, '__name__', kind)}")
    return value


def _convert_union(options: list[Any], value: Any, path: str, errors: list[str]) -> Any:
    collected: list[list[str]] = []
    for option in options:
        attempt: list[str] = []
        converted = _convert(option, value, path, attempt)
        if not attempt:
            return converted
        collected.append(attempt)
    words = [
        word for option in options[1:] if typing.get_origin(option) is typing.Literal for word in option.__args__
    ]
    errors.extend(f"{error} or {', '.join(map(str, words))}" if words else error for error in collected[0])
    return None


def compose(config_name: str, overrides: list[str]) -> dict[str, Any]:
    """Resolved configuration of ``src/configs`` as plain containers.

    Raises :class:`ConfigError` with Hydra's reason in one line.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    words = open_overrides(config_name, overrides)
    try:
        with _shipped_configs():
            return to_plain(hydra_compose(config_name, overrides=words), words)
    # ValueError: a group set to null
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise composition_error(config_name, error, words) from error


@contextmanager
def _shipped_configs() -> Iterator[None]:
    """Let Hydra compose from ``src/configs``, also inside a Hydra program, whose own state is put back."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # Hydra refuses to be initialised twice
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def open_overrides(program: str, overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: keys of the program's :data:`OPEN_GROUPS` and ``prompts`` get their ``++``.

    Raises :class:`ConfigError` for a prompt set that is not known.
    """
    found: list[str] = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if key.lstrip("+") in NAMED_GROUPS and equals:
            found.append(f"++{key.lstrip('+')}.name={value}")
        elif key in FILE_GROUPS and equals:
            found += _file_group(program, key, value)
        elif word.removeprefix("+").startswith(OPEN_GROUPS.get(program, ())):
            found.append(f"++{word.removeprefix('+')}")  # such keys are checked when they are bound
        else:
            found.append(word)
    return found


def to_plain(config: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration composed with ``overrides``, resolved, as plain containers.

    Raises OmegaConf's errors for missing values.
    """
    from omegaconf import OmegaConf

    _forget_replaced_llm(config, overrides)
    resolved = typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    for group in FILE_GROUPS:
        if resolved.get(group) == {"name": None}:
            resolved[group] = None
    return resolved


def _forget_replaced_llm(config: Any, overrides: Sequence[str]) -> None:
    """Set what the YAML files say about their language model to null where the command line names another one.

    The width is then read from the model. Keys that are given on the command line stay, and are checked against it.
    """
    from omegaconf import OmegaConf

    typed = {word.lstrip("+~").partition("=")[0] for word in overrides}
    if "model.llm" not in typed or config.get("model") is None:
        return
    facts = _llm_facts(OmegaConf.to_container(config.model, resolve=False), "model")
    replaced = {path: value for path, value in facts.items() if path not in typed}
    for path in replaced:
        OmegaConf.update(config, path, None)
    if replaced:
        listed = ", ".join(f"{path}={value}" for path, value in replaced.items())
        log.info("model.llm is given: what that model says itself replaces %s", listed)


def _llm_facts(part: Any, path: str) -> dict[str, Any]:
    """Keys of :data:`LLM_FACTS` at any depth with values of their own (no null, no reference to another key)."""
    found: dict[str, Any] = {}
    if isinstance(part, dict):
        for key, value in part.items():
            if key in LLM_FACTS and value is not None and not str(value).startswith("${"):
                found[f"{path}.{key}"] = value
            found |= _llm_facts(value, f"{path}.{key}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            found |= _llm_facts(value, f"{path}[{number}]")
    return found


def composition_error(config_name: str, error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """Hydra's reason in one line, with the nearest key that exists."""
    reason = " ".join(" ".join(str(part).strip() for part in (error, error.__cause__) if part).split())
    hint = ""
    unknown = re.search(r"Could not override '.*full_key: (\S+)", reason)
    if unknown is not None:
        hint = _nearest_key(config_name, unknown[1], [word for word in overrides if unknown[1] not in word])
    option = re.search(r"Could not find '([^']+)/([^'/]+)'.*Available options in '[^']+': (.*)", reason)
    if option is not None:
        hint = name_hint(option[2], option[3].split())
    return ConfigError(f"{config_name}: {reason}" + (f"; {hint}" if hint else ""))


def _nearest_key(config_name: str, key: str, overrides: list[str]) -> str:
    """Hint with the known keys beside ``key``; empty if the configuration does not compose without it either."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    try:
        with _shipped_configs():
            config = hydra_compose(
                config_name, overrides=[word for word in overrides if not word.startswith("hydra")]
            )
        parent, _, last = key.rpartition(".")
        beside = OmegaConf.select(config, parent) if parent else config
        return name_hint(last, [str(name) for name in beside])
    except Exception:  # a hint must not hide the error
        return ""


def _file_group(program: str, group: str, value: str) -> list[str]:
    """Overrides for ``prompts=NAME``, ``prompts=FILE`` or several of them: Hydra's groups have no paths."""
    names: list[str] = []
    for choice in value.split(","):
        choice = choice.strip("'\"")
        if "/" in choice or choice.endswith((".yaml", ".yml")):
            names.append(f"'{Path(choice).expanduser().resolve()}'")
        elif choice in ("null", "") or (CONFIG_DIR / group / f"{choice}.yaml").is_file():
            names.append(choice or "null")
        else:
            known = ", ".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
            raise ConfigError(f"{program}: {group}={choice} is not known; there are {known}, or name a file.yaml")
    return [f"++{group}.name={','.join(names)}"]
