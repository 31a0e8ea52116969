#!/usr/bin/env bash
# Collects AIR-Bench Foundation, started again after each failure: repeat_until_done.sh airbench [OPTIONS of airbench.py].
exec "$(dirname "${BASH_SOURCE[0]}")/repeat_until_done.sh" airbench "$@"
