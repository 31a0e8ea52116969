#!/usr/bin/env bash
# Speed and memory of training on this machine's GPU: scripts/perf/gpu.py with the environment's Python.
#   scripts/perf/gpu.sh [--size cpu] [--out DIR] [...]     all options: scripts/perf/gpu.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
exec "$python" "$root/scripts/perf/gpu.py" "$@"
