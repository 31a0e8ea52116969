"""Which prompt set a run uses: the one that is asked for, else the one that its checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.common.paths import ASSETS, REPO_ROOT
from src.prompts.texts import (
    SHIPPED,
    Prompts,
    bind_prompts,
    is_published,
    known_prompt_sets,
    load_presets,
    load_prompts,
    with_texts,
)

log = get_logger(__name__)
RECORD_KEY = "prompts"
"""Where ``extra`` of a checkpoint's ``alarm_config.json`` has the record."""
FULL, MINI = "full", "mini"
_MINI_TOKENIZER = ASSETS / "mini" / "llm" / "tokenizer.json"


def choose_prompts(
    settings: Mapping[str, Any] | None,
    trained_with: Sequence[tuple[str, Mapping[str, Any]]] = (),
    llm: str | None = None,
) -> Prompts:
    """The prompt set of a run.

    Args:
        settings: the ``prompts`` config group: its ``name`` is a shipped set or a file, other keys replace single
            texts. Without a name the checkpoints decide.
        trained_with: name and ``extra`` of each checkpoint. The first one's set is used; a log line says where the
            others' differ.
        llm: the language model, which decides where no checkpoint says anything.

    Raises :class:`UserError` for a set that cannot be used, :class:`ConfigError` for unknown keys.
    """
    overrides = dict(settings or {})
    name = overrides.pop("name", None)
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"prompts.name: got {name!r}, expected the name of a prompt set (full, mini) or a file")
    if name is not None:
        return load_prompts(name, overrides)
    recorded = [(checkpoint, recorded_prompts(extra, checkpoint)) for checkpoint, extra in trained_with]
    chosen = [(where, found or load_prompts(usual_set(llm))) for where, found in recorded or [("", None)]]
    first = chosen[0][1]
    others = [f"{checkpoint} with {each.name}" for checkpoint, each in chosen if each.digest() != first.digest()]
    if others:
        log.warning(
            "prompts: %s of %s is used, the ensemble's other members were trained with others: %s (prompts= chooses)",
            first.name, chosen[0][0], ", ".join(others),
        )  # fmt: skip
    return with_texts(first, overrides) if overrides else first


def prompt_record(prompts: Prompts) -> dict[str, Any]:
    """Record of the set that a checkpoint was trained with; with all texts, unless it is a shipped set."""
    if prompts.source == SHIPPED:
        return prompts.record()
    return {**prompts.record(), "texts": prompts.texts()}


def recorded_prompts(extra: Mapping[str, Any], checkpoint: str) -> Prompts | None:
    """The set in ``extra`` of a checkpoint, None without a record. Raises :class:`UserError` for a bad one."""
    record = extra.get(RECORD_KEY)
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("name"), str):
        raise UserError(f"checkpoint {checkpoint!r}: its record of prompts is {record!r}; name a set by prompts=")
    name, source = record["name"], str(record.get("source", SHIPPED))
    where = f"prompts of checkpoint {checkpoint!r}"
    if "texts" in record:
        # older records have no empty texts, also where a set must have the key: presets come without a system text
        prompts = bind_prompts({"mcqa_system": "", **record["texts"]}, {}, name, source, where)
    elif name in (known := [*known_prompt_sets(), *load_presets()]):
        prompts = load_prompts(name)
    else:
        raise UserError(f"{where}: set {name!r} is not shipped here ({', '.join(known)}); give prompts=")
    if record.get("digest") not in (None, prompts.digest()):
        log.warning("%s: the set %s has changed since the training (digest %s)", where, name, record["digest"])
    return prompts


@dataclass(frozen=True)
class PromptOrigin:
    """Which prompts a run was made with, by its record."""

    name: str
    digest: str
    source: str

    @property
    def published(self) -> bool:
        """Whether they are the published ones, imported completely and unchanged."""
        return is_published(self.source)

    def __str__(self) -> str:
        return f"{self.name} {self.digest} ({self.source})".replace("  ", " ")


def origin_of_run(record: Mapping[str, Any]) -> PromptOrigin:
    """The prompts of a run from its ``run.json``, also one from before prompts had an entry of their own."""
    found = record.get("prompts")
    if isinstance(found, Mapping):
        return PromptOrigin(*(str(found.get(key, "")) for key in ("name", "digest", "source")))
    given = (record.get("config") or {}).get("prompts") or {}
    digest = (record.get("settings") or {}).get("prompts") or record.get("prompts_digest") or ""
    name = str(given.get("name", "")) if isinstance(given, Mapping) else str(given)
    known = name in known_prompt_sets()
    return PromptOrigin(name or "unknown set", str(digest), SHIPPED if known else "not recorded")


def usual_set(llm: str | None) -> str:
    """``mini`` for language models with the shipped miniature's tokenizer, whose words the full texts are not."""
    folders = (Path(llm).expanduser(), REPO_ROOT / llm) if llm else ()
    found = next((folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").is_file()), None)
    # by content: a miniature that a user trained has another name, but the same words
    same = found and _MINI_TOKENIZER.is_file() and found.read_bytes() == _MINI_TOKENIZER.read_bytes()
    return MINI if same else FULL
