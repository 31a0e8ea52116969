"""Distillation from the text twin: the frozen LLM reads the description, the student takes the audio.

Teacher and student are the same weights: a pass without gradients and without LoRA, then the pass of the student.
Only the teacher's states at the target positions stay in memory between the two.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.distributed.fsdp import FSDPModule

from src.model.alarm import AlarmModel
from src.model.lora import without_lora
from src.model.loss import (
    DivergenceOptions,
    ObjectiveLoss,
    Teacher,
    frozen_head_divergence,
    teacher_summary,
)
from src.model.objective import Objective, ObjectiveConfig
from src.model.splice import Spliced, TokenizedTurn


@dataclass(frozen=True)
class DistillationConfig(ObjectiveConfig, DivergenceOptions):
    """Options of ``objective=kl``: those of :class:`~src.model.loss.DivergenceOptions`, and the following.

    Attributes:
        without_description: ``error``, or ``ce``: such rows are trained with cross-entropy.
        cache_mb: megabytes of teacher passes to keep for rows that repeat; 0: none. The first ones stay.
        cache_device: ``cpu``, or ``model``: the device of the LLM.
    """

    name: str = "kl"
    without_description: Literal["error", "ce"] = "error"
    cache_mb: int = 0
    cache_device: Literal["cpu", "model"] = "cpu"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected more than 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, expected at least 1, or null for all tokens")
        if not 0 <= self.ce_weight < 1:
            raise ValueError(f"ce_weight is {self.ce_weight}, expected 0 or more and less than 1 (1 is objective=ce)")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb is {self.cache_mb}, expected 0 or more")


class Distillation(Objective):
    """KL divergence between the LLM that reads the description and the same LLM with the audio, at the target tokens.

    ``parts`` are ``ce``, over all target tokens, and ``kl``, over those that have a teacher. The others have plain
    cross-entropy as their loss: tokens of rows without a description, and those that the teacher's text, where it is
    longer than the audio, leaves beyond the model's ``max_length``.
    """

    Config = DistillationConfig
    reads_description: ClassVar[bool] = True
    takes_packed: ClassVar[bool] = True

    def __init__(self, config: DistillationConfig | None = None) -> None:
        super().__init__(config)
        self.config: DistillationConfig
        self.cache = TeacherCache(self.config.cache_mb, self.config.cache_device)

    def __call__(self, model: AlarmModel, spliced: Spliced, batch: Mapping[str, Any]) -> ObjectiveLoss:
        """The loss of a batch; ``batch["descriptions"]`` are the ids of the teacher's prompts, empty without one."""
        kept = spliced.predicted()
        teachers = self._teach(model, batch["turns"], batch["descriptions"], kept)
        student = model.target_states(spliced)
        device = student.states.device
        taught = [0 if teacher is None else teacher[0].shape[0] for teacher in teachers]
        plain = None
        if taught != kept:  # targets without a teacher have cross-entropy as their loss
            pairs = zip(kept, taught, strict=True)
            covered = torch.cat([torch.arange(whole) < count for whole, count in pairs]).to(device)
            plain, student = student[~covered].cross_entropy(), student[covered]
            if not len(student):  # the parts are the same in every batch, as evaluation adds them up by name
                return ObjectiveLoss(plain, {"ce": (plain, len(covered)), "kl": (plain.new_zeros(()), 0)})
        given = [teacher for teacher in teachers if teacher is not None]
        teacher = tuple(torch.cat([part.to(device) for part in parts]) for parts in zip(*given, strict=True))
        total, entropy, divergence = frozen_head_divergence(student, teacher, self.config)
        if plain is not None:
            total, entropy = total + plain, entropy + plain.detach()
        return ObjectiveLoss(total, {"ce": (entropy, sum(kept)), "kl": (divergence, len(student))})

    def _teach(
        self,
        model: AlarmModel,
        turns: Sequence[TokenizedTurn],
        descriptions: Sequence[list[int]],
        kept: Sequence[int],
    ) -> list[Teacher | None]:
        """The teacher of every row at its first ``kept`` target tokens, or at fewer; None for one without."""
        asked: list[TokenizedTurn | None] = [
            TokenizedTurn(read, [], (turn.target_ids or [])[:count]) if read and count else None
            for turn, read, count in zip(turns, descriptions, kept, strict=True)
        ]
        keys = [None if turn is None else _row_key(turn) for turn in asked]
        wanted = {key: turn for key, turn in zip(keys, asked, strict=True) if key is not None and turn is not None}
        found = {key: stored for key in wanted if (stored := self.cache.get(key)) is not None}
        missing = {key: turn for key, turn in wanted.items() if key not in found}
        if missing:
            found |= self._read(model, missing)
        elif any(isinstance(module, FSDPModule) for module in model.modules()):
            # the forward of a sharded LLM is collective, and other processes may have rows to read
            self._read(model, {b"": TokenizedTurn([0], [], [0])})
        return [None if key is None else found[key] for key in keys]

    @torch.no_grad()
    def _read(self, model: AlarmModel, turns: Mapping[bytes, TokenizedTurn]) -> dict[bytes, Teacher]:
        """One pass over rows that are not cached; they are added to the cache."""
        with without_lora(model.llm):
            spliced = model.splice_audio(list(turns.values()), None)
            summary = teacher_summary(model.target_states(spliced), self.config)
        split = zip(*(part.split(spliced.predicted()) for part in summary), strict=True)
        found: dict[bytes, Teacher] = dict(zip(turns, split, strict=True))
        for key, teacher in found.items():
            self.cache.add(key, teacher)
        return found


class TeacherCache:
    """Results of teacher passes by prompt and target, up to a size; the first ones stay.

    An epoch comes back to a row after all others, where dropping the oldest would drop each before its next use.
    """

    def __init__(self, megabytes: int, device: Literal["cpu", "model"] = "cpu") -> None:
        self.room = megabytes * 2**20
        self.device = device
        self.reused = 0
        """Rows that were found so far."""
        self._rows: dict[bytes, Teacher] = {}

    def get(self, key: bytes) -> Teacher | None:
        """The row of a key, where it is stored."""
        found = self._rows.get(key)
        self.reused += found is not None
        return found

    def add(self, key: bytes, teacher: Teacher) -> None:
        """Store a copy, as long as there is room."""
        size = sum(part.nbytes for part in teacher)
        if size <= self.room:
            self.room -= size
            self._rows[key] = tuple(
                part.to("cpu" if self.device == "cpu" else part.device, copy=True) for part in teacher
            )


def _row_key(turn: TokenizedTurn) -> bytes:
    """Digest of a prompt and its target; the length in front tells where the one ends and the other begins."""
    ids = array("q", [len(turn.prefix_ids), *turn.prefix_ids, *(turn.target_ids or [])])
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
