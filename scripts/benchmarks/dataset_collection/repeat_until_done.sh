#!/usr/bin/env bash
# Starts a benchmark's collector again until it is done; each start continues where the last one stopped.
#
# repeat_until_done.sh NAME [OPTIONS of NAME.py]
#   WAIT_SECONDS  between two starts (environment; 1200)
# Wrong options and Ctrl-C end it: they would fail again.
set -uo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
case "${1:-}" in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac
VENV=${ALARM_VENV:-$HERE/../../../.venv}
PYTHON=${PYTHON:-$([ -x "$VENV/bin/python" ] && echo "$VENV/bin/python" || echo python3)}
NAME=$1
shift
until "$PYTHON" "$HERE/$NAME.py" "$@"; do
  CODE=$?
  case $CODE in 2 | 130) exit "$CODE" ;; esac
  echo "$NAME.py ended with exit code $CODE; it is started again in ${WAIT_SECONDS:-1200} s" >&2
  sleep "${WAIT_SECONDS:-1200}"
done
