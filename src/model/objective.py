"""Training objectives: the loss of a batch, chosen by name or by the import path of one's own class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from src.common.modules import ModuleConfig, ModuleRegistry
from src.model.loss import ObjectiveLoss

if TYPE_CHECKING:  # importing transformers would slow the check of a configuration down
    from src.model.alarm import AlarmModel
    from src.model.splice import Spliced

OBJECTIVES = ModuleRegistry(
    "objective",
    "src.model.objective:Objective",
    {
        "ce": "src.model.objective:CrossEntropy",
        "ctc": "src.model.ctc:CtcAlignment",
        "kl": "src.model.distillation:Distillation",
    },
)


@dataclass(frozen=True)
class ObjectiveConfig(ModuleConfig):
    """The ``objective`` group: a name, and the options of the class that it stands for."""

    registry: ClassVar[ModuleRegistry] = OBJECTIVES
    name_key: ClassVar[str] = "name"
    name: str = "ce"


class Objective(ABC):
    """Base of all objectives. A class of one's own names the dataclass of its options as ``Config``.

    ``reads_description`` asks for the description of every row: ``batch["descriptions"]`` then has, for each row, the
    ids of the conversation in which the LLM reads the description in place of the audio, up to where it answers. A
    row without a description, empty there, is an error unless ``Config`` has ``without_description="ce"``.

    ``takes_packed`` says that the objective also reads packed batches, in which all items share one row of
    ``spliced`` (``spliced.items()`` and ``spliced.predicted()`` take them apart); without it ``packing=true`` is
    refused.
    """

    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    reads_description: ClassVar[bool] = False
    takes_packed: ClassVar[bool] = False

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        self.config = self.Config() if config is None else config

    @abstractmethod
    def __call__(self, model: AlarmModel, spliced: Spliced, batch: Mapping[str, Any]) -> ObjectiveLoss:
        """The loss of a spliced batch, with a gradient for the student's embeddings.

        ``model.target_states(spliced)`` gives the hidden states at the target positions.
        """


class CrossEntropy(Objective):
    """Cross-entropy of the target tokens."""

    takes_packed: ClassVar[bool] = True

    def __call__(self, model: AlarmModel, spliced: Spliced, batch: Mapping[str, Any]) -> ObjectiveLoss:
        """Summed over the target positions."""
        return ObjectiveLoss(model.target_states(spliced).cross_entropy())
