#!/usr/bin/env bash
# Collects MMSU, started again after each failure: repeat_until_done.sh mmsu [OPTIONS of mmsu.py].
exec "$(dirname "${BASH_SOURCE[0]}")/repeat_until_done.sh" mmsu "$@"
