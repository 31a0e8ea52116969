"""Training with data workers waited for ever in a process in which vLLM had run before on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from src.training.trainer import _use_one_thread


class Threads:
    """Each item is the number of threads that the worker's operations use."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> int:
        return torch.get_num_threads()


def test_data_workers_use_one_thread_after_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with monkeypatch.context() as patched:  # as vLLM's CPU worker leaves it
            patched.setattr(torch, "set_num_threads", lambda count: None)
            loader = DataLoader(Threads(), num_workers=1, worker_init_fn=_use_one_thread)  # type: ignore[arg-type]
            assert [int(item) for item in loader] == [1, 1]
    finally:
        torch.set_num_threads(before)
