#!/usr/bin/env bash
# Lint, types and all tests, in .venv (made if it is not there).
#
# ./test.sh                 everything, as CI does
# ./test.sh --fast          without the tests that take more than a few seconds
# ./test.sh -- ARGS         the arguments after -- go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
FAST=()
case "${1:-}" in
  --fast) FAST=(-m "not slow and not vllm and not launch"); shift ;;
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ "${1:-}" = -- ] && shift
scripts/setup_env.sh
[ ${#FAST[@]} -gt 0 ] || scripts/setup_env.sh --browser
BIN=${ALARM_VENV:-.venv}/bin
"$BIN/ruff" check .
"$BIN/ruff" format --check .
"$BIN/mypy"
exec "$BIN/python" -m pytest "${FAST[@]}" "$@"
