"""Augmented training rows: the same samples for any number of data workers, others in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from src.audio.augment import AugmentConfig, Augmenter
from src.common.config import bind_dataclass
from src.dataset.examples import Batch, ExampleDataset, collate_step
from src.dataset.mixture import MixtureConfig, open_mixture
from src.dataset.sampler import StepPlan, StepSampler
from tests.prompts.fakes import CharTokenizer
from tests.support.tiny_corpus import RESPONSES, make_rows, save_raw, save_responses

EFFECTS = {"speed": {"factor": [0.8, 1.2]}, "noise": {"snr": [0, 10]}, "gain": {"db": [-6, 6]}}


@pytest.fixture
def examples() -> ExampleDataset:
    rows = make_rows(6)
    save_raw(rows)
    save_responses(rows)
    mixture = open_mixture(MixtureConfig([[RESPONSES, "WithContext", 1.0, False]]))
    config = bind_dataclass(AugmentConfig, EFFECTS, "augment")
    return ExampleDataset(mixture, CharTokenizer(), augmenter=Augmenter(config, seed=1))


def batches(examples: ExampleDataset, epoch: int, workers: int, clips: int = 2) -> list[Batch]:
    steps = StepSampler(len(examples), StepPlan(clips, grouping="none"), seed=2, number_epochs=True)
    steps.set_epoch(epoch)
    loader: Any = DataLoader(
        examples,  # type: ignore[arg-type]
        batch_sampler=steps,  # type: ignore[arg-type]
        collate_fn=collate_step,
        num_workers=workers,
    )
    return [batch for step in loader for batch in step]


def clips_by_key(found: Sequence[Batch]) -> dict[str, tuple[Any, list]]:
    rows = [zip(batch.keys, batch.waveforms or (), batch.draws, strict=True) for batch in found]
    return {key: (clip.samples, draw) for row in rows for key, clip, draw in row if clip is not None}


def test_workers_and_batches_do_not_change_the_samples(examples: ExampleDataset) -> None:
    one = clips_by_key(batches(examples, 0, workers=0))
    for other in (batches(examples, 0, workers=2), batches(examples, 0, workers=0, clips=3)):
        found = clips_by_key(other)
        assert found.keys() == one.keys() and len(one) == 6
        assert all(torch.equal(found[key][0], one[key][0]) and found[key][1] == one[key][1] for key in one)


def test_every_epoch_draws_anew_and_has_every_row_once(examples: ExampleDataset) -> None:
    first, second = (clips_by_key(batches(examples, epoch, workers=0)) for epoch in (0, 1))
    assert first.keys() == second.keys()
    assert all(first[key][1] != second[key][1] for key in first)


def test_recorded_effects_are_those_that_were_applied(examples: ExampleDataset) -> None:
    augmenter, plain = examples.augmenter, ExampleDataset(examples.rows, examples.tokenizer)
    assert augmenter is not None
    example, original = examples[len(examples) + 4], plain[4]  # the second epoch's
    assert original.waveform is not None and example.waveform is not None and original.draw == []
    assert example.draw == augmenter.draw(example.key, epoch=1)
    assert torch.equal(augmenter.apply(original.waveform, example.draw).samples, example.waveform.samples)
    factor = example.draw[0]["factor"]
    assert example.waveform.duration == pytest.approx(original.waveform.duration / factor, rel=1e-2)
