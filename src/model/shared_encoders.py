"""Frozen encoders that several audio embedders have in common: held once, so that they can be loaded and run once.

Two encoders are the same if their configurations name the same features, architecture, source and revision, and
their weights are equal. Encoders from one source are equal without looking; those that lie in whole checkpoints are
compared tensor by tensor. Checkpoints that pin different revisions of one encoder keep one each, even if the weights
agree.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable

import torch

from src.common.log import get_logger
from src.model.audio_embedder import AudioEmbedder
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec

log = get_logger(__name__)


class EncoderStore:
    """The encoders that were loaded so far."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[Encoder, bool]]] = {}

    def get(self, name: str, spec: EncoderSpec, load: Callable[[], Encoder], bundled: bool) -> Encoder:
        """The encoder of a configuration: one that is here, else what ``load`` gives.

        ``bundled`` tells that its weights lie in the checkpoint, so that they must be loaded to be compared.
        """
        known = self._known.setdefault(_identity(spec), [])
        # two that come from the same source need no comparison, and the second no loading
        same = next((encoder for encoder, was_bundled in known if not bundled and not was_bundled), None)
        if same is None:
            loaded = load()
            same = next((encoder for encoder, _ in known if equal_weights(encoder, loaded)), None)
            if same is None:
                known.append((loaded, bundled))
            if same is None or same is loaded:
                return loaded
        log.info("encoder %s: shared with a checkpoint before", name)
        return same


def share_encoders(audio_embedders: Iterable[tuple[AudioEmbedder, dict[str, EncoderSpec]]]) -> None:
    """Let audio embedders that were loaded apart use one module for encoders that are the same."""
    store = EncoderStore()
    for audio_embedder, specs in audio_embedders:
        encoders = audio_embedder.audio_encoder.encoders
        for name in list(encoders):
            own = encoders[name]
            encoders[name] = store.get(name, specs[name], lambda own=own: own, bundled=True)  # type: ignore[misc]


def equal_weights(one: Encoder, other: Encoder) -> bool:
    """Whether two encoders hold the same tensors: names, dtypes, shapes and values."""
    if one is other:
        return True
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        value.dtype == theirs[name].dtype
        and value.shape == theirs[name].shape
        and torch.equal(value, theirs[name].to(value.device))  # one may have been moved to a GPU already
        for name, value in ours.items()
    )


def _identity(spec: EncoderSpec) -> str:
    """All of a configuration but the layers that are read."""
    return json.dumps(dataclasses.asdict(dataclasses.replace(spec, layers=())), sort_keys=True, default=str)
