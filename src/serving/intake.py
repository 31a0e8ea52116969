"""Turns the body of a chat request into a small body for vLLM and decoded clips.

It runs in processes of its own (:mod:`src.serving.gate`), so that nothing which grows with a body or a clip runs on
the server's event loop or takes its interpreter lock. Imports neither PyTorch nor vLLM.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src.audio.budget import Allowance
from src.serving.clip_decoder import ApiError, DecodedClip, decode, read_base64, read_url
from src.serving.config import Limits

CLIP_SCHEME = "clip:"
"""Scheme of the URLs that replace clips; :mod:`src.serving.connector` resolves them, clients cannot send them."""
LONG_STRING = 1 << 14
"""Bytes from which on a string is cut out before the body is parsed."""
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-\\"
"""With the backslash: JSON may escape slashes and line breaks."""
FORMATS = ("wav", "mp3", "flac", "ogg")
ROLES = ("system", "developer", "user", "assistant")
FIELDS = {"role", "content", "name", "tool_calls", "refusal", "annotations", "audio", "function_call", "reasoning"}
FIELDS |= {"reasoning_content"}
"""Fields of messages: those of requests, and those of answers, which come back as history."""
MAX_MESSAGES, MAX_PARTS, MAX_CHOICES, MAX_NAME = 256, 256, 8, 64


@dataclass(frozen=True)
class Rules:
    """Bounds of requests (``limits``), the ``system`` text of those without one, and ``defaults`` of fields."""

    limits: Limits = field(default_factory=Limits)
    system: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Intake:
    """``body``: the request for vLLM; ``clips`` by the URL that stands for each in it."""

    body: bytes
    clips: dict[str, DecodedClip]


class StoredBody:
    """A body in a file without a name, in memory where the system has such files; other processes can read it.

    The file ends with :meth:`close`, or with the process that made it.
    """

    def __init__(self, start: bytes | bytearray) -> None:
        if hasattr(os, "memfd_create"):
            self._file: Any = os.fdopen(os.memfd_create("body"), "wb", buffering=0)
            self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        else:
            self._file = tempfile.NamedTemporaryFile(prefix="alarm_body_", buffering=0)  # noqa: SIM115
            self._path = self._file.name
        self._inode = os.fstat(self._file.fileno()).st_ino
        self.write(start)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_inode": self._inode, "_file": None}

    def write(self, chunk: bytes | bytearray) -> None:
        """Append a chunk. Raises :class:`OSError` if the disk or the memory is full."""
        if self._file.write(chunk) != len(chunk):
            raise OSError(errno.ENOSPC, "a request body does not fit")

    def read(self) -> bytes:
        """Everything that was written. Raises :class:`OSError` if it was closed meanwhile."""
        # not blocking: the number may be that of a pipe by now, and to open one waits for its other end (fifo(7))
        with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:  # the number belongs to another file by now
                raise FileNotFoundError(errno.ENOENT, "the request ended")
            return file.read()

    def close(self) -> None:
        """Free the file."""
        self._file.close()


def ready() -> int:
    """Any work, so that a process exists and has imported this module before the first request."""
    return os.getpid()


def take_in(body: bytes | StoredBody, rules: Rules) -> Intake:
    """Check, decode and rewrite the body of a chat request. Raises :class:`ApiError` that names what is wrong.

    * Strings that may be clips are cut out first; the rest, at most ``limits.text_mib``, is parsed.
    * Fields that are null count as not given, as the ``openai`` package writes them.
    * A turn's only clip is placed before its text, as in training; several keep their positions.
    """
    if isinstance(body, StoredBody):
        body = body.read()
    text, long = _cut_out(body, int(rules.limits.text_mib * 2**20))
    del body  # a large one is not kept while its clips are decoded
    request = parse_object(text)
    request = {name: value for name, value in request.items() if value is not None}
    _check_fields(request)
    messages = _Messages(rules.limits, long)
    turns = [messages.turn(message, f"messages[{place}]") for place, message in enumerate(request["messages"])]
    if long:
        raise _too_much_text(rules.limits.text_mib)
    if rules.system and turns[0]["role"] not in ("system", "developer"):
        turns.insert(0, {"role": "system", "content": rules.system})
    request["messages"] = [turn for turn in turns if turn["content"] or turn["role"] != "system"]
    for name, value in rules.defaults.items():
        if not (name == "max_tokens" and "max_completion_tokens" in request):
            request.setdefault(name, value)
    try:
        rewritten = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body contains half a character (a lone surrogate)", "invalid_json") from None
    return Intake(rewritten, messages.clips)


def _cut_out(body: bytes, text_bytes: int) -> tuple[bytes, dict[str, bytes]]:
    """The body with a mark in place of each long string that looks like a clip, and these strings by mark."""
    if len(body) <= LONG_STRING:
        return body, {}
    # Clips need not be parsed as JSON, which takes time and their size once more. The marks are random, so that no
    # client can send one.
    long: dict[str, bytes] = {}
    pieces, prefix = body.split(b'"', 4 * text_bytes), secrets.token_hex(8)
    for place, piece in enumerate(pieces):
        # from 512 on, as the head of a data: URL has other characters too
        if len(piece) > LONG_STRING and not piece[512:].translate(None, BASE64):
            kept = piece.rstrip(b"\\")  # of a quote that is escaped
            mark = f"{prefix}-{len(long)}"
            long[mark] = kept
            pieces[place] = mark.encode() + piece[len(kept) :]
    rest = b'"'.join(pieces)
    if len(rest) > text_bytes:
        raise _too_much_text(text_bytes / 2**20)
    return rest, long


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises :class:`ApiError` (400) for anything else."""
    try:
        # Python's parser takes NaN and Infinity, which JSON does not have (RFC 8259, 6)
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", "invalid_json") from None
    except ValueError as error:  # also bytes that are not UTF-8, and numbers of thousands of digits
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}", "invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is {_json_type(found)}, expected an object", "invalid_json")
    return found


def _check_fields(request: dict[str, Any]) -> None:
    if any(len(name) > MAX_NAME for name in request):
        raise ApiError(400, f"a field has a name of more than {MAX_NAME} characters", "unknown_parameter")
    messages = request.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise ApiError(400, f"messages: expected a list of 1 to {MAX_MESSAGES} messages", param="messages")
    choices = request.get("n", 1)
    if choices is True or not isinstance(choices, int) or not 1 <= choices <= MAX_CHOICES:
        raise ApiError(400, f"n: expected 1 to {MAX_CHOICES}", param="n")


class _Messages:
    """Rewrites messages; ``clips`` collects the decoded ones, ``long`` loses the strings that were used."""

    def __init__(self, limits: Limits, long: dict[str, bytes]) -> None:
        self.clips: dict[str, DecodedClip] = {}
        self._limits, self._long = limits, long
        self._allowance = Allowance(limits.request_samples)
        self._text_left = int(limits.text_mib * 2**20)
        self._prefix = f"{CLIP_SCHEME}{secrets.token_hex(16)}/"

    def turn(self, message: Any, where: str) -> dict[str, Any]:
        """One message for vLLM."""
        if not isinstance(message, dict):
            raise ApiError(400, f"{where}: expected an object", param=where)
        if message.get("role") not in ROLES:
            raise ApiError(400, f"{where}.role: expected one of {', '.join(ROLES)}", param=f"{where}.role")
        given = {name: value for name, value in message.items() if value is not None and value != []}
        for name in given.keys() - FIELDS:
            raise ApiError(400, f"{where}.{name[:MAX_NAME]}: unknown field", "unknown_parameter", where)
        content = given.get("content", "")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or len(content) > MAX_PARTS:
            raise ApiError(
                400, f"{where}.content: expected a text, or a list of up to {MAX_PARTS} parts", param=where
            )
        parts = [self._part(part, f"{where}.content[{place}]") for place, part in enumerate(content)]
        if given["role"] != "user" and not all(isinstance(part, str) for part in parts):
            raise ApiError(400, f"{where}: clips belong to the user's messages", param=where)
        # the reasoning of earlier answers is no part of later prompts, nor are the fields of other features
        kept = {name: given[name] for name in ("name", "tool_calls") if name in given}
        role = "system" if given["role"] == "developer" else given["role"]
        return {"role": role, "content": _placed(parts), **kept}

    def _part(self, part: Any, where: str) -> str | dict[str, Any]:
        """A text, or the part of a clip."""
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "refusal") and isinstance(part.get(kind), str):
            return self._text(part[kind])
        if kind not in ("input_audio", "audio_url"):
            raise ApiError(400, f"{where}: expected a part of type text, input_audio or audio_url", param=where)
        clip = part.get(kind)
        field_name = "data" if kind == "input_audio" else "url"
        if not isinstance(clip, dict) or not isinstance(clip.get(field_name), str):
            raise ApiError(400, f"{where}.{kind}.{field_name}: expected a text", param=where)
        if len(self.clips) >= self._limits.clips:
            reason = f"more than {self._limits.clips} clips in one request"
            raise ApiError(400, reason, "too_many_clips", "messages")
        try:
            return self._clip(kind, clip[field_name], clip.get("format"))
        except ApiError as error:
            raise ApiError(error.status, f"{where}: {error.message}", error.code, where) from None

    def _text(self, text: str) -> str:
        data = self._long.pop(text, None)
        if data is None:
            return text
        self._text_left -= len(data)
        if self._text_left < 0:
            raise _too_much_text(self._limits.text_mib)
        return _unescaped(data).decode()

    def _clip(self, kind: str, text: str, declared: Any) -> dict[str, Any]:
        long = self._long.pop(text, None)
        data = text.encode("utf-8", "replace") if long is None else _unescaped(long)
        if kind == "audio_url":
            encoded = read_url(data, self._limits)
        else:
            if declared not in FORMATS:
                raise ApiError(400, f"format is {str(declared)[:20]!r}, expected one of {', '.join(FORMATS)}")
            encoded = read_base64(data)
        clip = decode(encoded, self._limits, declared if kind == "input_audio" else None, self._allowance)
        url = f"{self._prefix}{len(self.clips)}"
        self.clips[url] = clip
        digest = hashlib.sha256(memoryview(clip.samples)).hexdigest()
        # vLLM caches embeddings by it, and need not hash the samples itself
        return {"type": "audio_url", "audio_url": {"url": url}, "uuid": f"{digest}-{clip.rate}"}


def _placed(parts: list[str | dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Content of a message: texts joined by line ends, a single clip first, several at their positions."""
    texts = [part for part in parts if isinstance(part, str)]
    clips = [part for part in parts if not isinstance(part, str)]
    if not clips:
        return "\n".join(texts)
    if len(clips) == 1:
        return [*clips, {"type": "text", "text": "\n".join(texts)}] if texts else clips
    content: list[dict[str, Any]] = []
    after_text = False
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": ("\n" if after_text else "") + part})
        else:
            content.append(part)
        after_text = isinstance(part, str)
    return content


def _unescaped(text: bytes) -> bytes:
    """Text of the inside of a JSON string. Raises :class:`ApiError` for a broken one."""
    if b"\\" not in text:
        return text
    try:
        return str(json.loads(b'"' + text + b'"')).encode()
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}", "invalid_json") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _json_type(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")


def _too_much_text(mebibytes: float) -> ApiError:
    reason = f"more than {mebibytes:g} MiB besides the base64 of clips, or a long value outside of the messages"
    return ApiError(413, reason, "body_too_large")
