"""Encodes clips in a thread: waiting clips of one model are encoded together."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from src.audio.each_clip import each_clip
from src.audio.waveform import Waveform
from src.common.errors import MachineError, error_text
from src.common.log import get_logger
from src.serving.clip_decoder import ApiError
from src.serving.config import MIB

if TYPE_CHECKING:
    from src.inference.ensemble import EmbedderEnsemble

log = get_logger(__name__)
SECONDS_PER_CLIP = 30.0
"""Times ``batch_size`` this bounds the padded seconds of a batch: fewer long clips are encoded together."""
BATCHES_AHEAD = 4
"""Times ``batch_size`` this bounds the clips that wait for others of similar length while the engine has work."""
POLL_SECONDS = 0.01


@dataclass(eq=False)
class _QueuedClip:
    model: str
    clip: Waveform
    key: str
    future: Future[list[Tensor]] = field(default_factory=Future)


class AudioBatcher:
    """Encodes clips for several models.

    At most ``batch_size`` clips of a model are encoded together. The embeddings of recent clips are cached, up to
    ``cache_mib``: a conversation sends its clips again with every turn, and identical embeddings let the engine
    reuse its prefix cache. Each batch is encoded within the context that ``on_batch`` returns for its number of
    clips. While ``may_wait()``, clips wait until there are several batches of them to choose from.
    """

    def __init__(
        self,
        ensembles: Mapping[str, EmbedderEnsemble],
        batch_size: int,
        cache_mib: float = 256.0,
        on_batch: Callable[[int], AbstractContextManager[None]] = lambda size: nullcontext(),
        may_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.failure: str | None = None
        """Reason why no clip can be encoded any more."""
        self._ensembles = ensembles
        self._batch_size = batch_size
        self._on_batch = on_batch
        self._may_wait = may_wait
        self._cache = _EmbeddingCache(int(cache_mib * MIB))
        self._queue: queue.SimpleQueue[_QueuedClip | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audio batcher", daemon=True)
        self._thread.start()

    def embed(self, model: str, clip: Waveform, identity: str) -> Future[list[Tensor]]:
        """Embeddings of a clip, one ``(frames, llm_dim)`` tensor per audio embedder of the model.

        ``identity`` is equal for equal samples at equal rates only.

        The future raises :class:`ApiError` if the clip cannot be encoded or the device is lost; cancelling it drops
        the clip.
        """
        queued = _QueuedClip(model, clip, f"{model} {identity}")
        self._queue.put(queued)
        return queued.future

    def close(self) -> None:
        """Encode the queued clips and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: list[_QueuedClip] = []
        open_ = True
        while waiting or open_:
            if open_:
                timeout = None if not waiting else POLL_SECONDS if self._gathers(waiting) else 0.0
                open_ = self._receive(waiting, timeout)
            waiting = self._answer_cached(waiting)
            if open_ and self._gathers(waiting):
                continue
            batch, waiting = self._next_batch(waiting)
            if batch and self.failure is not None:
                for each in batch:
                    each.future.set_exception(ApiError(503, self.failure, "engine_failed"))
            elif batch:
                with self._on_batch(len(batch)):
                    self._encode(batch)

    def _gathers(self, waiting: list[_QueuedClip]) -> bool:
        """Whether these clips may wait for more."""
        return len(waiting) < BATCHES_AHEAD * self._batch_size and self.failure is None and self._may_wait()

    def _receive(self, waiting: list[_QueuedClip], timeout: float | None) -> bool:
        """Add the clips that have arrived, or the first to arrive within ``timeout`` seconds (``None``: whenever it
        does); False once closed."""
        try:
            arrived = self._queue.get(block=timeout != 0, timeout=timeout)
            while arrived is not None:
                waiting.append(arrived)
                arrived = self._queue.get_nowait()
        except queue.Empty:
            return True
        return False

    def _answer_cached(self, waiting: list[_QueuedClip]) -> list[_QueuedClip]:
        """Those of the clips whose embeddings are not in the cache; the others are answered."""
        left: list[_QueuedClip] = []
        for each in waiting:
            cached = self._cache.get(each.key)
            if cached is None:
                left.append(each)
            elif each.future.set_running_or_notify_cancel():
                each.future.set_result(cached)
        return left

    def _next_batch(self, waiting: list[_QueuedClip]) -> tuple[list[_QueuedClip], list[_QueuedClip]]:
        """Split into clips to encode now and clips that wait.

        The clip that has waited longest is encoded with those of similar length: shorter ones are padded, and what is
        added to them is computed for nothing (with clips of 1 to 4 s in order of arrival, 40 % of a batch).
        """
        left = [each for each in waiting if not each.future.cancelled()]
        batch: list[_QueuedClip] = []
        while left and not batch:
            oldest = left.pop(0)
            if oldest.future.set_running_or_notify_cancel():
                batch.append(oldest)
        if not batch:
            return [], []
        first, longest, keys = batch[0], batch[0].clip.duration, {batch[0].key}
        taken: set[_QueuedClip] = set()
        for each in sorted(left, key=lambda queued: abs(queued.clip.duration - first.clip.duration)):
            length = max(longest, each.clip.duration)
            fits = len(batch) < self._batch_size and length * (len(batch) + 1) <= SECONDS_PER_CLIP * self._batch_size
            if fits and each.model == first.model and each.key not in keys:
                taken.add(each)
                if each.future.set_running_or_notify_cancel():
                    batch.append(each)
                    longest = length
                    keys.add(each.key)
        return batch, [each for each in left if each not in taken]

    def _encode(self, batch: list[_QueuedClip]) -> None:
        """Encode a batch. After the loss of a device every later clip is refused."""
        encode = self._ensembles[batch[0].model].encode
        left = list(batch)
        try:
            for each, embedded in each_clip(encode, [(each, each.clip) for each in batch]):
                left.remove(each)
                if isinstance(embedded, Exception):
                    reason = f"audio cannot be encoded: {error_text(embedded, 200)}"
                    each.future.set_exception(ApiError(400, reason, "bad_audio"))
                else:
                    self._cache.put(each.key, embedded)
                    each.future.set_result(embedded)
        except MachineError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is complete without a traceback
            self.failure = "audio cannot be encoded any more: the device failed"
            for each in left:
                each.future.set_exception(ApiError(503, self.failure, "engine_failed"))


class _EmbeddingCache:
    """Least recently used cache of embeddings, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._items: OrderedDict[str, list[Tensor]] = OrderedDict()

    def get(self, key: str) -> list[Tensor] | None:
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def put(self, key: str, embedded: list[Tensor]) -> None:
        if key in self._items or _size(embedded) > self._limit:
            return
        self._items[key] = embedded
        self._size += _size(embedded)
        while self._size > self._limit:
            _, oldest = self._items.popitem(last=False)
            self._size -= _size(oldest)


def _size(embedded: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in embedded)
