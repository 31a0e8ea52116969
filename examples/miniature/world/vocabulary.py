"""Words of the miniature world that sounds, scenes and the language model share."""

from __future__ import annotations

SOUND_NAMES = (
    "kick",
    "snare",
    "hi-hat",
    "cymbal",
    "tom",
    "tabla",
    "drum loop",
    "phone",
    "robot voice",
    "vinyl scratch",
    "beep",
    "rising sweep",
    "falling sweep",
    "hiss",
    "bell",
    "guitar",
)
"""Sounds that the language model has words for; the shipped recordings cover those that can be told apart."""

LOUDNESS = ("loud", "soft")
BACKGROUNDS = ("none", "faint", "strong")
