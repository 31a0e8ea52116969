"""An offline W&B run read back: its file holds protocol-buffer records in blocks of 32 KiB, as LevelDB's log does."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
WHOLE, LAST = 1, 4


def _payloads(data: bytes) -> Iterator[bytes]:
    place, kept = FILE_HEADER, b""
    while place + RECORD_HEADER <= len(data):
        if BLOCK - place % BLOCK < RECORD_HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += RECORD_HEADER
        kept += data[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield kept
            kept = b""


def read_wandb(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Configuration, history lines and identity (project, name, id) of the newest offline run below ``folder``."""
    from wandb.proto.wandb_internal_pb2 import Record

    file = max(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    for _ in range(100):  # W&B's own process may still be writing when `finish` has returned
        kinds = [Record.FromString(payload).WhichOneof("record_type") for payload in _payloads(file.read_bytes())]
        if "exit" in kinds:
            break
        time.sleep(0.1)
    config: dict[str, Any] = {}
    history, identity = [], {}
    for payload in _payloads(file.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            identity = {"project": record.run.project, "name": record.run.display_name, "id": record.run.run_id}
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return config, history, identity
