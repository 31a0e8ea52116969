"""Engines of the corpus commands: one in this process, one for each GPU of this machine, or on a Ray cluster."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from src.common.cli import add_options
from src.common.errors import UserError
from src.common.log import get_logger
from src.corpus.targets.llm_settings import AnswerSettings
from src.inference.config import EngineConfig, choose_workers, device_names
from src.prompts.chat import ChatTokenizer

if TYPE_CHECKING:  # torch behind them: not needed to find out that there is nothing to do
    from src.inference.types import Request, Result, Sampling
    from src.inference.workers import OpenWorkers

_log = get_logger(__name__)


class TextEngine(Protocol):
    """Interface of engines that answer requests without audio."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The language model's tokenizer."""

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results in the order in which they are finished; requests are pulled as there is room."""

    def close(self) -> None:
        """Free the engine's memory."""


@dataclass(frozen=True)
class Placement:
    """GPUs as ``CUDA_VISIBLE_DEVICES`` names them, with one engine each; results do not depend on it.

    ``workers`` is the number of engines where it is not that of the GPUs; ``engine`` is ``vllm`` (this machine) or
    ``ray``, the cluster at ``ray_address`` or the one that is running. ``threads`` is that of an engine on a CPU.
    """

    cuda_devices: str | None = None
    workers: int | None = None
    engine: str = "vllm"
    ray_address: str | None = None
    gpu_memory_utilization: float = 0.7
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("vllm", "ray"):
            raise UserError(f"engine is {self.engine!r}; known: vllm, ray (--engine)")
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1 (--{name})")

    @property
    def devices(self) -> list[str]:
        """GPUs by name; none given: empty."""
        return device_names(self.cuda_devices)

    def open_workers(self) -> OpenWorkers | None:
        """How workers are started; ``None`` for one engine in this process, which then sees the devices alone."""
        config = EngineConfig(
            workers=self.workers, cluster="ray" if self.engine == "ray" else None, ray_address=self.ray_address
        )
        chosen = choose_workers(config, self.devices)
        if chosen is None and self.devices:  # read by CUDA when torch first uses it, so before torch is imported
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        return chosen


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Options of a placement."""
    add_options(parser.add_argument_group("where it runs"), Placement, _HELP)


def engine_starter(
    settings: AnswerSettings, placement: Placement | None, start_engine: Callable[[str], TextEngine] | None
) -> Callable[[str], TextEngine]:
    """Starts the engine of a model: vLLM as :class:`Placement` says, or what replaces it in tests."""
    return start_engine or functools.partial(start_text_engine, settings, placement or Placement())


def start_text_engine(settings: AnswerSettings, placement: Placement, llm: str) -> TextEngine:
    """vLLM with the language model ``llm``, or several of them behind one engine."""
    open_workers = placement.open_workers()  # sets the devices, so it comes before the import of torch
    from src.inference.worker_pool_engine import start_engine

    config = EngineConfig(
        max_model_len=settings.max_model_len,
        max_num_seqs=sequences_at_once(settings, placement),
        gpu_memory_utilization=placement.gpu_memory_utilization,
        threads=placement.threads,
        seed=settings.seed,
    )
    # the reasoning format that the user named is that of the model that answers, not of a checker
    return start_engine(llm, config, open_workers, settings.reasoning if llm == settings.llm else None)


def sequences_at_once(settings: AnswerSettings, placement: Placement) -> int:
    """Requests that an engine decodes at once."""
    from torch.version import cuda

    # the published number of sequences on a GPU; a Ray cluster is taken to have GPUs
    return settings.max_num_seqs or (2048 if cuda is not None or placement.engine == "ray" else 64)


class EnginePool:
    """Holds one engine, made by ``start`` from a model's id or folder; another model closes the one before."""

    def __init__(self, start: Callable[[str], TextEngine]) -> None:
        self._start = start
        self._engine: TextEngine | None = None
        self._llm = ""

    def get(self, llm: str) -> TextEngine:
        """The engine of ``llm``, started now if it is not the one held."""
        if self._engine is None or self._llm != llm:
            self.close()  # first: two models rarely fit into one GPU
            _log.info("starting the engine for %s", llm)
            self._engine, self._llm = self._start(llm), llm
        return self._engine

    def close(self) -> None:
        """Close the engine, if any."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


_HELP = {
    "cuda_devices": "GPUs, one engine each: 0,1",
    "workers": "engines, where it is not one for each GPU",
    "engine": "vllm: on this machine; ray: on the machines of a Ray cluster",
    "ray_address": "the cluster, where it is not the one that is running",
    "threads": "threads of each engine on a CPU, where it is not all cores",
    "gpu_memory_utilization": "share of a GPU's memory for weights and cache",
}
