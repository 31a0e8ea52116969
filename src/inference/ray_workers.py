"""Workers as actors of a Ray cluster, one for each GPU, on any of its machines.

They need the data set, the checkpoints and the language model under the same names as this process, and the
repository under the same path.
"""

from __future__ import annotations

import math
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from src.common.errors import UserError, one_line
from src.common.log import get_logger
from src.common.paths import REPO_ROOT
from src.inference.local_workers import worker_environment
from src.inference.workers import POLL_SECONDS, WORKER_TIMEOUT, Message, SilenceMonitor, WorkerDied, WorkerMain, drain

log = get_logger(__name__)
SPARE_CPUS = 2
"""Logical CPUs beyond the actors' of a cluster that is started here: with none to spare Ray waits for ever."""
PLACE_SECONDS = 40.0
"""How long Ray may take to find room for an actor; starting one takes seconds."""
STARTING_FACTOR = 6
"""Actors that had room when they were created may take longer to start: Python may be on a slow disk."""
CONNECT_SECONDS = 40.0
KILL_SECONDS = 10.0
PASSED_ON = ("ALARM_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_OFFLINE", "VLLM_CPU_KVCACHE_SPACE")
"""Beginnings of the names of variables that workers get."""
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""Parts of names whose values are sent with the actor: Ray logs the variables of a runtime_env
(https://github.com/ray-project/ray/issues/28276)."""
_PROBE = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
"""


class RayWorkers:
    """Actors that run ``main`` on a Ray cluster: that at ``address``, or one that is running, or one started here.

    ``count`` ``None`` is one for each GPU of the cluster. Actors for which there is no room may be placed later; the
    work begins with those that are. One without a sign of life for ``timeout`` seconds is killed. Raises
    :class:`UserError` if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        main: WorkerMain,
        count: int | None = None,
        address: str | None = None,
        timeout: float = WORKER_TIMEOUT,
    ) -> None:
        try:
            import ray
            from ray import cloudpickle
        except ImportError as error:
            raise UserError("engine=ray needs Ray: pip install ray (requirements-ray.txt)") from error
        self._ray = ray
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _connect(ray, address, count)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.count = count or max(1, gpus)
        self._needs = {"CPU": 1, **({"GPU": 1} if gpus else {})}
        self._monitor = SilenceMonitor(timeout)
        settings, secrets = _environment()
        if not gpus:
            settings |= worker_environment(self.count, None)
        options = {
            "num_cpus": 1,
            "num_gpus": 1 if gpus else 0,
            "max_concurrency": 2,  # work comes in while results are waited for
            "runtime_env": {"env_vars": settings},
        }
        had_room = self._free()[1] >= 1  # asked before the actors are created, which take it
        self._place_limit = PLACE_SECONDS * (STARTING_FACTOR if had_room else 1)
        actor: Any = ray.remote(RayWorker).options(**options)
        # Pickled here and loaded by the actor's thread: an actor that still imports torch has a place already.
        arguments = (os.getcwd(), cloudpickle.dumps(main), secrets, self._monitor.interval)
        self._actors: dict[int, Any] = {number: actor.remote(*arguments) for number in range(self.count)}
        self._calls = {handle.take.remote(): number for number, handle in self._actors.items()}
        self._placed: dict[int, tuple[str, int]] = {}
        self._since = self._created = time.monotonic()
        self._warned = False

    def send(self, worker: int, work: Sequence[Any]) -> None:
        """Give work to a worker."""
        if worker in self._actors:
            self._actors[worker].put.remote(list(work))

    def wait(self) -> Iterable[tuple[int, Message]]:
        """Messages of workers; :class:`WorkerDied` for an actor that is gone or was killed.

        Raises :class:`UserError` if none of them has a place for some time.
        """
        self._ray.wait(list(self._calls), timeout=POLL_SECONDS)
        # the call before returns at the first result, this one collects the others that are there
        done, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        messages: list[tuple[int, Message]] = []
        for reference in done:
            number = self._calls.pop(reference)
            if number not in self._actors:
                continue
            try:
                self._placed[number], received = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                received = [WorkerDied(one_line(error))]
            self._monitor.saw(number)
            for message in received:
                self._monitor.saw(number, message)
                messages.append((number, message))
            if any(isinstance(message, WorkerDied) for message in received):
                self._drop(number)
            else:
                self._calls[self._actors[number].take.remote()] = number
        for number, died in self._monitor.overdue():
            self._kill(number)
            self._drop(number)
            messages.append((number, died))
        self._check_places()
        return messages

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for handle in self._actors.values():
            self._ray.kill(handle)
        self._actors = {}
        if self._started_here:
            self._ray.shutdown()

    def _drop(self, number: int) -> None:
        self._actors.pop(number, None)
        self._placed.pop(number, None)
        self._monitor.forget(number)

    def _check_places(self) -> None:
        """Report actors for which Ray finds no room: it would wait without a word. Raises if that is all of them."""
        now, missing = time.monotonic(), len(self._actors) - len(self._placed)
        if self._placed:
            self._since = now
        if not missing or now - (self._since if not self._placed else self._created) < PLACE_SECONDS:
            return
        each = " and ".join(f"{amount} {name}" for name, amount in self._needs.items())
        free, room = self._free()
        state = f"each takes {each}; of the cluster are free: {free}"
        if not self._placed and (now - self._since > self._place_limit or not room):
            self.close()
            raise UserError(
                f"engine=ray: none of {self.count} workers has started in {now - self._since:.0f} s; {state}. End "
                "other work on the cluster, or add machines to it"
            )
        if self._placed and not self._warned:
            self._warned = True
            log.warning(
                "engine=ray: %d of %d workers have started; %s. The run goes on with these; others join when there "
                "is room",
                *(len(self._placed), self.count, state),
            )

    def _free(self) -> tuple[str, int]:
        """Free of what a worker needs, in words, and the number of workers that this is enough for."""
        free, total = self._ray.available_resources(), self._ray.cluster_resources()
        words = ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in self._needs)
        return words, min(math.floor(free.get(name, 0) / amount) for name, amount in self._needs.items())

    def _kill(self, number: int) -> None:
        """End an actor's process: ``ray.kill`` asks it to end, which a stopped process does not do."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        handle = self._actors[number]
        if number in self._placed:
            node, pid = self._placed[number]
            here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            task = self._ray.remote(_kill_process).options(num_cpus=0, scheduling_strategy=here, max_retries=0)
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(task.remote(pid), timeout=KILL_SECONDS)
        self._ray.kill(handle)


class RayWorker:
    """The actor: runs a worker's body in a thread; work comes in by :meth:`put`, messages go out by :meth:`take`."""

    def __init__(self, directory: str, pickled_main: bytes, secrets: dict[str, str], interval: float) -> None:
        import ray

        os.chdir(directory)  # the run's relative paths (checkpoints, data) are meant from there
        os.environ.update(secrets)
        self._interval = interval
        self._place = (ray.get_runtime_context().get_node_id(), os.getpid())
        self._work: queue.Queue[Any] = queue.Queue()
        self._messages: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._run, args=(pickled_main,), daemon=True).start()

    def put(self, work: Sequence[Any]) -> None:
        """Take work."""
        for piece in work:
            self._work.put(piece)

    def take(self) -> tuple[tuple[str, int], list[Message]]:
        """Node and process, and the messages since the last call; returns after a while even if there are none."""
        return self._place, drain(self._messages, self._interval)

    def _run(self, pickled_main: bytes) -> None:
        from ray import cloudpickle

        try:
            cloudpickle.loads(pickled_main)(self._work, self._messages.put)
        except Exception as error:  # reported to the driver, which goes on with the others
            self._messages.put(WorkerDied(str(error) if isinstance(error, UserError) else one_line(error)))


def _kill_process(pid: int) -> None:
    import signal

    os.kill(pid, signal.SIGKILL)


def _environment() -> tuple[dict[str, str], dict[str, str]]:
    """Variables of this process that workers get: for the runtime_env, and those with secrets."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    secrets = {name: value for name, value in given.items() if any(part in name for part in SECRET)}
    settings = {name: value for name, value in given.items() if name not in secrets}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO_ROOT), os.environ.get("PYTHONPATH")]))
    return settings, secrets


def _connect(ray: Any, address: str | None, count: int | None) -> None:
    """Connect this process. Raises :class:`UserError` if ``address`` or ``RAY_ADDRESS`` is not that of a cluster."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    given = address or os.environ.get("RAY_ADDRESS") or "auto"
    reason = None if given == "local" else _unreachable(given)
    if reason is None:
        ray.init(address=given, **quiet)
    elif given == "auto" and reason.startswith("ConnectionError"):
        log.info("no Ray cluster is running; starting one on this machine")
        cpus = max(os.cpu_count() or 1, (count or 1) + SPARE_CPUS)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    else:
        raise UserError(
            f"ray_address={given}: no Ray cluster answers there ({reason}); expected HOST:PORT of a cluster that is "
            "running (`ray status` on its machine shows whether it is), ray://HOST:PORT of its client server, or auto"
        )


def _unreachable(address: str) -> str | None:
    """Why no cluster answers at an address, or ``None`` if one does.

    Tried in another process: at an address without a cluster ``ray.init`` goes on for a quarter of an hour and cannot
    be interrupted (Ray 2.60).
    """
    if address != "auto":
        try:
            parts = urlsplit(address if "://" in address else f"//{address}")
            if not parts.hostname or parts.port is None:
                return "no host and port"
            socket.create_connection((parts.hostname, parts.port), timeout=10).close()
        except (ValueError, OSError) as error:
            return one_line(error)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address], capture_output=True, text=True, timeout=CONNECT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {CONNECT_SECONDS:.0f} s"
    return None if done.returncode == 0 else " ".join(done.stdout.split())[:300] or "it cannot be reached"
