"""Tiny imitations of the corpora as upstream lays them out: one function a corpus, ``IMITATIONS`` by name."""

from __future__ import annotations

from tests.support.upstream.conversations import CONVERSATIONS
from tests.support.upstream.hub_sets import HUB_SETS
from tests.support.upstream.sounds import SOUNDS
from tests.support.upstream.speech import SPEECH

IMITATIONS = {**SPEECH, **CONVERSATIONS, **SOUNDS, **HUB_SETS}
