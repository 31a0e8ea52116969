"""Workers that are stopped, orphaned, slow to load or without a place: rows P7, M3, M4, M5 of the cases."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.inference import ray_workers, workers
from src.inference.local_workers import LocalWorkers
from tests.support.worker_mains import is_alive, load_slowly, name_process, pids, run, wait_for_end


@contextmanager
def stopped(folder: Path, count: int, after: float) -> Iterator[list[int]]:
    """Stops the first of ``count`` workers some time after all have started; yields its process in a list."""
    found: list[int] = []

    def stop() -> None:
        first = min(pids(folder, count))
        time.sleep(after)
        os.kill(first, signal.SIGSTOP)
        found.append(first)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def test_p7_a_stopped_worker_is_killed_and_its_rows_are_reassigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7: a run with a stopped worker waited for ever without a word."""
    warned: list[str] = []
    monkeypatch.setattr(workers.log, "warning", lambda form, *values: warned.append(form % values))
    pool = LocalWorkers(functools.partial(name_process, tmp_path, 0.05), 2, timeout=2)
    with stopped(tmp_path, 2, 0.5) as found:
        results = run(pool, 150)
    assert sorted(int(result["key"]) for result in results) == list(range(150))
    assert len(warned) == 1 and "no sign of life for 2 s" in warned[0] and "engine.worker_timeout" in warned[0]
    assert not wait_for_end(found, 5)
    pool.close()


def test_p7_all_workers_stopped_is_one_line(tmp_path: Path) -> None:
    pool = LocalWorkers(functools.partial(name_process, tmp_path, 0.05), 1, timeout=1)
    with stopped(tmp_path, 1, 0.3), pytest.raises(UserError, match="all workers are lost .no sign of life.*again"):
        run(pool, 1000)
    pool.close()


@pytest.mark.parametrize("hold_lock", [False, True])
def test_p7_a_worker_that_loads_or_works_for_long_is_left_alone(tmp_path: Path, hold_lock: bool) -> None:
    """A process that sleeps in a step still sends signs of life; loading may even hold Python's global lock."""
    main = functools.partial(load_slowly, tmp_path, 3.0, hold_lock)
    pool = LocalWorkers(main, 1, timeout=1)
    assert len(run(pool, 3)) == 3
    pool.close()
    pool = LocalWorkers(functools.partial(name_process, tmp_path, 2.5), 1, timeout=1)
    assert len(run(pool, 2)) == 2
    pool.close()


def test_p7_time_in_which_the_run_itself_was_stopped_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    monitor = workers.SilenceMonitor(10)
    monitor.saw(0, workers.Ready(1))
    monitor.saw(1)
    now[0] = 1000  # Ctrl-Z and fg, or a machine that slept
    assert not monitor.overdue()
    given_up: dict[int, tuple[float, str]] = {}
    while now[0] < 1100:
        now[0] += 1
        for worker, died in monitor.overdue():
            given_up[worker] = (now[0], died.reason)
            monitor.forget(worker)
    assert given_up[0][0] == 1009 and "10 s, so" in given_up[0][1]
    assert given_up[1][0] == 1049 and "50 s while loading" in given_up[1][1]


@pytest.mark.parametrize("stop_first", [False, True])
def test_p7_workers_end_with_a_killed_parent(tmp_path: Path, stop_first: bool) -> None:
    """Also one that is stopped: the kernel wakes it when its parent ends."""
    command = [sys.executable, "-m", "tests.support.worker_mains", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPO_ROOT) as parent:
        found = pids(tmp_path, 2)
        if stop_first:
            os.kill(found[0], signal.SIGSTOP)
        parent.kill()
    assert not wait_for_end(found, 10)


@pytest.mark.parametrize("stop_first", [False, True])
def test_p7_collecting_processes_end_with_a_killed_parent(tmp_path: Path, stop_first: bool) -> None:
    """P7: ``collect.py --jobs 2``, killed, left its processes behind."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom src.corpus.collect.pool import run_all\n"
        "def work(folder):\n"
        "    (folder / f'worker-{os.getpid()}').touch()\n    time.sleep(0.2)\n"
        "if __name__ == '__main__':\n"
        "    list(run_all(work, [Path(sys.argv[1])] * 10000, 2, lambda item: item))\n"
    )
    script = tmp_path / "collects.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment) as parent:
        found = pids(tmp_path, 2)
        if stop_first:
            os.kill(found[0], signal.SIGSTOP)
        parent.kill()
    assert not wait_for_end(found, 5)


# Ray


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "ConnectionRefusedError"),
        ("10.0.0.1", "no host and port"),
        ("not an address", "no host and port"),
        ("head:port", "ValueError"),
        ("127.0.0.1:99999", "ValueError"),
        ("no-such-host.invalid:6379", "gaierror"),
        ("ray://127.0.0.1:1", "ConnectionRefusedError"),
    ],
)
@pytest.mark.usefixtures("alone_with_ray")
def test_m3_a_dead_or_malformed_address_is_one_line(address: str, said: str) -> None:
    """M3: it took 828 s, or ended in a traceback."""
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"ray_address={address}: no Ray cluster answers there .*{said}") as caught:
        ray_workers.RayWorkers(print, 1, address)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.usefixtures("alone_with_ray")
def test_m3_something_else_that_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_workers, "CONNECT_SECONDS", 12.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if variable:
            monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        with pytest.raises(UserError, match=f"ray_address={address}.*no answer in 12 s"):
            ray_workers.RayWorkers(print, 1, None if variable else address)
        assert time.monotonic() - started < 30


ON_A_CLUSTER = """
import functools, json, logging, os, signal, sys, threading, time
from pathlib import Path
import ray
from src.common.errors import UserError
from src.common.log import setup_logging
from src.inference import ray_workers
from tests.support.worker_mains import load_slowly, name_process, pids, run
setup_logging()
folder = Path(sys.argv[1])
options = dict(include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[3])
ray.init(address="local", num_cpus=int(sys.argv[2]), **options)
{body}
ray.shutdown()
"""


def on_a_cluster(tmp_path: Path, cpus: int, body: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program on a Ray cluster of its own with so many CPUs."""
    pytest.importorskip("ray")
    script = tmp_path / "program.py"
    script.write_text(ON_A_CLUSTER.format(body=body))
    place = Path("/tmp") / f"alarm-ray-{os.getpid()}-{tmp_path.name[-8:]}"  # sockets have short names only
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT), **variables}
    command = [sys.executable, str(script), str(tmp_path), str(cpus), str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, cwd=REPO_ROOT)
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    done.args = place
    return done


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.usefixtures("alone_with_ray")
def test_m3_a_cluster_without_a_free_cpu_is_one_line(tmp_path: Path) -> None:
    """M3: the message was never reached, a traceback came after 600 s."""
    body = """
@ray.remote(num_cpus=1)
class Other:
    def ping(self): return 1
other = Other.remote(); ray.get(other.ping.remote())
for _ in range(20):
    if not ray.available_resources().get("CPU"): break
    time.sleep(0.5)
started = time.monotonic()
try:
    run(ray_workers.RayWorkers(functools.partial(name_process, folder, 0.1), 2), 4)
except UserError as error:
    print(json.dumps([time.monotonic() - started, str(error)]))
"""
    seconds, said = json.loads(on_a_cluster(tmp_path, 1, body).stdout)
    assert seconds < 60
    assert "none of 2 workers has started" in said and "each takes 1 CPU" in said and "free: 0 of 1 CPU" in said


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.usefixtures("alone_with_ray")
def test_m3_m4_m5_placed_workers_load_as_long_as_they_need(tmp_path: Path) -> None:
    """M4: two of three workers have a place, which was not said. M3: loading was ended after a time.

    M5: the actors had nothing of ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_CACHE``; no log of Ray has the token.
    """
    body = """
ray_workers.PLACE_SECONDS = 35.0
pool = ray_workers.RayWorkers(functools.partial(load_slowly, folder, 60.0, False), 3, timeout=14)
results = run(pool, 40)
found = results[0]["environment"]
names = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HOME", "ALARM_LOG_LEVEL")
print(json.dumps([len(results), len({result["pid"] for result in results}), [found.get(name) for name in names]]))
pool.close()
"""
    given = {
        "HF_TOKEN": "hf_neverlogged123",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "home"),
        "ALARM_LOG_LEVEL": "INFO",
    }
    done = on_a_cluster(tmp_path, 2, body, **given)
    assert json.loads(done.stdout) == [40, 2, list(given.values())]
    told = [line for line in done.stderr.splitlines() if "workers have started" in line]
    assert len(told) == 1 and "2 of 3 workers have started; each takes 1 CPU" in told[0] and "0 of 2 CPU" in told[0]
    logs = [path for path in Path(done.args).rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs and not [path for path in logs if b"hf_neverlogged123" in path.read_bytes()]
    assert "hf_neverlogged123" not in done.stderr


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.usefixtures("alone_with_ray")
def test_p7_a_stopped_worker_of_ray_is_killed_and_its_rows_are_reassigned(tmp_path: Path) -> None:
    body = """
pool = ray_workers.RayWorkers(functools.partial(name_process, folder, 0.05), 2, timeout=4)
def stop():
    first = min(pids(folder, 2))
    time.sleep(0.5)
    os.kill(first, signal.SIGSTOP)
    print("found", first, flush=True)
thread = threading.Thread(target=stop)
thread.start()
results = run(pool, 400)
thread.join()
print("found", len({result["key"] for result in results}), len(results))
pool.close()
"""
    done = on_a_cluster(tmp_path, 4, body)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("found")]  # Ray writes others
    pid, count, total = map(int, sum(lines, []))
    assert count == total == 400 and not is_alive(pid)
    assert len([line for line in done.stderr.splitlines() if "no sign of life for 4 s" in line]) == 1
