"""Errors that are the user's to fix: shown as one message, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message says what, what was got, what was expected, and the fix. Exit code 1."""

    exit_code = 1


class ConfigError(UserError):
    """A command line or configuration that cannot be used. Exit code 2."""

    exit_code = 2
