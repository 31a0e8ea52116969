"""Errors of audio that cannot be used."""

from __future__ import annotations

from typing import Literal

from src.common.errors import UserError

AudioFault = Literal["missing_audio", "empty_audio", "unreadable_audio", "too_long"]


class AudioError(UserError):
    """Audio that cannot be used; ``fault`` says in which way."""

    def __init__(self, message: str, fault: AudioFault = "unreadable_audio") -> None:
        super().__init__(message)
        self.fault = fault


class NoSamples(AudioError):
    """An encoded file that is whole and holds no audio."""


class NoMemory(AudioError):
    """The clips that are decoded at the moment leave no room for another one."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
