"""The training model: an audio embedder beside a frozen LLM, and the loss at target positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
    offload_wrapper,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.audio_embedder import AudioEmbedder
from src.model.llm import config_width, freeze
from src.model.lora import set_dropout, train_lora
from src.model.loss import ObjectiveLoss, TargetStates
from src.model.packing import check_packing, packed, packed_inputs, use_packed_attention
from src.model.splice import IGNORE, Spliced, TokenizedTurn, pack_batch, splice_batch

log = get_logger(__name__)
_PROBE = 12
"""Positions of a trial of packing."""


ObjectiveFunction = Callable[["AlarmModel", Spliced, Mapping[str, Any]], ObjectiveLoss]
"""Loss of a spliced batch: see :class:`src.model.objective.Objective`."""


def cross_entropy(model: AlarmModel, spliced: Spliced, batch: Mapping[str, Any]) -> ObjectiveLoss:
    """Cross-entropy of the target tokens."""
    return ObjectiveLoss(model.target_states(spliced).cross_entropy())


class AlarmModel(nn.Module):
    """``audio_embedder`` (trained) and ``llm`` (frozen, held beside it, never in the saved state).

    LoRA layers in the LLM (:mod:`src.model.lora`) are trained as well; its own weights never are. With ``packing``
    the items of a batch follow each other in one row without padding (:mod:`src.model.packing`).

    Raises :class:`UserError` when their widths differ, or for an LLM that cannot take packed batches.
    """

    def __init__(
        self,
        audio_embedder: AudioEmbedder,
        llm: Any,
        max_length: int | None = 4096,
        objective: ObjectiveFunction | None = None,
        packing: bool = False,
    ) -> None:
        super().__init__()
        check_width(audio_embedder, llm)
        self.audio_embedder = audio_embedder
        self.llm: Any = freeze(llm)
        train_lora(self.llm)  # after freeze, which takes all weights
        self.max_length = max_length
        self.objective = cross_entropy if objective is None else objective
        self.packing = packing
        if packing:
            use_packed_attention(self.llm)
        self._plain_head: bool | None = None
        self._packing_checked = False

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the LLM's layer classes: what FSDP shares out one by one."""
        return sorted({type(layer).__name__ for layer in self.layers})

    def train(self, mode: bool = True) -> AlarmModel:
        """The audio embedder and the dropout of LoRA layers follow ``mode``; the LLM itself stays in eval mode."""
        super().train(mode)
        self.llm.eval()
        set_dropout(self.llm, mode)
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Loss of one batch.

        Args:
            batch: ``features`` (encoder name -> EncoderFeatures, or None for text only), ``turns`` (sequence of
                :class:`TokenizedTurn` with targets), optional ``keys`` (names of the rows, for messages), and what
                the objective needs besides.

        Returns:
            ``loss`` (mean over the target tokens, float32, zero without any), ``loss_sum`` (their sum),
            ``num_targets`` (a 0-d int64 tensor), ``without_targets`` (items that gave none), ``positions`` (that the
            LLM computes, padding included) and ``parts`` of the objective: name -> sum and number of positions, (2,),
            without a gradient.
        """
        spliced = self.splice(batch["turns"], batch.get("features"))
        if cut := [index for index, count in enumerate(spliced.targets_cut) if count]:
            keys = batch.get("keys")
            names = ", ".join(str(keys[index] if keys else index) for index in cut)
            lost = f"; {len(spliced.without_targets)} lost all of them" if spliced.without_targets else ""
            log.warning("rows %s are longer than %s positions: targets were cut%s", names, self.max_length, lost)
        if spliced.labels is None:
            raise UserError("training batch: no turn has targets; expected a target text in every row")
        found = self.objective(self, spliced, batch)
        count = (spliced.labels[:, 1:] != IGNORE).sum()  # a row's first position is predicted by none
        return {
            "loss": found.total / count.clamp(min=1),
            "loss_sum": found.total,
            "num_targets": count,
            "without_targets": spliced.without_targets,
            "positions": spliced.positions,
            "parts": {
                name: torch.stack([total.detach(), total.new_tensor(number)])
                for name, (total, number) in found.parts.items()
            },
        }

    def splice(self, turns: Sequence[TokenizedTurn], features: Mapping[str, Any] | None) -> Spliced:
        """Audio and text of a batch as embeddings, packed or padded on the right."""
        return self.splice_audio(turns, None if features is None else self.audio_embedder(features))

    def splice_audio(self, turns: Sequence[TokenizedTurn], audio: Sequence[Tensor] | None) -> Spliced:
        """As :meth:`splice`, with the audio embedder's embeddings (frames_i, llm_dim) at hand."""
        embed = self.llm.get_input_embeddings()
        splice = pack_batch if self.packing else splice_batch
        return splice(
            lambda ids: embed(ids.to(embed.weight.device)),
            turns,
            audio,
            self.audio_embedder.separators(),
            max_length=self.max_length,
        )

    def target_loss(self, spliced: Spliced) -> tuple[Tensor, int]:
        """Summed cross-entropy at the positions that predict a target token (float32 scalar), and their number."""
        states = self.target_states(spliced)
        return states.cross_entropy(), len(states)

    def target_states(self, spliced: Spliced) -> TargetStates:
        """Hidden states at the positions that predict a target token, in the order of rows and positions.

        Only these rows reach the LLM's output layer, in chunks: full logits over a real vocabulary would not fit.
        """
        assert spliced.labels is not None
        following = spliced.labels[:, 1:]
        rows = F.pad(following != IGNORE, (0, 1))
        targets = following[following != IGNORE]
        head = self.llm.get_output_embeddings()
        plain = self._has_plain_head(spliced.inputs_embeds)
        # Padding stands on the right, where a causal LLM never looks from a real position: without a mask attention
        # takes its fast kernels.
        inputs: dict[str, Any] = {"inputs_embeds": spliced.inputs_embeds}
        if spliced.packed is not None:
            # tried once, on the first row that is long enough for two items
            if not self._packing_checked and spliced.inputs_embeds.shape[1] >= _PROBE:
                set_dropout(self.llm, False)
                check_packing(self.llm, spliced.inputs_embeds[0, :_PROBE].detach())
                set_dropout(self.llm, self.training)
                self._packing_checked = True
            inputs = packed_inputs(self.llm, spliced.inputs_embeds, spliced.packed)
        with packed(spliced.packed):
            if plain:
                hidden = self.llm.get_decoder()(**inputs, use_cache=False).last_hidden_state
                return TargetStates(hidden[rows], targets, head.weight, head.bias)
            with only_rows(head, rows):
                return TargetStates(self.llm(**inputs, use_cache=False).logits[0], targets)

    @torch.no_grad()
    def _has_plain_head(self, embeds: Tensor) -> bool:
        """Whether the LLM's logits are a frozen linear layer of its last hidden states and nothing else.

        Found out once, on two positions: some families scale or cap their logits, and each in its own way.
        """
        if self._plain_head is None:
            head = self.llm.get_output_embeddings()
            simple = isinstance(head, nn.Linear) and not any(part.requires_grad for part in head.parameters())
            if simple:
                set_dropout(self.llm, False)  # two passes are compared, and draws would not be those of a resumed run
                probe = embeds[:1, :2].detach()
                hidden = self.llm.get_decoder()(inputs_embeds=probe, use_cache=False).last_hidden_state
                simple = torch.equal(head(hidden), self.llm(inputs_embeds=probe, use_cache=False).logits)
                set_dropout(self.llm, self.training)
            self._plain_head = simple
        return self._plain_head

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only the inputs of the LLM's layers for the backward pass and compute the rest again.

        transformers' own switch works in train mode alone, in which some families drop out; the LLM stays in eval
        mode here. The arguments are the Trainer's: what goes to torch's ``checkpoint`` (the form that is not
        reentrant), which layers take part, and whether their inputs wait in the CPU's memory.
        """
        self.recompute(self.layers[::every_n_layers], gradient_checkpointing_kwargs, offload)

    @property
    def layers(self) -> list[nn.Module]:
        """The LLM's repeated layers, in order."""
        return [module for module in self.llm.modules() if isinstance(module, GradientCheckpointingLayer)]

    def recompute(
        self, layers: Sequence[nn.Module], options: Mapping[str, Any] | None = None, offload: bool = False
    ) -> None:
        """Keep only the inputs of these layers; see :meth:`gradient_checkpointing_enable`."""
        kept = {key: value for key, value in (options or {}).items() if key != "use_reentrant"}
        chosen = {id(layer) for layer in layers}

        def wrap(layer: nn.Module) -> nn.Module:
            wrapped = checkpoint_wrapper(layer, **kept)
            return offload_wrapper(wrapped) if offload else wrapped

        apply_activation_checkpointing(
            self.llm, checkpoint_wrapper_fn=wrap, check_fn=lambda module: id(module) in chosen
        )

    def compile_layers(self) -> None:
        """Compile the transformer layers of the LLM and the encoders one by one, for any batch shape."""
        for layer in self.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.compile(dynamic=True)


def check_width(audio_embedder: AudioEmbedder, llm: Any) -> None:
    """Raise :class:`UserError` when the audio embedder's output does not fit the LLM's embeddings."""
    width = config_width(llm.config)
    if audio_embedder.llm_dim != width:
        raise UserError(
            f"the audio embedder gives embeddings {audio_embedder.llm_dim} wide, the LLM takes {width}: "
            "use a checkpoint trained for this LLM, or set model.llm and model.llm_embedding_dim to match"
        )


@contextmanager
def only_rows(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """While active, ``head`` sees only the hidden states where ``rows`` (batch, length) is true, as one batch row.

    Done at the output layer rather than after it, so that whatever a model family does to its logits still happens.
    """

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = inputs
        return (hidden[rows].unsqueeze(0), *others)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
