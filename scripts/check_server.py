r"""Hostile clients against a running server, beside a normal one: does it notice them?

In:  --url of a server, and the process id of it, of which memory is measured with all its children.
Out: times of the normal client without and with them, the slowest /health, memory above idle. Exits with 1 if a bound
     is broken: equal answers within --slowdown times their usual median, /health within --health seconds, --memory

At the same time: bodies of --body-mib (text in an ignored field, numbers, a long key, a long text), --idle
connections without a request or with half of one, requests with eight silent FLAC files of minutes at 192 kHz, and
clients that ask for a long stream and do not read it. They are a process of low priority: on the machine of the
server they would take time that clients elsewhere do not.

    python serve.py port=8000 & python scripts/check_server.py --url http://127.0.0.1:8000 --pid $!
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="process of the server; without it memory is not measured")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the two measurements")
    parser.add_argument("--idle", type=int, default=800)
    parser.add_argument("--body-mib", type=float, default=48.0)
    parser.add_argument("--silence-seconds", type=float, default=160.0, help="length of each of the eight FLAC files")
    parser.add_argument("--slowdown", type=float, default=2.0)
    parser.add_argument("--health", type=float, default=0.2)
    parser.add_argument("--memory", type=float, default=1536.0)
    args = parser.parse_args()

    from tests.support.hostile_clients import broken, check

    found = check(args)
    print(json.dumps(found, indent=1))
    return 1 if broken(found, args) else 0


if __name__ == "__main__":
    run_cli(main)
