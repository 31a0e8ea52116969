"""Two hundred requests that no honest client sends, each with the statuses that may come back."""

from __future__ import annotations

import io
import json
import pickle
import random
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.serving.sounds import (
    audio_url,
    chat,
    encoded,
    float_wav,
    input_audio,
    large_wav_header,
    silence_bomb,
    wav_header,
)

URLS = [
    "/etc/passwd",
    "../../../../etc/shadow",
    "file:///etc/passwd",
    "file://localhost/proc/self/environ",
    "http://127.0.0.1:22/",
    "http://169.254.169.254/latest/meta-data/",
    "https://example.org/a.wav",
    "http://[::1]:8000/v1/models",
    "http://[::1",
    "ftp://127.0.0.1/a.wav",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "concat:/etc/passwd|/etc/hosts",
    "subfile,,start,0,end,10,,:/etc/passwd",
    "pipe:0",
    "tcp://127.0.0.1:1",
    "data:audio/wav,plain",
    "data:text/html;base64,PGI+",
    "data:;base64,",
    "data:audio/wav;base64",
    "data:audio/wav;base64,%%%",
    "DATA:audio/wav;base64,AAAA",
    "javascript:alert(1)",
    "",
    "\0",
    "data:audio/x-mpegurl;base64," + b64encode(b"#EXTM3U\n/etc/passwd\n").decode(),
]
WRONG: list[Any] = [None, 0, -1, 1.5, 10**400, True, "", "x", [], {}, [[]], {"a": 1}]


@dataclass(frozen=True)
class Attack:
    """A request: JSON ``body`` or bytes as they are."""

    name: str
    body: Any
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    statuses: tuple[int, ...] = (400,)

    def content(self) -> bytes:
        """Bytes of the request."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def attacks() -> list[Attack]:
    """All of them; every one is answered with a 4xx."""
    found = [*_files(), *_types(), *_urls(), *_bodies(), *_texts()]
    assert len(found) >= 200, len(found)
    return found


def _files() -> Iterator[Attack]:
    wav, rng = encoded(), random.Random(0)
    files = {
        "10 GB claimed": large_wav_header(10 * 2**30),
        "exabytes claimed": large_wav_header(2**62),
        "2 h claimed": wav_header(2 * 16000 * 7200),
        "0 s": encoded("wav", 0.0),
        "twice as long as is taken": encoded("ogg", 120.0, 8000),
        "2 h of silence in flac": silence_bomb(),
        "NaN": float_wav([float("nan")] * 1600),
        "infinity": float_wav([float("-inf")] * 1600),
        "no channels": wav_header(100, channels=0),
        "65535 channels": wav_header(100, channels=65535),
        "rate 0": wav_header(100, rate=0),
        "rate 4 GHz": wav_header(100, rate=2**32 - 1),
        "rate 1": wav_header(100, rate=1),
        "odd codec": wav_header(100, tag=0x160),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "playlist behind ID3": b"ID3\4\0\0\0\0\0\0#EXTM3U\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "dash in mp3": b"\xff\xfb\x90\x64<MPD urn:mpeg:dash:profile:isoff-live:2011>" * 40,
        "sdp in mp3": b"\xff\xfb\x90\x64\nv=0\nc=IN IP4 127.0.0.1\n" * 40,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "pickle": pickle.dumps({"a": 1}),
        "tensor": _saved(torch.full((5, 192), float("nan"))),
        "zip": b"PK\3\4" + bytes(100),
        "mp4": b"\0\0\0\x20ftypisom" + bytes(100),
        "empty ID3": b"ID3\4\0\0\x7f\x7f\x7f\x7f",
        "zeros": bytes(5000),
        "one byte": b"R",
    }
    for name, data in files.items():
        yield Attack(name, chat(input_audio(data, "ogg" if data[:4] == b"OggS" else "wav"), "what?"))
    for kind in ("wav", "mp3", "flac", "ogg"):
        whole = encoded(kind)
        for cut in (1, 4, 12, 30):
            yield Attack(f"{kind} cut at {cut}", chat(input_audio(whole[:cut], kind)))
        for number in range(4):
            noise = bytes(rng.randrange(256) for _ in range(2000))
            yield Attack(f"{kind} head before noise {number}", chat(input_audio(whole[:3] + noise, kind)))
    for kind in ("mp3", "flac", "ogg"):
        yield Attack(f"wav called {kind}", chat(input_audio(wav, kind)))
    text = b64encode(wav).decode()
    for name, broken in {
        "cut": text[:-3],
        "cut by one": text[:-1],
        "semicolons": text[:50] + ";" + text[50:],
        "data URL": "data:audio/wav;base64," + text,
        "unicode": "é" + text[1:],
        "url-safe": "-_" + text[2:],
        "empty": "",
        "padding alone": "====",
        "nul": "\0" + text[1:],
    }.items():
        part = {"type": "input_audio", "input_audio": {"data": broken, "format": "wav"}}
        yield Attack(f"base64: {name}", chat(part, "what?"))


def _types() -> Iterator[Attack]:
    for name in ("messages", "model"):
        for value in WRONG:
            if not (name == "model" and value in ("", "x")):
                yield Attack(f"{name}={str(value)[:20]!r}", {**chat("hi"), name: value})
        yield Attack(f"no {name}", {key: value for key, value in chat("hi").items() if key != name})
    wrong = {
        "max_tokens": [0, -1, 1.5, "1", [1], 2**40, 10**400],
        "temperature": [-1, 3, "hot", [], 10**400],
        "top_p": [0, 1.1, "x"],
        "top_k": [-2, "x", 2**40],
        "seed": [-1, 2**63, "x", 0.5, {}],
        "stop": [[""], 5, ["x"] * 17, "x" * 300, [None]],
        "stream": ["yes", 1, []],
        "thinking_token_budget": [-2, "x", 2**40],
        "n": [2, 10**6],
        "logprobs": [True],
        "tools": [[{"type": "function"}]],
        "response_format": [{"type": "json_object"}],
        "prompt_embeds": ["gASVAAAA"],
        "lora_path": ["/etc"],
        "stream_options": [{"include_usage": True}],
    }
    for name, values in wrong.items():
        for value in values:
            yield Attack(f"{name}={str(value)[:20]!r}", {**chat("hi"), name: value})
    parts = [
        {"type": "prompt_embeds", "data": b64encode(_saved(torch.zeros(2, 192))).decode()},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_audio"},
        {"type": "input_audio", "input_audio": {"data": ["a"], "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "../wav"}},
        {"type": "input_audio", "input_audio": {"path": "/etc/passwd", "format": "wav"}},
        {"type": "audio_url", "audio_url": 5},
        {"type": "text"},
        {"type": "text", "text": ["a"]},
        {"type": ["text"], "text": "a"},
        {"__class__": "Text", "text": "a"},
        "text",
        None,
    ]
    for place, part in enumerate(parts):
        yield Attack(f"part {place}", {"model": "m", "messages": [{"role": "user", "content": [part]}]})
    for turns in (
        [{"role": "tool", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "a"}],
        [{"role": "user", "content": "a", "cache": "/tmp"}],
        [{"role": "user", "content": "a"}] * 300,
    ):
        yield Attack(f"turns {str(turns)[:30]}", {"model": "m", "messages": turns})


def _urls() -> Iterator[Attack]:
    for url in URLS:
        yield Attack(f"url {url[:30]!r}", chat({"type": "audio_url", "audio_url": {"url": url}}, "what?"))


def _bodies() -> Iterator[Attack]:
    good, kind = json.dumps(chat("hi")).encode(), {"Content-Type": "application/json"}
    for name, body in {
        "empty": b"",
        "cut": good[:-5],
        "latin-1": b'{"model": "\xe9"}',
        "utf-16": good.decode().encode("utf-16"),
        "deep lists": b"[" * 200_000,
        "deep objects": b'{"messages":' * 100_000,
        "NaN": b'{"model": "m", "temperature": NaN}',
        "digits": b'{"model": "m", "seed": ' + b"9" * 100_000 + b"}",
        "list": b"[1, 2]",
        "string": b'"hi"',
        "null": b"null",
        "pickle": pickle.dumps(["a"]),
        "form": b"model=m&messages=hi",
        "surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "hi"}]}',
    }.items():
        yield Attack(f"body: {name}", body, kind, (400, 404, 413))
    for content_type in ("text/plain", "", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        yield Attack(f"content-type {content_type!r}", good, {"Content-Type": content_type}, (415,))
    yield Attack("3 MB of spaces", b" " * 3_000_000, kind, (413,))
    yield Attack("large file", chat(input_audio(bytes(3_000_000))), kind, (413,))


def _texts() -> Iterator[Attack]:
    for name, text in {"long": "x" * 100_000, "words": "word " * 100_000, "wide": "\U0001f941" * 30_000}.items():
        yield Attack(f"text: {name}", chat(text))
    yield Attack("many clips", chat(*[audio_url(encoded("flac", 0.1))] * 40))
    yield Attack("other model", chat("hi", model="../../etc"), statuses=(404,))
    yield Attack("half a character", chat("a\ud800b"))


def _saved(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()
