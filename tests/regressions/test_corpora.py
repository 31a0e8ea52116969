"""Rows C1 to C4 (corpora) and P1, P2, P10 (names in lists, streams and records)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from src.common.errors import UserError
from src.common.json_lines import json_lines, read_json_lines, split_lines
from src.common.run_record import public_record, without_paths, write_run_record
from src.serving.remote_core import _lines

ODD = "a\u2028b\u2029c\x85d\x0be\x1cf"
"""Text with every character at which ``str.splitlines`` splits and a file does not."""


# P1: lists were read with str.splitlines, so a name with U+2028 or U+0085 broke the file for every later run.
def test_p1_json_lines_split_at_line_feeds_only(tmp_path: Path) -> None:
    values = [{"name": ODD}, {"name": "x\udcff.wav"}, ODD]
    (tmp_path / "x.jsonl").write_text(json_lines(values), encoding="utf-8")
    assert list(read_json_lines(tmp_path / "x.jsonl")) == values
    assert list(read_json_lines(tmp_path / "none.jsonl")) == []
    assert split_lines(f"{ODD}\r\n\nlast") == [ODD, "", "last"] and split_lines("") == []


def test_p1_a_line_that_is_no_json_is_named_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": ')
    assert list(read_json_lines(tmp_path / "x.jsonl", skip_broken=True)) == [{"a": 1}]
    with pytest.raises(UserError, match="x.jsonl, line 3: not JSON"):
        list(read_json_lines(tmp_path / "x.jsonl"))


# P2: httpx's aiter_lines splits at U+2028, so an event whose JSON contains it was half an event: 502.
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_p2_events_split_at_line_feeds_only(size: int) -> None:
    events = [f"data: {json.dumps({'text': ODD}, ensure_ascii=False)}", "", "data: [DONE]"]
    body = "\r\n".join(events).encode()

    async def read() -> list[str]:
        async def pieces():  # type: ignore[no-untyped-def]
            for start in range(0, len(body), size):
                yield body[start : start + size]

        return [line async for line in _lines(httpx.Response(200, content=pieces()))]

    assert asyncio.run(read()) == events


# P10: run.json went to the Hub as it was, with the folders of the author's machine.
def test_p10_a_published_record_has_no_folders(tmp_path: Path) -> None:
    home = "/home/some one"
    config = {
        "llm": f"{home}/models/llm", "out": f"{home}/runs/a/", "hub": "Qwen/Qwen3-4B", "url": "https://x.org/a/b",
        "text": "1/2 or /no_think and so on", "rows": [["esc50", Path("/data/raw/esc50")]], "n": 3,
        "/data/clips/a.wav": "~/b/c", "failed": "cannot open '/data/clips/b.wav': no such file",
    }  # fmt: skip
    write_run_record(
        tmp_path, json.loads(json.dumps(config, default=str)), command=["train.py", f"out={home}/x", "/a"]
    )
    record = public_record(tmp_path / "run.json")
    assert record["config"] == {
        "llm": "llm", "out": "a", "hub": "Qwen/Qwen3-4B", "url": "https://x.org/a/b",
        "text": "1/2 or /no_think and so on", "rows": [["esc50", "esc50"]], "n": 3, "a.wav": "c",
        "failed": "cannot open 'b.wav': no such file",
    }  # fmt: skip
    assert record["command"] == ["train.py", "out=x", "a"]
    assert without_paths({"versions": {"torch": "2"}, "none": None}) == {"versions": {"torch": "2"}, "none": None}
