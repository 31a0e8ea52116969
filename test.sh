#!/usr/bin/env bash
# Lint, types and all tests, in .venv (made if it is not there).
#
# ./test.sh                 everything, as CI does
# ./test.sh --fast          without the tests that take more than a few seconds
# ./test.sh -- ARGS         the arguments after -- go to pytest, which then runs in one process
#
# Test files are distributed over ALARM_TEST_WORKERS processes (3: many tests wait for programs to start). The one that
# measures how long a server's answers take runs alone, in the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# hundreds of programs are started, and without bytecode each compiles thousands of files
unset PYTHONDONTWRITEBYTECODE
FAST=()
case "${1:-}" in
  --fast) FAST=(-m "not slow and not vllm and not launch"); shift ;;
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ "${1:-}" = -- ] && shift
scripts/setup_env.sh
[ ${#FAST[@]} -gt 0 ] || scripts/setup_env.sh --browser
BIN=${ALARM_VENV:-.venv}/bin
"$BIN/ruff" check .
"$BIN/ruff" format --check .
if [ $# -gt 0 ]; then
  "$BIN/mypy"
  exec "$BIN/python" -m pytest "${FAST[@]}" "$@"
fi
# types are checked by one process, beside the tests
REPORT=$(mktemp)
trap 'rm -f "$REPORT"' EXIT
"$BIN/mypy" >"$REPORT" 2>&1 &
TYPES=$!
FAILED=0
ALONE=tests/serving/test_abuse.py
# one thread for each: two that share two processors wait for each other most of the time
OMP_NUM_THREADS=1 "$BIN/python" -m pytest "${FAST[@]}" -n "${ALARM_TEST_WORKERS:-3}" --dist loadfile --no-loadscope-reorder \
  --durations 40 --ignore=$ALONE || FAILED=$?
"$BIN/python" -m pytest "${FAST[@]}" $ALONE || FAILED=$?
wait $TYPES || FAILED=$?
cat "$REPORT"
exit "$FAILED"
