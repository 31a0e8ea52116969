"""Prompt sets: every text that is shown to a language model, read from a YAML file and checked.

The shipped sets are the ``NAME.yaml`` next to this file; a user's own set is any YAML file with the same keys.
All sets have the same keys, so no stage depends on which one it uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from src.common.config import bind_dataclass
from src.common.errors import UserError, error_text
from src.common.files import write_text
from src.common.log import get_logger

log = get_logger(__name__)
TEXTS = Path(__file__).resolve().parent
PRESETS = TEXTS.parent / "presets.yaml"
AnswerStyle = Literal["number", "letter", "text"]
"""How a multiple-choice reply names its option."""
SHIPPED = "shipped"
"""Source of the sets whose wording is this project's own."""
PUBLISHED = "published"
"""How the source of a set starts that scripts/import_published_prompts.py wrote; then the commit."""


def fill(template: str, fields: Mapping[str, object]) -> str:
    """Replace ``{name}`` by ``fields[name]``, once: braces in the values stay as they are.

    Braces around anything but a known name are text, so that a prompt may speak of ``{option_ID}``. The text
    ``{name}`` of a known name is written ``{{name}}``.
    """
    names = "|".join(map(re.escape, fields))

    def value(match: re.Match[str]) -> str:
        escaped, field = match.groups()
        return f"{{{escaped}}}" if escaped else str(fields[field])

    # one pass over the template: braces in a question are not filled again
    return re.sub(rf"\{{\{{({names})\}}\}}|\{{({names})\}}", value, template) if names else template


def literal(text: str, names: Iterable[str]) -> str:
    """``text`` as a part of a template with the fields ``names`` that shows it unchanged."""
    return re.sub(rf"\{{({'|'.join(map(re.escape, names))})\}}", r"{{\1}}", text)


def has_field(template: str, name: str) -> bool:
    """Whether :func:`fill` puts ``name`` somewhere."""
    without_literals = template.replace(f"{{{{{name}}}}}", "")
    return f"{{{name}}}" in without_literals


@dataclass(frozen=True)
class RephraseExample:
    """One worked pair of the rephrasing task: the same response in a reader's and in a listener's voice."""

    title: str
    original: str
    rewritten: str


@dataclass(frozen=True)
class Prompts:
    """Every text that the system shows to a language model.

    Keys that end with ``_system`` are system texts, those that end with ``_user`` layouts of user turns: see
    :data:`LAYOUT_FIELDS` for their fields and :func:`fill` for the rules. ``name`` and ``source`` (:data:`SHIPPED`,
    the path of a file, or ``published COMMIT``) say where the texts come from; they are not part of :meth:`digest`.
    """

    generation_system: str  # free questions
    mcqa_system: str
    self_generation_system: str
    rephrase_system: str  # {examples}: the worked pairs
    rephrase_instruction: str  # opens the user turn of the rewriter
    response_tag: str  # tag names around what is rewritten
    reasoning_tag: str
    description_open: str  # around a description, or around the audio of checkpoints with explicit audio tokens
    description_close: str
    question_tag: str  # tag names of a multiple-choice turn
    options_tag: str
    ensemble_intro: str  # {n} checkpoints; a line end is added where there is none
    ensemble_heading: str  # checkpoint {i} (from 1) of {n}; a line end is added where there is none
    budget_closing: str  # ends thoughts whose budget is used up
    betraying_phrases: tuple[str, ...]  # rules for src/prompts/leakage.py
    checker_system: str  # asks for responses with such phrases; the reply ends with YES or NO
    writer_system: str  # writes prompts of a corpus; {examples}: descriptions of the corpus
    writer_styles: tuple[str, ...]  # kinds of prompts, one of which follows the description
    prompt_checker_system: str
    rephrase_examples: tuple[RephraseExample, ...] = ()
    # {options}: each by option_line; {option_lines}: without the last line end; {option_list}: as str() of a list
    mcqa_user: str = "<{question_tag}>\n{question}\n</{question_tag}>\n<{options_tag}>\n{options}</{options_tag}>"
    option_line: str = "(Option_{number}) {option}\n"
    self_generation_user: str = "{description_open}{audio_description}{description_close}\n\n{prompt}"
    # {response}: as it was generated; {prepared}: with <think> renamed to reasoning_tag, and its block completed
    rephrase_user: str = "{rephrase_instruction}\n<{response_tag}>\n{prepared}\n</{response_tag}>"
    checker_user: str = "<{response_tag}>\n{prepared}\n</{response_tag}>"
    ensemble_tags: Literal["each", "around"] = "each"  # with explicit audio tokens: around each audio, or around all
    answer_style: AnswerStyle = "number"
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
        for keys in (("question",), ("options", "option_lines", "option_list")):
            if not any(has_field(self.mcqa_user, key) for key in keys):
                raise ValueError(f"mcqa_user lacks {{{keys[0]}}}")

    def digest(self) -> str:
        """Short hash of all texts, for run records and for telling results of other prompts apart."""
        # without layouts that are the usual ones: records from before they were keys of a set stay valid
        return _digest({key: text for key, text in self.texts().items() if _DEFAULTS.get(key) != text})

    def texts(self) -> dict[str, Any]:
        """The set as plain values by key, without ``name`` and ``source``."""
        return {key: text for key, text in dataclasses.asdict(self).items() if key not in ("name", "source")}

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
    "mcqa_user": ("question", "options", "option_lines", "option_list", "question_tag", "options_tag"),
    "option_line": ("number", "letter", "option"),
    "self_generation_user": ("audio_description", "prompt", "description_open", "description_close"),
    "rephrase_user": (
        *("prepared", "response", "audio_description", "prompt"),
        *("rephrase_instruction", "response_tag", "reasoning_tag"),
    ),
    "checker_user": ("prepared", "response", "audio_description", "prompt", "response_tag", "reasoning_tag"),
    "ensemble_intro": ("n",),
    "ensemble_heading": ("i", "n"),
}
"""Fields that each template knows; those named like a key of the set show its text."""
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
    if each.name in (*LAYOUT_FIELDS, "ensemble_tags", "answer_style") and each.default is not dataclasses.MISSING
}


def known_prompt_sets() -> list[str]:
    """Names of the shipped sets."""
    return sorted(path.stem for path in TEXTS.glob("*.yaml"))


def load_presets() -> dict[str, dict[str, str]]:
    """Published layouts of multiple choice by name: texts that differ from ``full``, and their ``source``."""
    # a published layout of the user's turn comes without a system turn
    return {
        name: {**({"mcqa_system": ""} if "mcqa_user" in texts else {}), **texts}
        for name, texts in _read(PRESETS).items()
    }


def is_published(source: str) -> bool:
    """Whether a set's source says that it has all published texts, unchanged."""
    return re.fullmatch(rf"{PUBLISHED} \S+", source) is not None


def is_file_name(name: str) -> bool:
    """Whether ``name`` means a user's YAML file and not a shipped set."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def load_prompts(name: str, overrides: Mapping[str, Any] | None = None) -> Prompts:
    """Read the shipped prompt set ``name`` (``full``, ``mini``, a preset), or a file; ``overrides`` replaces texts.

    Keys that a file leaves out are those of ``full``, which a log line names. Raises :class:`UserError` for an
    unknown set or an unusable file, and :class:`ConfigError` for missing or unknown keys.
    """
    if is_file_name(name):
        prompts = _load_file(Path(name).expanduser())
        return with_texts(prompts, overrides) if overrides else prompts
    presets = load_presets()
    if name in presets:
        texts = {key: value for key, value in presets[name].items() if key != "source"}
        prompts = _bind_over_full(texts, name, presets[name]["source"], f"prompts.{name}")
        return with_texts(prompts, overrides) if overrides else prompts
    path = TEXTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join((*known_prompt_sets(), *presets))
        raise UserError(f"unknown prompt set {name!r}; known: {known}, or a file NAME.yaml (prompts)")
    return bind_prompts(_read(path), overrides or {}, name, SHIPPED, f"prompts.{name}")


def with_texts(prompts: Prompts, overrides: Mapping[str, Any]) -> Prompts:
    """The set with single texts replaced; its source says so. Raises :class:`ConfigError` for unknown keys."""
    return bind_prompts(prompts.texts(), overrides, prompts.name, prompts.source, f"prompts.{prompts.name}")


def bind_prompts(
    data: Mapping[str, Any], overrides: Mapping[str, Any], name: str, source: str, where: str
) -> Prompts:
    """A set from all its texts, e.g. a checkpoint's record; ``overrides`` replaces some, and its source says so.

    Raises :class:`ConfigError` naming wrong keys below ``where``.
    """
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
        raise UserError(f"prompt set {path}: not a YAML file ({error_text(error, 200)})") from error
    if not isinstance(data, dict):
        raise UserError(
            f"prompt set {path}: got {type(data).__name__}, expected keys and texts like src/prompts/texts/full.yaml"
        )
    return data


def _load_file(path: Path) -> Prompts:
    """A user's set. ``name``, ``source`` and the digests in the file describe it, all other keys are texts."""
    data = _read(path)
    name, digest = str(data.pop("name", path.stem)), data.pop("digest", None)
    digest = data.pop("file_digest", digest)  # older files have only one digest, of their own texts
    source = str(data.pop("source", "") or path)
    # sets of one or two texts are the usual case: the others need not be copied
    missing = sorted(_read(TEXTS / "full.yaml").keys() - data.keys())
    if missing:
        log.info("prompt set %s: %s not in the file, taken from our set full", path, ", ".join(missing))
    prompts = _bind_over_full(data, name, source, f"prompt set {path}")
    if digest is not None and digest != _digest(data):
        return dataclasses.replace(prompts, source=f"{source}, changed")
    return prompts


def _bind_over_full(texts: Mapping[str, Any], name: str, source: str, where: str) -> Prompts:
    return bind_prompts({**_read(TEXTS / "full.yaml"), **texts}, {}, name, source, where)


def write_set(path: Path, content: Mapping[str, Any]) -> None:
    """Write a prompt set's file: ``name``, ``source``, digests and texts.

    ``digest`` is that of the whole set, as in ``run.json``. ``file_digest`` covers only the file's own texts, not
    those that our set ``full`` adds, and shows when they are edited.
    """
    about = {"name": str(content["name"]), "source": str(content["source"])}
    texts = {key: value for key, value in content.items() if key not in about}
    digest = _bind_over_full(texts, **about, where=f"prompt set {path}").digest()
    data = {**about, "digest": digest, "file_digest": _digest(texts), **texts}
    text = yaml.dump(data, Dumper=_SetDumper, sort_keys=False, allow_unicode=True, width=2**20)
    assert yaml.safe_load(text) == data, "YAML gives the texts back as they are"
    write_text(path, text)


class _SetDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A scalar: in the style ``|``, where PyYAML would quote the text, if it has several lines."""
        # a text that a block cannot show exactly, e.g. with blanks at a line's end, is quoted all the same
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
