"""Prompt sets: every text that is shown to a language model, read from a YAML file and checked.

The shipped sets are the ``NAME.yaml`` next to this file; a user's own set is any YAML file with the same keys.
All sets have the same keys, so no stage depends on which one it uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from src.common.config import bind_dataclass
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.run_record import write_text
from src.prompts.options import MCQA_USER, OPTION_LINE
from src.prompts.templates import fill, has_field

log = get_logger(__name__)
TEXTS = Path(__file__).resolve().parent
SHIPPED = "shipped"
"""Source of the sets whose wording is this project's own."""
PUBLISHED = "published"
"""How the source of a set starts that scripts/import_published_prompts.py wrote; then the commit."""


@dataclass(frozen=True)
class RephraseExample:
    """One worked pair of the rephrasing task: the same response in a reader's and in a listener's voice."""

    title: str
    original: str
    rewritten: str


@dataclass(frozen=True)
class Prompts:
    """Every text that the system shows to a language model.

    System texts: ``generation_system`` (free questions), ``mcqa_system``, ``self_generation_system``,
    ``rephrase_system`` (its ``{examples}`` is filled with the worked pairs). ``rephrase_instruction`` opens the
    user turn of the rewriter; ``response_tag`` and ``reasoning_tag`` are the tag names around what is rewritten.
    ``description_open`` and ``description_close`` enclose a description (or the audio, where a checkpoint uses
    explicit audio tokens). ``question_tag`` and ``options_tag`` are tag names of a multiple-choice turn.
    ``ensemble_intro`` knows ``{n}``, ``ensemble_heading`` ``{i}`` (from 1) and ``{n}``; both end with a newline,
    which is added where they have none. ``ensemble_tags``: with explicit audio tokens, whether the marks stand around
    each hearing or once around all of them. ``budget_closing`` ends thoughts whose budget is used up.
    ``betraying_phrases`` are words by which a response shows that it was written by a reader; ``checker_system`` is
    the task of a language model that looks for such responses and ends with YES or NO.

    Layouts of user turns, see :data:`LAYOUT_FIELDS` for their fields and :func:`src.prompts.templates.fill` for the
    rules: ``mcqa_user`` (its ``{options}`` are all options, each written by ``option_line`` with its line end),
    ``self_generation_user``, ``rephrase_user`` and ``checker_user``. In the last two ``{response}`` is the response
    as it was generated and ``{prepared}`` the same with ``<think>`` renamed to ``reasoning_tag`` and its reasoning
    block completed.

    Prompts of the corpora: ``writer_system`` (its ``{examples}``, if any, is filled with descriptions of the corpus),
    ``writer_styles`` (kinds of prompts, one of which stands behind the description), ``prompt_checker_system``.

    ``name`` and ``source`` (:data:`SHIPPED`, the path of a file, or ``published COMMIT``) say where the texts come
    from; they are not part of :meth:`digest`.
    """

    generation_system: str
    mcqa_system: str
    self_generation_system: str
    rephrase_system: str
    rephrase_instruction: str
    response_tag: str
    reasoning_tag: str
    description_open: str
    description_close: str
    question_tag: str
    options_tag: str
    ensemble_intro: str
    ensemble_heading: str
    budget_closing: str
    betraying_phrases: tuple[str, ...]
    checker_system: str
    writer_system: str
    writer_styles: tuple[str, ...]
    prompt_checker_system: str
    rephrase_examples: tuple[RephraseExample, ...] = ()
    mcqa_user: str = MCQA_USER
    option_line: str = OPTION_LINE
    self_generation_user: str = "{description_open}{audio_description}{description_close}\n\n{prompt}"
    rephrase_user: str = "{rephrase_instruction}\n<{response_tag}>\n{prepared}\n</{response_tag}>"
    checker_user: str = "<{response_tag}>\n{prepared}\n</{response_tag}>"
    ensemble_tags: Literal["each", "around"] = "each"
    name: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if "</think>" not in self.budget_closing:
            raise ValueError("budget_closing must hold </think>, or the thoughts never end")
        if not self.writer_styles:
            raise ValueError("writer_styles is empty; give at least one kind of prompts")
        for key, needed in _NEEDED.items():
            if not any(has_field(getattr(self, key), each) for each in needed):
                raise ValueError(f"{key} lacks {' or '.join(f'{{{each}}}' for each in needed)}")
        for key in ("question", "options"):
            if not has_field(self.mcqa_user, key):
                raise ValueError(f"mcqa_user lacks {{{key}}}")

    def digest(self) -> str:
        """Short hash of all texts, for run records and for telling results of other prompts apart.

        Layouts that are as they always were do not count, so that records from before they were keys stay valid.
        """
        texts = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("name", "source")}
        usual = [key for key, default in _DEFAULTS.items() if texts[key] == default]
        return _digest({key: value for key, value in texts.items() if key not in usual})

    def own_layouts(self, *keys: str) -> tuple[str, ...]:
        """Those of the layouts ``keys`` that differ from the usual ones, for fingerprints of a stage's texts."""
        return tuple(f"{key}={getattr(self, key)}" for key in keys if getattr(self, key) != _DEFAULTS[key])

    @property
    def published(self) -> bool:
        """Whether these are the published texts, imported completely and not changed since."""
        return is_published(self.source)

    def record(self) -> dict[str, str]:
        """Where the texts come from, for ``run.json`` and pages: ``name``, ``digest``, ``source``."""
        return {"name": self.name, "digest": self.digest(), "source": self.source}


LAYOUT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "mcqa_user": ("question", "options", "question_tag", "options_tag"),
    "option_line": ("number", "option"),
    "self_generation_user": ("audio_description", "prompt", "description_open", "description_close"),
    "rephrase_user": (
        *("prepared", "response", "audio_description", "prompt"),
        *("rephrase_instruction", "response_tag", "reasoning_tag"),
    ),
    "checker_user": ("prepared", "response", "audio_description", "prompt", "response_tag", "reasoning_tag"),
    "ensemble_intro": ("n",),
    "ensemble_heading": ("i", "n"),
}
"""Fields that each template knows; those named like a key of the set stand for its text."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "option_line": ("option",),
    "self_generation_user": ("audio_description",),
    "rephrase_user": ("prepared", "response"),
    "checker_user": ("prepared", "response"),
}
"""Without one of these fields a template cannot be meant."""
_DEFAULTS = {
    each.name: each.default
    for each in dataclasses.fields(Prompts)
    if each.name in (*LAYOUT_FIELDS, "ensemble_tags") and each.default is not dataclasses.MISSING
}


def known_prompt_sets() -> list[str]:
    """Names of the shipped sets."""
    return sorted(path.stem for path in TEXTS.glob("*.yaml"))


def is_published(source: str) -> bool:
    """Whether a set's source says that it has all published texts, unchanged."""
    return re.fullmatch(rf"{PUBLISHED} \S+", source) is not None


def is_file_name(name: str) -> bool:
    """Whether ``name`` means a user's YAML file and not a shipped set."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def load_prompts(name: str, overrides: Mapping[str, Any] | None = None) -> Prompts:
    """Read the shipped prompt set ``name`` (``full`` or ``mini``), or a YAML file; ``overrides`` replaces texts.

    Keys that a file leaves out are those of ``full``, which a log line names. Raises :class:`UserError` for an
    unknown set or an unusable file, and :class:`ConfigError` for missing or unknown keys.
    """
    if is_file_name(name):
        prompts = _load_file(Path(name).expanduser())
        return with_texts(prompts, overrides) if overrides else prompts
    path = TEXTS / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"unknown prompt set {name!r}; known: {', '.join(known_prompt_sets())}, or a file NAME.yaml (prompts)"
        )
    return _bind(_read(path), overrides or {}, name, SHIPPED, f"prompts.{name}")


def prompts_of_texts(texts: Mapping[str, Any], name: str, source: str, where: str) -> Prompts:
    """A set from all its texts, e.g. a checkpoint's record. Raises :class:`ConfigError` naming wrong keys."""
    return _bind(texts, {}, name, source, where)


def with_texts(prompts: Prompts, overrides: Mapping[str, Any]) -> Prompts:
    """The set with single texts replaced; its source says so. Raises :class:`ConfigError` for unknown keys."""
    own = {key: value for key, value in dataclasses.asdict(prompts).items() if key not in ("name", "source")}
    return _bind(own, overrides, prompts.name, prompts.source, f"prompts.{prompts.name}")


def _bind(data: Mapping[str, Any], overrides: Mapping[str, Any], name: str, source: str, where: str) -> Prompts:
    changed = sorted(key for key, value in overrides.items() if key not in data or data[key] != value)
    marked = f"{source}, changed: {', '.join(changed)}" if changed else source
    prompts = bind_dataclass(Prompts, {**data, **overrides, "name": name, "source": marked}, where)
    if not prompts.rephrase_examples:
        return prompts
    examples = "\n\n".join(_worked_pair(number, pair) for number, pair in enumerate(prompts.rephrase_examples, 1))
    return dataclasses.replace(prompts, rephrase_system=prompts.rephrase_system.replace("{examples}", examples))


def _read(path: Path) -> dict[str, Any]:
    """Keys of a YAML file. Raises :class:`UserError` when it cannot be read or is no mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"prompt set {path}: cannot be read ({error.strerror or error}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"prompt set {path}: not a YAML file ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(data, dict):
        raise UserError(
            f"prompt set {path}: got {type(data).__name__}, expected keys and texts like src/prompts/texts/full.yaml"
        )
    return data


def _load_file(path: Path) -> Prompts:
    """A user's set. ``name``, ``source`` and ``digest`` in the file describe it, all other keys are texts."""
    data = _read(path)
    name, digest = str(data.pop("name", path.stem)), data.pop("digest", None)
    source = str(data.pop("source", "") or path)
    ours = _read(TEXTS / "full.yaml")
    missing = sorted(key for key in ours if key not in data)
    if missing:
        log.info("prompt set %s: %s not in the file, taken from our set full", path, ", ".join(missing))
    prompts = _bind({**ours, **data}, {}, name, source, f"prompt set {path}")
    if digest is not None and digest != _digest(data):
        return dataclasses.replace(prompts, source=f"{source}, changed")
    return prompts


def write_set(path: Path, content: Mapping[str, Any]) -> None:
    """Write a prompt set's file: ``name``, ``source`` and texts. Later changes of the texts show by its digest."""
    texts = {key: value for key, value in content.items() if key not in ("name", "source")}
    data = {"name": content["name"], "source": content["source"], "digest": _digest(texts), **texts}
    text = yaml.dump(data, Dumper=_SetDumper, sort_keys=False, allow_unicode=True, width=2**20)
    assert yaml.safe_load(text) == data, "YAML gives the texts back as they are"
    write_text(path, text)


class _SetDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A scalar; where a block cannot show the text exactly, PyYAML quotes it."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_SetDumper.add_representer(str, _SetDumper.represent_text)


def _digest(texts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]


def _worked_pair(number: int, pair: RephraseExample) -> str:
    return (
        f"Example {number}: {pair.title}\n"
        f"Received:\n<response>\n{pair.original}\n</response>\n"
        f"Output:\n<answer>\n{pair.rewritten}\n</answer>"
    )


__all__ = [
    "LAYOUT_FIELDS",
    "PUBLISHED",
    "SHIPPED",
    "Prompts",
    "RephraseExample",
    "fill",
    "is_file_name",
    "is_published",
    "known_prompt_sets",
    "load_prompts",
    "prompts_of_texts",
    "with_texts",
    "write_set",
]
