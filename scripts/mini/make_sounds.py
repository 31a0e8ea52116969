"""Makes assets/mini/sounds from the public-domain samples of the npm package supersonic-scsynth-samples.

In:  the unpacked package (--from-dir), or nothing: it is then fetched with `npm pack`.
Out: assets/mini/sounds/{flac/*.flac, sounds.json, LICENSE, PROVENANCE.md}

    python scripts/mini/make_sounds.py
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    """Parse the arguments and make the sounds."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="The subset is shipped with the repository: run this only to change it.",
    )
    parser.add_argument("--from-dir", type=Path, help="folder of the unpacked package (default: fetch it)")
    parser.add_argument("--output", type=Path, default=ROOT / "assets/mini/sounds", help="default: %(default)s")
    args = parser.parse_args()

    from examples.miniature.world.curation import fetched_package, make_sounds

    with fetched_package(args.from_dir) as package:
        make_sounds(package, args.output)


if __name__ == "__main__":
    run_cli(main)
