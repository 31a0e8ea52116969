"""The published prompt texts as a prompt set, from a user's own clone of the published repository.

Where each text is built in it (github.com/Blinorot/ALARM) is a fact; the texts themselves are not part of this
project. See :mod:`src.prompts.source_texts` for how the source is read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.prompts.source_texts import (
    Repeated,
    SourceField,
    SourcePart,
    SourceText,
    UnreadableSource,
    returned_text,
    texts_within,
)
from src.prompts.texts import LAYOUT_FIELDS, PUBLISHED, fill, literal

FREE, CHOICE, TARGETS = "generate_vllm.py", "generate_vllm_mcqa.py", "scripts/alarm/generate_responses.py"
NOT_PUBLISHED = ("writer_system", "writer_styles", "prompt_checker_system", "betraying_phrases")
"""Keys without a counterpart in the published repository: ours always stay."""
CLOSE = "</think>"


@dataclass
class PublishedTexts:
    """Result of an import: ``texts`` are keys of a prompt set; ``missing`` says for others why there are none.

    ``notes`` are for the user: what the clone has and a set cannot say.
    """

    commit: str
    texts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_set(self) -> dict[str, Any]:
        """The content of the set's file, without its digest."""
        source = f"{PUBLISHED} {self.commit}" + (", in part" if self.missing else "")
        return {"name": "published", "source": source, **self.texts}


def read_published(clone: Path) -> PublishedTexts:
    """Read the texts of a clone. Raises :class:`UserError` for a folder that has none of the files."""
    if not any((clone / file).is_file() for file in (FREE, CHOICE, TARGETS)):
        raise UserError(f"{clone}: not a clone of the published repository, it has no {FREE}, {CHOICE} or {TARGETS}")
    found, modules = PublishedTexts(_commit(clone)), _Modules(clone)
    for keys, read in _READERS:
        try:
            found.texts |= read(modules, found)
        except UnreadableSource as error:
            found.missing |= dict.fromkeys(keys, str(error))
    if not found.texts:
        reasons = "; ".join(f"{key}: {why}" for key, why in found.missing.items())
        raise UserError(f"{clone}: none of the texts could be found ({reasons})")
    return found


class _Modules:
    """Parsed files of a clone."""

    def __init__(self, clone: Path) -> None:
        self._clone = clone
        self._parsed: dict[str, ast.Module] = {}

    def module(self, file: str) -> ast.Module:
        """A parsed file. Raises :class:`UnreadableSource`."""
        if file not in self._parsed:
            try:
                self._parsed[file] = ast.parse((self._clone / file).read_text(encoding="utf-8"), file)
            except OSError as error:
                raise UnreadableSource(f"{file}: {error.strerror}") from error
            except (SyntaxError, ValueError) as error:
                raise UnreadableSource(f"{file}: {error}") from error
        return self._parsed[file]

    def function(self, file: str, name: str) -> ast.FunctionDef:
        """A function at the top level of a file. Raises :class:`UnreadableSource`."""
        found = [node for node in self.module(file).body if isinstance(node, ast.FunctionDef) and node.name == name]
        if not found:
            raise UnreadableSource(f"{file}: no function {name}")
        return found[-1]

    def text(self, file: str, name: str, arguments: tuple[str, ...] = ()) -> SourceText:
        """Text that a function returns. Raises :class:`UnreadableSource`."""
        function = self.function(file, name)
        try:
            return returned_text(self.module(file), function, arguments)
        except UnreadableSource as error:
            raise UnreadableSource(f"{file}, {name}: {error}") from error

    def system(self, file: str, name: str) -> str:
        """A text without fields. Raises :class:`UnreadableSource`."""
        text = self.text(file, name)
        if not text.literal:
            raise UnreadableSource(f"{file}, {name}: not a fixed text, it has the fields {', '.join(text.fields)}")
        return text.literal


_Reader = Callable[[_Modules, PublishedTexts], dict[str, Any]]


def _system(key: str, file: str) -> _Reader:
    return lambda modules, found: {key: modules.system(file, "get_system_prompt")}


def _mcqa_user(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    text = modules.text(CHOICE, "get_main_prompt", ("question", "choices"))
    where, parts = f"{CHOICE}, get_main_prompt", list(text.parts)
    places = [place for place, part in enumerate(parts) if isinstance(part, Repeated)]
    if len(places) != 1:
        raise UnreadableSource(f"{where}: expected one list of options, found {len(places)}")
    options = parts[places[0]]
    assert isinstance(options, Repeated)
    if options.separator:  # each line of ours brings its end with it: the last one's is that of what follows
        after = parts[places[0] + 1] if places[0] + 1 < len(parts) else ""
        if not isinstance(after, str) or not after.startswith(options.separator):
            raise UnreadableSource(f"{where}: options that are joined need a line end behind the last one")
        parts[places[0] + 1] = after.removeprefix(options.separator)
    line = SourceText(options.body) + SourceText((options.separator,) if options.separator else ())
    parts[places[0]] = SourceField("options")
    return {
        "mcqa_user": _template("mcqa_user", tuple(parts), {"question": "question", "options": "options"}, where),
        "option_line": _template("option_line", line.parts, {"number": "number", "item": "option"}, where),
    }


def _ensemble(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    read = {}
    for file in (FREE, CHOICE):
        function = modules.function(file, "get_response")
        where = f"{file}, get_response"
        loops = [loop for loop in _loops_over_checkpoints(function) if loop[2]]
        if len(loops) != 1:
            raise UnreadableSource(f"{where}: expected one loop with a heading before each audio")
        which, how_many, headings = loops[0]
        counted = [text for text in texts_within(function) if how_many in text.fields and which not in text.fields]
        names = {which: "i", how_many: "n"}
        read[file] = {
            "ensemble_intro": _ensemble_text("ensemble_intro", counted, names, where),
            "ensemble_heading": _ensemble_text("ensemble_heading", headings, names, where),
        }
    return {**_first(read, found), "ensemble_tags": "around"}


def _loops_over_checkpoints(function: ast.FunctionDef) -> list[tuple[str, str, list[SourceText]]]:
    """Loops over the places of an argument: the place from 1 and the length as written, and texts with the place."""
    found = []
    for node in ast.walk(function):
        match node:
            case ast.For(
                target=ast.Name(id=place),
                iter=ast.Call(func=ast.Name(id="range"), args=[ast.Call(func=ast.Name(id="len")) as length]),
            ):
                which = f"{place} + 1"
                found.append((which, ast.unparse(length), [t for t in texts_within(node) if which in t.fields]))
    return found


def _ensemble_text(key: str, texts: list[SourceText], names: Mapping[str, str], where: str) -> str:
    if len(texts) != 1:
        raise UnreadableSource(f"{where}: expected one text for {key}, found {len(texts)}")
    text = _template(key, texts[0].parts, names, where)
    if not text.endswith("\n"):
        raise UnreadableSource(f"{where}: {key} does not end with a line end, as those of a prompt set do")
    return text


def _budget_closing(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    read = {}
    for file, name in ((FREE, "get_response"), (CHOICE, "get_response"), (TARGETS, "get_rephrased_response")):
        try:
            texts = [text.literal for text in texts_within(modules.function(file, name))]
        except UnreadableSource:
            if file == FREE:
                raise
            continue
        closings = {text for text in texts if text and CLOSE in text and text.strip() != CLOSE}
        if len(closings) == 1:
            read[file] = {"budget_closing": closings.pop()}
        elif file == FREE:
            raise UnreadableSource(f"{file}, {name}: expected one sentence with {CLOSE}, found {len(closings)}")
    return _first(read, found)


def _first(read: Mapping[str, dict[str, str]], found: PublishedTexts) -> dict[str, str]:
    """The texts of the first file; a note names another one that differs."""
    first = next(iter(read))
    for file, texts in read.items():
        differing = [key for key, text in texts.items() if text != read[first][key]]
        if differing:
            found.notes.append(f"{file} has another {', '.join(differing)} than {first}, whose text is used for both")
    return read[first]


def _self_generation_user(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    text = modules.text(TARGETS, "get_main_prompt", ("audio_description", "prompt"))
    template = _template("self_generation_user", text.parts, None, f"{TARGETS}, get_main_prompt")
    marks = re.search(r"(<[^<>{}]+>)\{audio_description\}(<[^<>{}]+>)", template)
    around = {"description_open": marks[1], "description_close": marks[2]} if marks else {}
    return {"self_generation_user": template, **around}


def _rephrase(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    where = f"{TARGETS}, get_rephrased_main_prompt"
    arguments = ("response", "audio_description", "prompt")
    system = modules.system(TARGETS, "get_rephrased_system_prompt")
    text = modules.text(TARGETS, "get_rephrased_main_prompt", arguments)
    tags: set[str] = set()
    parts: list[SourcePart] = []
    for part in text.parts:
        if isinstance(part, SourceField) and part.name == "response" and part.changes:
            tags.add(_renamed_thoughts(part, where))
            parts.append(SourceField("prepared"))
        else:
            parts.append(part)
    if len(tags) > 1:
        raise UnreadableSource(f"{where}: <think> gets several names: {', '.join(sorted(tags))}")
    return {
        "rephrase_system": system,
        "rephrase_examples": [],  # the published system text contains its own
        "rephrase_user": _template("rephrase_user", tuple(parts), None, where),
        **({"reasoning_tag": tags.pop()} if tags else {}),
    }


def _renamed_thoughts(part: SourceField, where: str) -> str:
    """The name that ``<think>`` and ``</think>`` get by ``replace``."""
    changes = dict(part.changes)
    opened = re.fullmatch(r"<([\w-]+)>", changes.get("<think>", ""))
    if len(changes) != 2 or opened is None or changes.get(CLOSE) != f"</{opened[1]}>":
        raise UnreadableSource(f"{where}: the response's tags are changed by {part.changes}")
    return opened[1]


def _checker(modules: _Modules, found: PublishedTexts) -> dict[str, Any]:
    text = modules.text(TARGETS, "get_checker_main_prompt", ("response", "audio_description", "prompt"))
    return {
        "checker_system": modules.system(TARGETS, "get_checker_system_prompt"),
        "checker_user": _template("checker_user", text.parts, None, f"{TARGETS}, get_checker_main_prompt"),
    }


_READERS: tuple[tuple[tuple[str, ...], _Reader], ...] = (
    (("generation_system",), _system("generation_system", FREE)),
    (("mcqa_system",), _system("mcqa_system", CHOICE)),
    (("mcqa_user", "option_line"), _mcqa_user),
    (("ensemble_intro", "ensemble_heading", "ensemble_tags"), _ensemble),
    (("budget_closing",), _budget_closing),
    (("self_generation_system",), _system("self_generation_system", TARGETS)),
    (("self_generation_user",), _self_generation_user),
    # a system text names the tags of its user turn: one is not used without the other
    (("rephrase_system", "rephrase_user", "reasoning_tag"), _rephrase),
    (("checker_system", "checker_user"), _checker),
)


def _template(key: str, parts: tuple[SourcePart, ...], names: Mapping[str, str] | None, where: str) -> str:
    """A text as the template ``key``; ``names`` are source's fields and ours, the same ones if it is None.

    Raises :class:`UnreadableSource` for a field that the template does not know, and if it would not give the text.
    """
    known = LAYOUT_FIELDS[key]
    written, expected, values = "", "", {name: f"\x00{name}\x00" for name in known}
    for part in parts:
        if isinstance(part, str):
            written, expected = written + literal(part, known), expected + part
            continue
        name = None if isinstance(part, Repeated) or part.changes else (names or {}).get(part.name, part.name)
        if name not in known:
            raise UnreadableSource(f"{where}: {key} has a field that is not followed: {part}")
        written, expected = f"{written}{{{name}}}", expected + values[name]
    if fill(written, values) != expected:
        raise UnreadableSource(f"{where}: {key} has braces around a field that cannot be written as a template")
    return written


def _commit(clone: Path) -> str:
    """The commit that is checked out, by git's own files; ``unknown`` where they do not say."""
    # not by the command git: in a copy without .git it would answer with the commit of the repository around it
    git = clone / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head[:12] or "unknown"
        ref = head.removeprefix("ref: ")
        if (git / ref).is_file():
            return (git / ref).read_text(encoding="utf-8").strip()[:12]
        packed = (git / "packed-refs").read_text(encoding="utf-8")
        return next(line.split()[0][:12] for line in packed.splitlines() if line.endswith(f" {ref}"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return "unknown"
