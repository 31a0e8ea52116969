"""Data configurations in the published form, translated into the form of ``src/configs/dataset``.

In the published form every set of examples is an entry of its own next to ``groups``: ``train``, and any number of
evaluation sets, each ``{_target_: src.dataset.HFDataset, dataset_names: [[SET, ANSWER_SPLIT, SHARE, RANDOM], ...],
split, limit, return_audio, name}``. The same keys may override a configuration of ours: ``dataset.train.limit=100``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.common.errors import ConfigError, name_hint
from src.common.log import get_logger

log = get_logger(__name__)
TARGETS = ("src.dataset.HFDataset", "src.dataset.hf_dataset.HFDataset")
"""Values of ``_target_`` in the published form."""
SET_KEYS = ("_target_", "dataset_names", "split", "limit", "return_audio", "name")
_TOP_KEYS = ("groups", "name", "skip_missing")
_OTHER_NAMES = {"heysquad": "heysquad_human"}
"""Names in published groups without an evaluation set of that name -> the set that is meant."""


def is_published(dataset: Mapping[str, Any]) -> bool:
    """Whether a ``dataset`` group is in the published form."""
    train = dataset.get("train")
    return "table" not in dataset and isinstance(train, Mapping) and ("dataset_names" in train or "_target_" in train)


def from_published(dataset: Mapping[str, Any], where: str = "dataset") -> dict[str, Any]:
    """Translate the group's training rows, evaluation sets and groups.

    As in the published code, a share of 0 leaves a row out, and members of a group that are not evaluation sets are
    left out. Raises :class:`ConfigError` naming every key that cannot be read.
    """
    problems: list[str] = []
    sets = {
        name: _read_set(content, f"{where}.{name}", problems)
        for name, content in dataset.items()
        if name not in _TOP_KEYS
    }
    train = sets.pop("train")
    if problems:
        raise ConfigError("; ".join(problems))
    groups = dataset.get("groups") or {}
    if not isinstance(groups, Mapping):
        raise ConfigError(f"{where}.groups: got {groups!r}, expected a mapping of group to evaluation sets")
    result = {
        "name": str(dataset.get("name") or dataset["train"].get("name") or "train"),
        "train": train,
        "eval": sets,
        "groups": {str(group): _members(str(group), members, sets) for group, members in groups.items()},
        **({"skip_missing": dataset["skip_missing"]} if "skip_missing" in dataset else {}),
    }
    log.info(
        "%s: in the published form; read as %d training rows and %d evaluation sets",
        where, len(train["rows"]), len(sets),
    )  # fmt: skip
    return result


def apply_set_options(dataset: dict[str, Any], options: Mapping[str, Any], where: str = "dataset") -> dict[str, Any]:
    """Apply published options ``{set name: {limit: 100, ...}}`` to a group of ours.

    Raises :class:`ConfigError` naming every unknown set and key.
    """
    problems: list[str] = []
    result = {**dataset, "eval": dict(dataset.get("eval") or {})}
    for name, given in options.items():
        path = f"{where}.{name}"
        found = dataset.get("train") if name == "train" else result["eval"].get(name)
        if found is None or not isinstance(given, Mapping):
            problems.append(f"{path}: unknown; {name_hint(name, ('train', *result['eval']))}")
            continue
        changed = {**found, **_read_options(given, path, problems)}
        if name == "train":
            result["train"] = changed
        else:
            result["eval"][name] = changed
    if problems:
        raise ConfigError("; ".join(problems))
    return result


def _read_set(content: Any, path: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        problems.append(f"{path}: got {content!r}, expected a set: {{_target_, dataset_names, split, ...}}")
        return {"rows": []}
    for key in ("dataset_names", "split"):
        if key not in content:
            problems.append(f"{path}.{key}: missing, a value is required")
    return {"rows": [], **_read_options(content, path, problems)}


def _read_options(content: Mapping[str, Any], path: str, problems: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in content.items():
        if key in ("split", "limit", "return_audio", "rows"):
            result[key] = value
        elif key == "dataset_names":
            result["rows"] = read_rows(value, f"{path}.{key}", problems)
        elif key == "_target_":
            if value not in TARGETS:
                problems.append(f"{path}._target_: got {value!r}, expected {TARGETS[0]}")
        elif key == "data_dir":
            problems.append(f"{path}.data_dir: set alternative_data_dir instead, for all sets")
        elif key != "name":  # nothing in the published code reads a set's name
            problems.append(f"{path}.{key}: unknown; {name_hint(str(key), SET_KEYS)}")
    return result


def read_rows(value: Any, path: str, problems: list[str]) -> list[list[Any]]:
    """The rows of ``dataset_names``, each with its four parts; errors are added to ``problems``."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        problems.append(f"{path}: got {value!r}, expected a list of [SET, ANSWER_SPLIT, SHARE, RANDOM]")
        return []
    rows = []
    for place, row in enumerate(value):
        if not isinstance(row, Sequence) or isinstance(row, str) or not 3 <= len(row) <= 4:
            problems.append(f"{path}[{place}]: got {row!r}, expected [SET, ANSWER_SPLIT, SHARE, RANDOM]")
            continue
        name, mode, share, *random = row
        if share == 0:
            log.info("%s[%d]: %s has share 0 and is left out", path, place, name)
            continue
        rows.append([name, mode, float(share) if isinstance(share, int) else share, *(random or [False])])
    return rows


def _members(group: str, members: Any, sets: Mapping[str, Any]) -> list[str]:
    named = [_OTHER_NAMES.get(name, name) if name not in sets else name for name in members or []]
    if lost := [name for name in named if name not in sets]:
        log.info("group %s: %s is not an evaluation set and left out, as published", group, ", ".join(lost))
    return [name for name in named if name in sets]
