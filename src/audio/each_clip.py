"""Clips through a model in batches, so that a clip that breaks it costs its row alone, and a lost device no row."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from src.audio.waveform import Waveform
from src.common.errors import MachineError, machine_fault, one_line
from src.common.log import get_logger

R = TypeVar("R")
T = TypeVar("T")
_log = get_logger(__name__)


def each_clip(
    run: Callable[[Sequence[Waveform]], Sequence[R]], items: Sequence[tuple[T, Waveform]]
) -> Iterator[tuple[T, R | Exception]]:
    """Each item with what ``run`` made of its clip, or with the error that the clip alone raises.

    All clips are run together; where that fails, one by one. Raises :class:`MachineError` if the machine has failed:
    a lost device, a broken disk, or memory that does not suffice for a second of silence either.
    """
    if not items:
        return
    made: Sequence[R] | None = None
    try:
        made = run([clip for _, clip in items])
    except MachineError:
        raise
    except Exception as error:  # whatever one clip does to the model costs its row alone
        fault = machine_fault(error)
        if fault in ("device", "disk"):
            raise _lost(f"the {fault} failed while audio was encoded", error) from error
        if fault == "memory":  # the frames of the failed computation keep its tensors
            traceback.clear_frames(error.__traceback__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(items) == 1:
            try:  # not the clip is at fault if what has nothing to do with it fails too
                if fault == "memory":
                    run([Waveform(torch.zeros(1, 16000), 16000)])
                else:
                    _compute()
            except Exception:
                if fault == "memory":
                    raise _lost("no memory is left to encode audio", error) from error
                raise _lost("the device failed while audio was encoded", error) from error
            _log.debug("a clip cannot be encoded", exc_info=True)
            yield items[0][0], error
            return
    if made is None:  # outside of the handler, which would keep the error and with it the tensors of the batch
        for pair in items:
            yield from each_clip(run, [pair])
        return
    for (name, _), result in zip(items, made, strict=True):
        yield name, result


def _compute() -> None:
    """A tiny computation on the device in use, whose errors may come late; nothing on a CPU."""
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator() is not None:
        device = torch.accelerator.current_accelerator()
        if float((torch.ones(8, device=device) + 1).sum().cpu()) != 16.0:
            raise RuntimeError("the device computes wrong sums")
        torch.accelerator.synchronize()


def _lost(what: str, error: Exception) -> MachineError:
    return MachineError(f"{what} ({one_line(error)}); what is finished is kept, start again to go on with the rest")
