"""Score the saved runs of a job and write its report.

In:  a manifest (JSON, see examples/miniature/report/manifest.py), as the main job writes it.
Out: report.html and results.json.

    python scripts/mini/make_report.py --manifest runs/quickstart/manifest.json --out runs/quickstart/report.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="which folders to read")
    parser.add_argument("--out", type=Path, help="the page; default: report.html beside the manifest")
    args = parser.parse_args()

    from examples.miniature.report.build import build_report
    from examples.miniature.report.manifest import read_manifest

    out = args.out or args.manifest.with_name("report.html")
    build_report(read_manifest(args.manifest), out)


if __name__ == "__main__":
    run_cli(main)
