#!/usr/bin/env bash
# The whole method in miniature on any machine: set-up, data, training, generation, scores, report.
#
# ./quickstart.sh                 about 12 minutes on two cores; run again, it skips what is done
# ./quickstart.sh --setup-only    stop after the set-up
# ./quickstart.sh --full          retrain everything from nothing and run the ablations over 3 seeds (hours)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
for argument in "$@"; do
  case "$argument" in
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
  esac
done
# without bytecode every program compiles thousands of files at its start
unset PYTHONDONTWRITEBYTECODE
scripts/setup_env.sh
[ "${1:-}" = --setup-only ] && exit 0
exec "${ALARM_VENV:-.venv}/bin/python" scripts/mini/run_main_job.py "$@"
