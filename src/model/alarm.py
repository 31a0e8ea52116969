"""The training model: a front end beside a frozen LLM, and the loss at target positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from src.model.front_end import AudioFrontEnd
from src.model.llm import config_width, freeze
from src.model.lora import set_dropout, train_lora
from src.model.loss import frozen_head_cross_entropy
from src.model.splice import IGNORE, Spliced, Turn, splice_batch

log = get_logger(__name__)


class AlarmModel(nn.Module):
    """``front_end`` (trained) and ``llm`` (frozen, held beside it, never in the saved state).

    LoRA layers in the LLM (:mod:`src.model.lora`) are trained as well; its own weights never are.

    Raises :class:`UserError` when their widths differ.
    """

    def __init__(self, front_end: AudioFrontEnd, llm: Any, max_length: int | None = 4096) -> None:
        super().__init__()
        check_width(front_end, llm)
        self.front_end = front_end
        self.llm: Any = freeze(llm)
        train_lora(self.llm)
        self.max_length = max_length
        self._plain_head: bool | None = None

    def train(self, mode: bool = True) -> AlarmModel:
        """The front end and the dropout of LoRA layers follow ``mode``; the LLM itself stays in eval mode."""
        super().train(mode)
        self.llm.eval()
        set_dropout(self.llm, mode)
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Loss of one batch.

        Args:
            batch: ``features`` (encoder name -> EncoderFeatures, or None for text only), ``turns`` (sequence of
                :class:`Turn` with outputs), optional ``keys`` (names of the rows, for messages).

        Returns:
            ``loss`` (mean cross-entropy over the target tokens, float32, zero without any), ``loss_sum`` (their
            sum), ``num_targets`` (a 0-d int64 tensor) and ``without_targets`` (items that gave none).
        """
        spliced = self.splice(batch["turns"], batch.get("features"))
        self._report(spliced, batch.get("keys"))
        if spliced.labels is None:
            raise UserError("training batch: no turn has outputs; expected a target text in every row")
        total, targets = self.target_loss(spliced)
        count = torch.tensor(targets, device=total.device)
        return {
            "loss": total / count.clamp(min=1),
            "loss_sum": total,
            "num_targets": count,
            "without_targets": spliced.without_targets,
        }

    def splice(self, turns: Sequence[Turn], features: Mapping[str, Any] | None) -> Spliced:
        """Audio and text of a batch as embeddings, padded on the right."""
        return self.splice_audio(turns, None if features is None else self.front_end(features))

    def splice_audio(self, turns: Sequence[Turn], audio: Sequence[Tensor] | None) -> Spliced:
        """As :meth:`splice`, with the front end's embeddings (frames_i, llm_dim) at hand."""
        embed = self.llm.get_input_embeddings()
        return splice_batch(
            lambda ids: embed(ids.to(embed.weight.device)),
            turns,
            audio,
            self.front_end.separators(),
            max_length=self.max_length,
        )

    def target_loss(self, spliced: Spliced) -> tuple[Tensor, int]:
        """Summed cross-entropy at the positions that predict a target token (float32 scalar), and their number.

        Only these rows reach the LLM's output layer, in chunks: full logits over a real vocabulary would not fit.
        """
        assert spliced.labels is not None
        following = spliced.labels[:, 1:]
        rows = F.pad(following != IGNORE, (0, 1))
        targets = following[following != IGNORE]
        # Padding stands on the right, where a causal LLM never looks from a real position: without a mask attention
        # takes its fast kernels.
        inputs = {"inputs_embeds": spliced.inputs_embeds, "use_cache": False}
        head = self.llm.get_output_embeddings()
        if self._has_plain_head(spliced.inputs_embeds):
            hidden = self.llm.get_decoder()(**inputs).last_hidden_state
            total = frozen_head_cross_entropy(hidden[rows], head.weight, head.bias, targets)
        else:
            with only_rows(head, rows):
                logits = self.llm(**inputs).logits[0]
            exact = torch.promote_types(logits.dtype, torch.float32)
            total = F.cross_entropy(logits.to(exact), targets, reduction="sum")
        return total, targets.numel()

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
        options = {
            key: value for key, value in (gradient_checkpointing_kwargs or {}).items() if key != "use_reentrant"
        }
        layers = [module for module in self.llm.modules() if _is_layer(module)]
        chosen = {id(layer) for layer in layers[::every_n_layers]}

        def wrap(layer: nn.Module) -> nn.Module:
            kept = checkpoint_wrapper(layer, **options)
            return offload_wrapper(kept) if offload else kept

        apply_activation_checkpointing(
            self.llm, checkpoint_wrapper_fn=wrap, check_fn=lambda module: id(module) in chosen
        )

    def compile_layers(self) -> None:
        """Compile the transformer layers of the LLM and the encoders one by one, for any batch shape."""
        for layer in self.modules():
            if _is_layer(layer):
                layer.compile(dynamic=True)

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint's ``model.safetensors`` holds: adapters, fusion and separators."""
        return self.front_end.trained_state()

    def _report(self, spliced: Spliced, keys: Sequence[Any] | None) -> None:
        cut = [index for index, count in enumerate(spliced.targets_cut) if count]
        if cut:
            names = ", ".join(str(keys[index] if keys else index) for index in cut)
            lost = f"; {len(spliced.without_targets)} lost all of them" if spliced.without_targets else ""
            log.warning("rows %s are longer than %s positions: targets were cut%s", names, self.max_length, lost)


def _is_layer(module: nn.Module) -> bool:
    """transformers' base class of the repeated layers of a model."""
    return isinstance(module, GradientCheckpointingLayer)


def check_width(front_end: AudioFrontEnd, llm: Any) -> None:
    """Raise :class:`UserError` when the front end's output does not fit the LLM's embeddings."""
    width = config_width(llm.config)
    if front_end.llm_dim != width:
        raise UserError(
            f"the audio front end gives embeddings {front_end.llm_dim} wide, the LLM takes {width}: "
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
