"""``activation_memory_gib``: recompute as many of the LLM's layers as a bound for their activations asks for.

A frozen layer keeps less than a trained one, as no gradient of its weights needs the inputs of its linear layers.
What it does keep is measured on a step of the run's own data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from src.common.log import get_logger
from src.training.device_memory import GIB, check_device, free_memory, held_memory, row_lengths, try_step

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)


@dataclass
class KeptBytes:
    """Bytes that each layer keeps for the backward pass, and those of its input, which a recomputed layer keeps only.

    ``positions`` is the number of positions (batch times length) of the input.
    """

    kept: list[int]
    inputs: list[int]
    positions: int = 0


@contextmanager
def kept_by_layers(layers: Sequence[nn.Module]) -> Iterator[KeptBytes]:
    """Count what layers keep in a forward pass, each storage once; weights and buffers do not count.

    Passes without gradients (of a teacher) are passed over.
    """
    found = KeptBytes([0] * len(layers), [0] * len(layers))
    values = (value for layer in layers for value in (*layer.parameters(), *layer.buffers()))
    weights = {value.untyped_storage().data_ptr() for value in values}
    seen: dict[int, Tensor] = {}  # kept alive, so that no address is used twice
    running: list[ExitStack] = []

    def begin(place: int, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        running.append(ExitStack())
        if not torch.is_grad_enabled():
            return
        states = given[0] if given else named["hidden_states"]
        found.positions = states.shape[0] * states.shape[1]
        found.inputs[place] = states.nbytes

        def pack(tensor: Tensor) -> Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in weights and address not in seen:
                seen[address] = tensor.detach()
                found.kept[place] += tensor.untyped_storage().nbytes()
            return tensor

        running[-1].enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))

    with ExitStack() as hooks:
        for place, layer in enumerate(layers):
            hooks.callback(layer.register_forward_pre_hook(partial(begin, place), with_kwargs=True).remove)
            end = layer.register_forward_hook(lambda *_: running.pop().close(), always_call=True)
            hooks.callback(end.remove)
        try:
            yield found
        finally:
            while running:  # of a layer that was interrupted
                running.pop().close()


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
    with kept_by_layers(layers) as measured:
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
