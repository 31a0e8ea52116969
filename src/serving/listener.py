"""Clips to embeddings in a thread of their own: what waits together is encoded together."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from src.audio.each_clip import each_clip
from src.audio.waveform import Waveform
from src.common.log import get_logger
from src.common.machine import MachineError
from src.serving.config import MIB
from src.serving.errors import ApiError

log = get_logger(__name__)
SECONDS_A_CLIP = 30.0
"""What a batch may hold, times its size: a long clip, to whose length all are padded, is encoded with fewer."""


class Hears(Protocol):
    """What is used of :class:`Ears`."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        """For each clip, one ``(frames, llm_dim)`` tensor a front end."""


@dataclass(eq=False)
class _Waiting:
    model: str
    clip: Waveform
    key: bytes = b""
    future: Future[list[Tensor]] = field(default_factory=Future)


class Listener:
    """Encodes clips for several models.

    At most ``batch_size`` clips of a model are encoded together. The embeddings of the last clips are kept, up to
    ``cache_mib``: a conversation brings its clips again with every turn, and the same rows let the engine reuse its
    prefix. ``on_batch`` is told the number of clips of each batch.
    """

    def __init__(
        self,
        ears: Mapping[str, Hears],
        batch_size: int,
        cache_mib: float = 256.0,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.failure: str | None = None
        """Why nothing can be encoded any more."""
        self._ears = ears
        self._batch_size = batch_size
        self._on_batch = on_batch
        self._kept = _Kept(int(cache_mib * MIB))
        self._inbox: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def hear(self, model: str, clip: Waveform) -> Future[list[Tensor]]:
        """Embeddings of a clip, one ``(frames, llm_dim)`` tensor a front end of the model.

        The future raises :class:`ApiError` for a clip that cannot be encoded, or a device that is lost; cancelling
        it drops the clip.
        """
        waiting = _Waiting(model, clip)
        self._inbox.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Encode what waits and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: list[_Waiting] = []
        ended = False
        while waiting or not ended:
            while not ended and (not waiting or not self._inbox.empty()):
                arrived = self._inbox.get()
                ended = arrived is None
                if arrived is not None:
                    arrived.key = _key(arrived)  # here, not where it comes from: that is the event loop
                    waiting.append(arrived)
            batch, waiting = self._next_batch(waiting)
            if batch and self.failure is not None:
                for each in batch:
                    each.future.set_exception(ApiError(503, self.failure, "engine_failed"))
            elif batch:
                self._on_batch(len(batch))
                self._encode(batch)

    def _next_batch(self, waiting: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
        """The clips to encode now, and those that wait on. Known clips are answered at once."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        longest = 0.0
        for each in waiting:
            known = self._kept.get(each.key)
            if known is not None:
                if each.future.set_running_or_notify_cancel():
                    each.future.set_result(known)
                continue
            length = max(longest, each.clip.duration)
            fits = len(batch) < self._batch_size and length * (len(batch) + 1) <= SECONDS_A_CLIP * self._batch_size
            if not batch or (fits and each.model == batch[0].model and each.key != batch[-1].key):
                if each.future.set_running_or_notify_cancel():
                    batch.append(each)
                    longest = length
            else:
                later.append(each)
        return batch, later

    def _encode(self, batch: list[_Waiting]) -> None:
        """Encode a batch. After a lost device nothing can be encoded any more: all are told so."""
        ears = self._ears[batch[0].model]
        left = list(batch)
        try:
            for each, embedded in each_clip(ears.encode, [(each, each.clip) for each in batch]):
                left.remove(each)
                if isinstance(embedded, Exception):
                    reason = f"audio cannot be encoded: {' '.join(str(embedded).split())[:200]}"
                    each.future.set_exception(ApiError(400, reason, "bad_audio"))
                else:
                    self._kept.put(each.key, embedded)
                    each.future.set_result(embedded)
        except MachineError as error:
            log.error("%s", error)  # noqa: TRY400 - one line says it
            self.failure = "audio cannot be encoded any more: the device failed"
            for each in left:
                each.future.set_exception(ApiError(503, self.failure, "engine_failed"))


def _key(waiting: _Waiting) -> bytes:
    digest = hashlib.sha256(np.ascontiguousarray(waiting.clip.samples.numpy()).data)
    digest.update(f"{waiting.model} {waiting.clip.sample_rate}".encode())
    return digest.digest()


class _Kept:
    """Embeddings of the clips used last, bounded in bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._items: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    def get(self, key: bytes) -> list[Tensor] | None:
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def put(self, key: bytes, embedded: list[Tensor]) -> None:
        if key in self._items or _size(embedded) > self._most:
            return
        self._items[key] = embedded
        self._size += _size(embedded)
        while self._size > self._most:
            _, oldest = self._items.popitem(last=False)
            self._size -= _size(oldest)


def _size(embedded: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in embedded)
