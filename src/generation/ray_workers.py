"""Data parallel on several machines: one Ray actor for each GPU, with a front end and an engine of its own.

The driver gives out rows and writes the shards; workers need the data set, the checkpoints and the language model
under the same names as the driver, and the repository under the same path.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import REPO_ROOT
from src.generation.local_workers import worker_environment
from src.generation.work import Lost, Message, Service

log = get_logger(__name__)
SPARE_CPUS = 2
"""Logical CPUs beyond the actors' of a cluster that is started here: with none to spare Ray waits for ever."""
PLACE_SECONDS = 600.0
PASSED_ON = ("ALARM_DATA_ROOT", "ALARM_LOG_LEVEL", "HF_HOME", "HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE")


class RayWorkers:
    """Actors of a Ray cluster: the one at ``address``, else the one that is running, else one started here.

    ``count`` ``None`` is one for each GPU of the cluster. Raises :class:`UserError` if Ray is not installed, the
    cluster cannot be reached, or has no room for the actors.
    """

    def __init__(
        self,
        service: Service,
        count: int | None = None,
        address: str | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("engine=ray needs Ray: pip install ray (requirements-ray.txt)") from error
        self._ray = ray
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _connect(ray, address, count)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.count = count or max(1, gpus)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO_ROOT), os.environ.get("PYTHONPATH")]))
        if not gpus:
            environment |= worker_environment(self.count, None)
        options = {
            "num_cpus": 1,
            "num_gpus": 1 if gpus else 0,
            "max_concurrency": 2,  # rows come in while records are waited for
            "runtime_env": {"env_vars": environment},
        }
        actor: Any = ray.remote(RayWorker).options(**options)
        self._actors: list[Any] = [actor.remote(os.getcwd(), service) for _ in range(self.count)]
        self._waiting = {handle.take.remote(): number for number, handle in enumerate(self._actors)}
        self._placed = False

    def send(self, worker: int, rows: Sequence[Any]) -> None:
        """Give rows to a worker."""
        self._actors[worker].put.remote(list(rows))

    def wait(self) -> Iterator[tuple[int, Message]]:
        """What workers have told; :class:`Lost` for an actor that is gone."""
        done, _ = self._ray.wait(list(self._waiting), timeout=None if self._placed else PLACE_SECONDS)
        if not done:
            self.close()
            raise UserError(
                f"engine=ray: no worker has started in {PLACE_SECONDS:.0f} s; the cluster offers "
                f"{self._ray.available_resources()}, each worker takes 1 CPU and, where there are GPUs, 1 GPU"
            )
        self._placed = True
        for reference in done:
            number = self._waiting.pop(reference)
            try:
                messages = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                messages = [Lost(" ".join(str(error).split())[:300])]
            for message in messages:
                yield number, message
            if not any(isinstance(message, Lost) for message in messages):
                self._waiting[self._actors[number].take.remote()] = number

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for handle in self._actors:
            self._ray.kill(handle)
        self._actors = []
        if self._started_here:
            self._ray.shutdown()


class RayWorker:
    """The actor: an engine in a thread, rows in by :meth:`put`, messages out by :meth:`take`."""

    def __init__(self, directory: str, service: Service) -> None:
        os.chdir(directory)
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._outbox: queue.Queue[Message] = queue.Queue()
        self._thread = threading.Thread(target=self._work, args=(service,), daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Any]) -> None:
        """Rows to answer."""
        for row in rows:
            self._inbox.put(row)

    def take(self) -> list[Message]:
        """What is finished, at least one message."""
        messages = [self._outbox.get()]
        while not self._outbox.empty():
            messages.append(self._outbox.get())
        return messages

    def _work(self, service: Service) -> None:
        try:
            service(self._inbox, self._outbox.put)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._outbox.put(Lost(" ".join(reason.split())[:300]))


def _connect(ray: Any, address: str | None, count: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address or "auto", **quiet)
        return
    except ConnectionError as error:
        if address is not None:
            raise UserError(f"ray_address={address}: no Ray cluster answers there ({error})") from error
    log.info("no Ray cluster is running; starting one on this machine")
    cpus = max(os.cpu_count() or 1, (count or 1) + SPARE_CPUS)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
