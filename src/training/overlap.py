"""``overlap_encoders=true``: features and encoders of the next micro-batch while the LLM works on this one.

The encoders are frozen, so that their states do not depend on the step that is being computed. A thread computes them
on a second stream of a GPU: the host waits for lengths there, which must not hold up the kernels of the LLM. Adapters
and fusion are trained and stay in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from src.dataset.examples import Batch
from src.model.audio_embedder import AudioEmbedder
from src.training.encoder_cache import EncodedStates, EncodersOrStates

Prepare = Callable[[Batch], dict[str, Any]]


class EncodeAhead:
    """Inputs of a step's micro-batches with the encoders' states in place of features, one micro-batch ahead."""

    def __init__(
        self,
        audio_embedder: AudioEmbedder,
        prepare: Prepare,
        autocast: Callable[[], AbstractContextManager[None]],
        device: torch.device,
    ) -> None:
        """``prepare`` makes the model's inputs with features; ``autocast`` the precision in which the model runs.

        Replaces the audio embedder's encoders by ones that pass states through.
        """
        self._encoders = audio_embedder.audio_encoder
        audio_embedder.audio_encoder = EncodersOrStates(self._encoders)  # type: ignore[assignment]
        self._layers = audio_embedder.layers
        self._prepare = prepare
        self._autocast = autocast
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode_ahead")
        # By id(): a batch has no hash, and all of a step live until it ends.
        self._coming: dict[int, Future[dict[str, Any]]] = {}
        self._following: dict[int, Batch] = {}

    def begin(self, batches: Sequence[Batch]) -> None:
        """Start with the first micro-batch of a step; :meth:`take` then starts each next one."""
        self._coming.clear()
        self._following = {id(one): other for one, other in zip(batches, batches[1:], strict=False)}
        self._start(batches[0])

    def take(self, batch: Batch) -> dict[str, Any] | None:
        """The inputs of a micro-batch of the step; None for any other batch."""
        future = self._coming.pop(id(batch), None)
        if future is None:
            return None
        inputs = future.result()
        if self._stream is not None:
            main = torch.cuda.current_stream(self._device)
            main.wait_stream(self._stream)
            for item in (inputs["features"] or {}).values():
                item.states.record_stream(main)  # the allocator must not give its memory away before the step's end
        following = self._following.pop(id(batch), None)
        if following is not None:
            self._start(following)
        return inputs

    def encode(self, batch: Batch) -> dict[str, Any]:
        """Inputs of a batch with states, in this thread."""
        on_stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.no_grad(), on_stream, self._autocast():
            inputs = self._prepare(batch)
            features: Mapping[str, Any] | None = inputs["features"]
            if features is None:
                return inputs
            placed = {name: features[name].to(self._device, non_blocking=True) for name in self._layers}
            states, lengths = self._encoders(placed, self._layers)
        return {**inputs, "features": {name: EncodedStates(states[name], lengths[name]) for name in self._layers}}

    def _start(self, batch: Batch) -> None:
        self._coming[id(batch)] = self._thread.submit(self.encode, batch)
