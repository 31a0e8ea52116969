"""The training model: a front end beside a frozen LLM, and the loss at target positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.common.errors import UserError
from src.common.log import get_logger
from src.model.front_end import AudioFrontEnd
from src.model.llm import config_width, freeze
from src.model.splice import IGNORE, Spliced, Turn, splice_batch

log = get_logger(__name__)


class AlarmModel(nn.Module):
    """``front_end`` (trained) and ``llm`` (frozen, held beside it, never in the saved state).

    Raises :class:`UserError` when their widths differ.
    """

    def __init__(self, front_end: AudioFrontEnd, llm: Any, max_length: int | None = 4096) -> None:
        super().__init__()
        check_width(front_end, llm)
        self.front_end = front_end
        self.llm: Any = freeze(llm)
        self.max_length = max_length

    def train(self, mode: bool = True) -> AlarmModel:
        """The front end follows ``mode``; the LLM stays in eval mode."""
        super().train(mode)
        self.llm.eval()
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
        logits, targets = self.target_logits(spliced)
        total = F.cross_entropy(logits.float(), targets, reduction="sum")
        count = torch.tensor(targets.numel(), device=total.device)
        return {
            "loss": total / count.clamp(min=1),
            "loss_sum": total,
            "num_targets": count,
            "without_targets": spliced.without_targets,
        }

    def splice(self, turns: Sequence[Turn], features: Mapping[str, Any] | None) -> Spliced:
        """Audio and text of a batch as embeddings, padded on the right."""
        audio = None if features is None else self.front_end(features)
        embed = self.llm.get_input_embeddings()
        return splice_batch(
            lambda ids: embed(ids.to(embed.weight.device)),
            turns,
            audio,
            self.front_end.separators(),
            max_length=self.max_length,
        )

    def target_logits(self, spliced: Spliced) -> tuple[Tensor, Tensor]:
        """Logits (targets, vocabulary) that predict a target token, and the tokens (targets,).

        Only these rows reach the LLM's output layer: full logits over a real vocabulary would not fit.
        """
        assert spliced.labels is not None
        following = spliced.labels[:, 1:]
        rows = F.pad(following != IGNORE, (0, 1))
        with only_rows(self.llm.get_output_embeddings(), rows):
            output = self.llm(
                inputs_embeds=spliced.inputs_embeds, attention_mask=spliced.attention_mask, use_cache=False
            )
        return output.logits[0], following[following != IGNORE]

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: adapters, fusion and separators."""
        return self.front_end.trained_state()

    def _report(self, spliced: Spliced, keys: Sequence[Any] | None) -> None:
        cut = [index for index, count in enumerate(spliced.targets_cut) if count]
        if cut:
            names = ", ".join(str(keys[index] if keys else index) for index in cut)
            lost = f"; {len(spliced.without_targets)} lost all of them" if spliced.without_targets else ""
            log.warning("rows %s are longer than %s positions: targets were cut%s", names, self.max_length, lost)


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
