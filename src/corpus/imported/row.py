"""One row of a user's data: which columns it is read from, and the problems for which it is left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from src.common.errors import ConfigError, UserError

# Names of Hugging Face sets, and of manifests of WeNet (key, wav, txt), ms-swift (audios, messages) and NeMo:
# https://docs.nvidia.com/nemo-framework/user-guide/latest/NeMoToolKit/asr/datasets.html
KNOWN = {
    "audio": ("audio", "audios", "path", "file_name", "audio_path", "audio_filepath", "wav", "wavs", "file"),
    "text": ("text", "sentence", "transcript", "transcription", "txt", "answer", "response", "output", "caption"),
    "prompt": ("prompt", "question", "query", "instruction"),
    "system": ("system",),
    "messages": ("messages", "conversations"),
    "id": ("id", "utt", "key"),
    "group": (),
    "split": ("split",),
}
"""Field of a row -> columns that it is read from unless ``--columns`` says otherwise, the first one that is there."""
PLACEHOLDER = "<audio>"
_ROLES = {"human": "user", "gpt": "assistant"}
"""Roles of the ShareGPT form."""


class RowError(UserError):
    """A row that is left out. Its message begins with the kind of problem and a colon."""


@dataclass(frozen=True)
class SourceRow:
    """A row before its audio is decoded.

    Attributes:
        where: the place in the source, e.g. ``line 17``.
        audio: path of a file; empty for ``cell``.
        label: the same as the source has it.
        cell: split, number and audio column of a row of the Hub or of a saved set.
        start, seconds, channel: the stretch and channel of the file (lhotse); ``seconds`` ``None``: all of it.
        problem: why the row is left out.
    """

    where: str
    audio: str = ""
    label: str = ""
    cell: tuple[str, int, str] | None = None
    text: str = ""
    prompt: str = ""
    system: str = ""
    group: str = ""
    split: str = ""
    name: str = ""
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None
    problem: str = ""

    @property
    def unique_id_1(self) -> str:
        """The row's own id, else its clip; the collector sorts by both ids."""
        return self.name or self.clip

    @property
    def unique_id_2(self) -> str:
        """A digest of the texts: one clip may have several questions."""
        return hashlib.blake2b("\0".join((self.clip, self.prompt, self.text)).encode(), digest_size=6).hexdigest()

    @property
    def clip(self) -> str:
        """Name of the clip, which all rows about it share."""
        if self.cell is not None:
            return f"{self.cell[0]}/{self.cell[1]:09d}"
        cut = "" if self.seconds is None else f"@{self.start:.3f}+{self.seconds:.3f}"
        return (self.label or self.audio) + cut + ("" if self.channel is None else f"#{self.channel}")


@dataclass(frozen=True)
class Columns:
    """Names of the columns by field (:data:`KNOWN`); fields that are not given are found by their usual names."""

    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, group: str | None = None) -> Columns:
        """From ``audio=path,text=sentence``. Raises :class:`ConfigError` for another form or an unknown field."""
        given = {} if group is None else {"group": group}
        for part in (text or "").split(",") if text else ():
            name, equals, column = (each.strip() for each in part.partition("="))
            if name not in KNOWN or not equals or not column:
                raise ConfigError(f"--columns {part!r}: expected FIELD=COLUMN with one of {', '.join(KNOWN)}")
            given[name] = column
        return cls(given)

    def find(self, record: Mapping[str, Any], name: str) -> Any:
        """The value of a field; ``None`` where the record has no such column."""
        names = (self.given[name],) if name in self.given else KNOWN[name]
        return next((record[each] for each in names if record.get(each) is not None), None)

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise :class:`ConfigError` for a given column that a table does not have, or if none has the audio."""
        missing = [column for column in self.given.values() if column not in names]
        if missing:
            raise ConfigError(f"{where} has no column {', '.join(missing)}; it has {', '.join(names)}")
        if "audio" not in self.given and not any(name in names for name in KNOWN["audio"]):
            raise ConfigError(f"{where}: which column has the audio? --columns audio=…; it has {', '.join(names)}")


def read_record(
    record: Any, columns: Columns, where: str, folder: str, cell: tuple[str, int, str] | None = None
) -> SourceRow:
    """The row of one record. Relative paths are below ``folder``; with ``cell`` the audio is that of a saved set.

    Raises :class:`RowError` for two clips, a wrong role, and for values of another type.
    """
    if not isinstance(record, Mapping):
        raise RowError(f"not a row: got {type(record).__name__}, expected an object with an audio path and a text")
    fields = {name: _text(columns.find(record, name), name) for name in ("prompt", "system", "group", "split", "id")}
    text = columns.find(record, "text")
    clips = list(_clips(columns.find(record, "audio"))) if cell is None else [""]
    messages = columns.find(record, "messages")
    if messages is not None:
        read = _conversation(messages)
        clips += read.pop("clips")
        fields |= {name: value for name, value in read.items() if value and name != "text"}
        text = read["text"]
    elif record.get("input") and "instruction" in record:  # Alpaca form
        fields["prompt"] = f"{fields['prompt']}\n{_text(record['input'], 'input')}"
    prompt = fields["prompt"]
    if prompt.count(PLACEHOLDER) > 1:
        raise RowError(f"two clips: the prompt has {prompt.count(PLACEHOLDER)} times {PLACEHOLDER}, expected one")
    if len(clips) > 1:
        raise RowError(f"two clips: the row has {len(clips)} clips, expected one")
    if not clips:
        raise RowError("no audio: the row names no clip")
    return SourceRow(
        where,
        audio="" if cell is not None else os.path.normpath(os.path.join(folder, os.path.expanduser(clips[0]))),
        label="" if cell is not None else os.path.normpath(clips[0]),
        cell=cell,
        text=_text(text, "text").strip(),
        prompt=prompt.replace(PLACEHOLDER, "").strip(),  # the clip is always the first thing in the user's turn here
        system=fields["system"].strip(),
        group=fields["group"],
        split=fields["split"],
        name=fields["id"],
    )


def checked(rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
    """The rows, with a ``problem`` where a text is missing or an earlier row is the same.

    A source in which no row at all has a text is a set of clips without texts, and none of its rows is wrong.
    """
    listed = list(rows)
    has_texts = any(row.text for row in listed)
    first: dict[str, str] = {}
    for row in listed:
        if row.problem:
            yield row
        elif has_texts and not row.text:
            yield replace(row, problem="empty text: the row has no text or answer")
        else:
            key = row.name or f"{row.unique_id_1}\0{row.unique_id_2}"
            same = first.setdefault(key, row.where)
            what = f"the id {row.name!r}" if row.name else "clip, prompt and text"
            yield row if same == row.where else replace(row, problem=f"duplicate: {what} of {same}")


def _clips(value: Any) -> Iterator[str]:
    """Paths of the clips in an audio column: a path, a list, or a mapping with ``path``."""
    if value is None or value == "":
        return
    if isinstance(value, str):
        if "://" in value:
            raise RowError(f"not a file: {value!r} is an address; download it and give its path")
        yield value
    elif isinstance(value, Mapping):
        yield from _clips(value.get("path") or value.get("url"))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for each in value:
            yield from _clips(each)
    else:
        raise RowError(f"not a file: the audio is {type(value).__name__}, expected a path")


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise RowError(f"not a text: {name} is {type(value).__name__}, expected a text")


def _conversation(messages: Any) -> dict[str, Any]:
    """System text, prompt, answer and clips of a list of messages: one user turn, one answer."""
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise RowError("wrong role: messages are not a list of objects with role and content")
    found: dict[str, Any] = {"system": "", "prompt": "", "text": "", "clips": []}
    roles = [str(message.get("role", message.get("from"))) for message in messages]
    roles = [_ROLES.get(role, role) for role in roles]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise RowError(f"wrong role: got {', '.join(roles) or 'no message'}; expected user, assistant, or a system "
                       "message before them")  # fmt: skip
    for role, message in zip(roles, messages, strict=True):
        content = message.get("content", message.get("value"))
        key = {"user": "prompt", "assistant": "text"}.get(role, role)
        if isinstance(content, Sequence) and not isinstance(content, str):  # parts of an OpenAI message
            for part in content:
                if not isinstance(part, Mapping):
                    raise RowError(f"not a text: a part of a message is {type(part).__name__}")
                if part.get("type") == "text":
                    found[key] += _text(part.get("text"), "text")
                else:
                    kind = str(part.get("type"))
                    found["clips"] += _clips(part.get(kind, part.get("audio")))
        else:
            found[key] = _text(content, "content")
    return found
