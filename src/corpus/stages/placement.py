"""Where a stage runs: one engine in this process, one for each GPU of this machine, or on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.common.cli import add_options
from src.common.errors import UserError
from src.corpus.stages.text_engine import EngineNeeds, TextEngine
from src.generation.config import EngineConfig, device_names

if TYPE_CHECKING:  # torch behind it
    from src.generation.dispatch import OpenWorkers


@dataclass(frozen=True)
class Placement:
    """GPUs as ``CUDA_VISIBLE_DEVICES`` names them, with one engine each; results do not depend on it.

    ``workers`` is the number of engines where it is not that of the GPUs; ``engine`` is ``vllm`` (this machine) or
    ``ray``, the cluster at ``ray_address`` or the one that is running.
    """

    cuda_devices: str | None = None
    workers: int | None = None
    engine: str = "vllm"
    ray_address: str | None = None
    gpu_memory_utilization: float = 0.7

    def __post_init__(self) -> None:
        if self.engine not in ("vllm", "ray"):
            raise UserError(f"engine is {self.engine!r}; known: vllm, ray (--engine)")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}, expected at least 1 (--workers)")

    @property
    def devices(self) -> list[str]:
        """GPUs by name; none given: empty."""
        return device_names(self.cuda_devices)

    def open_workers(self) -> OpenWorkers | None:
        """How workers are started; ``None`` for one engine in this process, which then sees the devices alone."""
        from src.generation.dispatch import choose_workers

        chosen = choose_workers("ray" if self.engine == "ray" else None, self.workers, self.devices, self.ray_address)
        if chosen is None and self.devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        return chosen


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Options of a placement."""
    add_options(parser.add_argument_group("where it runs"), Placement, _HELP)


def start_text_engine(needs: EngineNeeds, placement: Placement, llm: str) -> TextEngine:
    """vLLM with the language model ``llm``, or several of them behind one engine."""
    open_workers = placement.open_workers()  # settles the devices before torch is imported
    from src.generation.shared_engine import start_engine

    config = EngineConfig(
        max_model_len=needs.max_model_len,
        max_num_seqs=needs.max_num_seqs or _sequences(placement),
        gpu_memory_utilization=placement.gpu_memory_utilization,
        seed=needs.seed,
    )
    return start_engine(llm, config, open_workers)


def _sequences(placement: Placement) -> int:
    """Sequences at once on this machine: the published number on a GPU. A Ray cluster is taken to have GPUs."""
    from torch.version import cuda

    return 2048 if cuda is not None or placement.engine == "ray" else 64


_HELP = {
    "cuda_devices": "GPUs, one engine each: 0,1",
    "workers": "engines, where it is not one for each GPU",
    "engine": "vllm: on this machine; ray: on the machines of a Ray cluster",
    "ray_address": "the cluster, where it is not the one that is running",
    "gpu_memory_utilization": "share of a GPU's memory for weights and cache",
}
