"""CTC alignment: a cheap first stage that teaches an adapter to give embeddings of spoken tokens, without the LLM.

Every audio embedding is compared with the LLM's own input embeddings (one logit per token, and one for the blank),
and the loss of connectionist temporal classification (Graves et al. 2006,
https://doi.org/10.1145/1143844.1143891) finds the alignment with the target text. The LLM's layers are not run, so
that a step costs a small part of one of ``objective=ce``, which continues from the result
(``model.from_pretrained``). For transcripts only: the target has to be what is spoken, in order, with at least as
many audio embeddings as tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from src.common.errors import UserError
from src.model.alarm import AlarmModel
from src.model.llm import load_tokenizer
from src.model.objective import Objective, ObjectiveConfig, ObjectiveLoss
from src.model.splice import Spliced, TokenizedTurn
from src.prompts.chat import text_ids


@dataclass(frozen=True)
class CtcConfig(ObjectiveConfig):
    """Options of ``objective=ctc``.

    Attributes:
        blank: id of the token whose embedding stands for "nothing new here": one that the LLM can read past. It is
            left out of the targets. Not given: the token of a single space.
    """

    name: str = "ctc"
    blank: int | None = None


class CtcAlignment(Objective):
    """CTC loss between the audio embeddings and the target tokens.

    Candidates are the target tokens that this process has seen so far, not the whole vocabulary: their number grows
    to that of the data set's different tokens, and a step stays cheap with 150,000 tokens in the vocabulary.
    """

    Config = CtcConfig
    takes_packed: ClassVar[bool] = True

    def __init__(self, config: CtcConfig | None = None) -> None:
        super().__init__(config)
        self.config: CtcConfig
        self._candidates: dict[int, int] = {}
        """Token id -> its column of the logits; column 0 is the blank."""

    def __call__(self, model: AlarmModel, spliced: Spliced, batch: Mapping[str, Any]) -> ObjectiveLoss:
        """Summed over the target tokens; a clip that is too short for its text counts nothing."""
        table = model.llm.get_input_embeddings().weight
        turns: Sequence[TokenizedTurn] = batch["turns"]
        if batch.get("features") is None:
            raise UserError("objective=ctc aligns audio with its transcript: got text-only rows, expected audio")
        if not self._candidates:
            self._candidates[self._blank(model.llm)] = 0
        blank = next(iter(self._candidates))
        targets = [[token for token in turn.target_ids or [] if token != blank] for turn in turns]
        spoken = [token for ids in targets for token in ids]
        for token in spoken:
            self._candidates.setdefault(token, len(self._candidates))
        audio = _audio_part(spliced, turns, model.audio_embedder.separators() is not None)
        lengths = torch.tensor([len(part) for part in audio])
        frames = torch.nn.utils.rnn.pad_sequence(audio).float()  # (frames, batch, llm_dim), the order of ctc_loss
        known = table[torch.tensor(list(self._candidates), device=table.device)].float()
        with torch.autocast(frames.device.type, enabled=False):  # sums over paths need float32
            scores = F.log_softmax(frames @ known.T, dim=-1)
            total = F.ctc_loss(
                scores,
                torch.tensor([self._candidates[token] for token in spoken], device=frames.device),
                lengths,
                torch.tensor([len(ids) for ids in targets]),
                reduction="sum",
                zero_infinity=True,  # a clip with fewer embeddings than tokens has no path, and an infinite loss
            )
        return ObjectiveLoss(total)

    def _blank(self, llm: Any) -> int:
        ids = text_ids(load_tokenizer(llm.config.name_or_path), " ") if self.config.blank is None else []
        blank = self.config.blank if self.config.blank is not None else next(iter(ids), -1)
        rows = llm.get_input_embeddings().weight.shape[0]
        if not 0 <= blank < rows:
            raise UserError(f"objective.blank: got {blank}, expected the id of a token, 0 to {rows - 1}")
        return blank


def _audio_part(spliced: Spliced, turns: Sequence[TokenizedTurn], separated: bool) -> list[Tensor]:
    """The audio embeddings (frames_i, llm_dim) of every item, without separators, out of the spliced sequence."""
    found = []
    for item, turn, cut in zip(spliced.items(), turns, spliced.targets_cut, strict=True):
        start = len(turn.prefix_ids) + separated
        behind = len(turn.suffix_ids) + len(turn.target_ids or []) - cut + separated
        found.append(item[start : max(start + 1, len(item) - behind)])
    return found
