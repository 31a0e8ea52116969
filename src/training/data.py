"""Data of a run: training and evaluation examples, and the means over evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.dataset.examples import ExampleDataset


@dataclass(frozen=True)
class TrainingData:
    """Training examples (``None`` to evaluate only), named evaluation sets and groups of them for mean losses.

    ``skipped`` are response sets that were left out because they are not on this machine.
    """

    train: ExampleDataset | None
    evaluation: Mapping[str, ExampleDataset]
    groups: Mapping[str, Sequence[str]]
    skipped: tuple[str, ...] = ()


def mean_losses(
    metrics: Mapping[str, float], data: TrainingData, prefix: str, kinds: Sequence[str]
) -> dict[str, float]:
    """Means over sets of each kind of loss: ``""`` is the objective's own, ``_NAME`` one of its parts."""

    def mean(names: Sequence[str], kind: str) -> float | None:
        found = [metrics[key] for name in names if (key := f"{prefix}_{name}{kind}_loss") in metrics]
        return sum(found) / len(found) if found else None

    means = {
        f"{prefix}_{group}{kind}_group_loss": mean(names, kind)
        for group, names in data.groups.items()
        for kind in kinds
    }
    means |= {f"{prefix}{kind}_loss": mean(list(data.evaluation), kind) for kind in kinds}
    return {name: value for name, value in means.items() if value is not None}
