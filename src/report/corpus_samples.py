"""Samples of a corpus as cards: the clip, its picture, description, prompt, responses before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.common.errors import UserError
from src.prompts.texts import Prompts
from src.prompts.thoughts import split_response
from src.report.clips import mark_betrayals
from src.report.spectrogram import read_sound, spectrogram_uri

COLUMNS = 900


@dataclass
class Room:
    """Bytes that clips may still take."""

    left: int

    def take(self, text: str) -> bool:
        """Whether a text fits; if so, its bytes are taken."""
        if len(text) > self.left:
            return False
        self.left -= len(text)
        return True


def sample_card(sample: Mapping[str, Any], prompts: Prompts, room: Room) -> dict[str, Any]:
    """What the template shows of a sample; a clip that is missing, broken or too large is told, not an error."""
    sound, picture, problem, seconds = "", "", "", sample["seconds"]
    if not sample["audio"]:
        problem = "this set holds no audio"
    else:
        try:
            found = read_sound(sample["audio"], f"{sample['split']}, {sample['key']}")
            if room.take(found.data_uri()):
                sound, picture, seconds = found.data_uri(), spectrogram_uri(found, COLUMNS), found.seconds
            else:
                problem = "no room left for the clip (--audio-mb)"
        except UserError as error:
            problem = str(error)
    replies = []
    for reply in sample["replies"]:
        parts = split_response(reply["text"])
        replies.append(
            {
                "folder": reply["folder"],
                "status": reply["status"] if reply["status"] != "ok" or reply["text"] else "missing",
                "thoughts": mark_betrayals(parts.thoughts, prompts),
                "answer": mark_betrayals(parts.answer, prompts),
            }
        )
    return {
        "where": f"{sample['split']} · {sample['key']}", "seconds": seconds, "sound": sound, "picture": picture,
        "problem": problem, "description": sample["description"],
        "prompt": sample["prompt"] if sample["prompt"] != sample["description"] else "", "replies": replies,
    }  # fmt: skip
