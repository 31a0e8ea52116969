"""How two threads of a process share a CPU: the engine decodes in one while another encodes clips for it."""

from __future__ import annotations

import threading

_LOCAL = threading.local()
"""``all`` and ``used``: OpenMP threads of the calling thread at first, and now."""


def share_cores(busy: bool) -> None:
    """Let the tensor operations of the calling thread use half of its OpenMP threads (at least one) while the other
    thread is ``busy``, and all of them otherwise.

    Both have many small operations, after each of which all OpenMP threads wait for each other and, with those of the
    other, for a core. On two cores a server answered 1.1 times as much when its clips were encoded by one thread, and
    1.05 times more when those of its engine became one meanwhile too. Nothing is changed where a GPU computes.
    """
    import torch

    if torch.cuda.is_available():
        return
    if not hasattr(_LOCAL, "all"):
        _LOCAL.all = _LOCAL.used = torch.get_num_threads()
    wanted = max(1, _LOCAL.all // 2) if busy else _LOCAL.all
    if wanted == _LOCAL.used:
        return
    _LOCAL.used = wanted
    # torch keeps the number for this thread, and also as that of threads to come, which must stay as it was. vLLM's
    # CPU worker replaces torch.set_num_threads by a function that does nothing (vllm 0.32, v1/worker/cpu_worker.py).
    torch._C.set_num_threads(wanted)
    restoring = threading.Thread(target=torch._C.set_num_threads, args=(_LOCAL.all,))
    restoring.start()
    restoring.join()
