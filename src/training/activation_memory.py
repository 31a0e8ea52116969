"""``activation_memory_gib``: recompute as many of the LLM's layers as a bound for their activations asks for.

A frozen layer keeps less than a trained one, as no gradient of its weights needs the inputs of its linear layers.
What it does keep is measured on a step of the run's own data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from src.common.log import get_logger
from src.training.device_memory import GIB, check_device, free_memory, held_memory, row_lengths, try_step

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)


@dataclass
class KeptByLayers:
    """Counts the bytes that layers keep for the backward pass, each storage once; weights and buffers do not count.

    A context manager around a forward pass; passes without gradients (of a teacher) are passed over. ``kept`` and
    ``inputs`` have one entry per layer: what it keeps, and the size of its input, which is all that a recomputed
    layer keeps. ``positions`` is the number of positions.
    """

    layers: Sequence[nn.Module]
    kept: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    positions: int = 0

    def __enter__(self) -> KeptByLayers:
        self.kept, self.inputs = [0] * len(self.layers), [0] * len(self.layers)
        self._places = {id(layer): place for place, layer in enumerate(self.layers)}
        self._weights = {
            value.untyped_storage().data_ptr()
            for layer in self.layers
            for value in (*layer.parameters(), *layer.buffers())
        }
        self._seen: dict[int, Tensor] = {}  # kept alive, so that no address is used twice
        self._running: list[ExitStack] = []
        self._hooks = [
            handle
            for layer in self.layers
            for handle in (
                layer.register_forward_pre_hook(self._begin, with_kwargs=True),
                layer.register_forward_hook(self._end, always_call=True),
            )
        ]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._hooks:
            handle.remove()
        for running in self._running:
            running.close()
        self._seen.clear()

    def _begin(self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        running = ExitStack()
        self._running.append(running)
        if not torch.is_grad_enabled():
            return
        states = given[0] if given else named["hidden_states"]
        place = self._places[id(layer)]
        self.positions = states.shape[0] * states.shape[1]
        self.inputs[place] = states.nbytes

        def pack(tensor: Tensor) -> Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in self._weights and address not in self._seen:
                self._seen[address] = tensor.detach()
                self.kept[place] += tensor.untyped_storage().nbytes()
            return tensor

        running.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))

    def _end(self, *_: Any) -> None:
        self._running.pop().close()


def layers_to_recompute(kept: Sequence[float], inputs: Sequence[float], budget: float) -> list[int]:
    """Numbers of the layers to recompute so that activations need at most ``budget`` bytes, spread evenly.

    ``kept`` and ``inputs`` are the bytes of each layer, of which a recomputed one keeps its input only. While one is
    computed again, all that it keeps exists once more. All layers if no choice is enough.
    """
    number = len(kept)
    for count in range(number + 1):
        chosen = [math.floor((place + 0.5) * number / count) for place in range(count)]
        rest = sum(inputs[place] if place in set(chosen) else kept[place] for place in range(number))
        if rest + max((kept[place] for place in chosen), default=0) <= budget:
            return chosen
    return list(range(number))


def bound_activations(trainer: AlarmTrainer, bound: float | Literal["auto"]) -> list[int]:
    """Let the model recompute what does not fit; returns the numbers of the layers.

    Micro-batches are taken to have ``max_batch_positions``, else as many of the longest row as their number of clips.
    ``auto`` is what is free on the device without the rest of the step.
    """
    check_device(trainer, "activation_memory_gib")
    model, device = trainer.model, trainer.args.device
    longest, length, _, _ = row_lengths(trainer)
    positions = max(length, trainer.plan.max_positions or trainer.plan.clips * length)
    layers = model.layers
    base = held_memory(device)
    with KeptByLayers(layers) as measured:
        done = try_step(trainer, [longest])
    scale = positions / max(1, measured.positions)
    kept, inputs = ([scale * size for size in sizes] for sizes in (measured.kept, measured.inputs))
    if bound != "auto":
        budget = bound * GIB
    else:
        others = sum(measured.kept) if done is None else max(0, done.peak - base - sum(measured.kept))
        budget = free_memory(device) - base - scale * others
    chosen = list(range(len(layers))) if done is None else layers_to_recompute(kept, inputs, budget)
    after = sum(inputs[place] if place in set(chosen) else kept[place] for place in range(len(kept)))
    model.recompute([layers[place] for place in chosen])
    log.info(
        "activation_memory_gib=%s: %d of %d layers are recomputed; micro-batches of %d positions keep %.2f GiB "
        "instead of %.2f in the language model (%.0f bytes per position and layer)",
        *(bound, len(chosen), len(layers), positions, after / GIB, sum(kept) / GIB),
        sum(measured.kept) / max(1, measured.positions * len(layers)),
    )
    if len(chosen) == len(layers) and after > budget:
        log.warning(
            "activation_memory_gib=%s: %.2f GiB are left although all layers are recomputed; lower "
            "max_batch_positions",
            *(bound, after / GIB),
        )
    return chosen
