"""The step's loss equals the straightforward one: one clip at a time, full logits, float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from src.common.config import compose
from src.common.seeds import seed_everything
from src.dataset.examples import Batch, collate
from tests.training.conftest import overrides


@pytest.fixture()
def trainer(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    from src.training.arguments import training_arguments
    from src.training.build import build_model
    from src.training.config import bind_train_config
    from src.training.data import open_data
    from src.training.trainer import AlarmTrainer

    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
    config = bind_train_config(compose("train", overrides(world, tmp_path / "run")))
    seed_everything(config.seed)
    built = build_model(config)
    return AlarmTrainer(
        built.model,
        training_arguments(config),
        open_data(config, built.tokenizer, built.config),
        built.extractor,
        built.config,
    )


def plain_loss(trainer, batch: Batch) -> tuple[torch.Tensor, int]:  # noqa: ANN001
    """Sum of the cross-entropy and number of targets, clip by clip over all positions and the whole vocabulary."""
    model = trainer.model
    embed = model.llm.get_input_embeddings()
    total, count = torch.zeros(()), 0
    assert batch.waveforms is not None
    for waveform, *ids in zip(batch.waveforms, batch.starts, batch.mains, batch.outputs, strict=True):
        start, main, outputs = (torch.tensor(part) for part in ids)
        audio = model.front_end(trainer.extractor([waveform]))[0]
        opening, closing = model.front_end.separators()
        pieces = [embed(start), opening, audio, closing, embed(main), embed(outputs)]
        sequence = torch.cat(pieces)[None]
        logits = model.llm(inputs_embeds=sequence).logits[0]
        predicting = logits[sequence.shape[1] - len(outputs) - 1 : -1]
        total = total + F.cross_entropy(predicting, outputs, reduction="sum")
        count += len(outputs)
    return total, count


def test_loss_and_gradients_equal_the_straightforward_ones(trainer) -> None:  # noqa: ANN001
    batch = collate([trainer.data.train[index] for index in range(5)])
    total, count = plain_loss(trainer, batch)
    assert count == batch.num_targets
    (total / count).backward()
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    expected = {name: value.grad.clone() for name, value in trained.items()}
    trainer.model.zero_grad()
    items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.training_step(trainer.model, batch, items)
    torch.testing.assert_close(loss, (total / count).detach(), rtol=1e-5, atol=1e-6)
    assert set(expected) == {name for name, value in trainer.model.named_parameters() if value.grad is not None}
    for name, gradient in expected.items():
        torch.testing.assert_close(trained[name].grad, gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_micro_batches_weigh_their_tokens(trainer) -> None:  # noqa: ANN001
    first, second = (collate([trainer.data.train[index] for index in part]) for part in ([0, 1, 2], [3]))
    items = trainer._get_num_items_in_batch([first, second], torch.device("cpu"))
    assert int(items) == first.num_targets + second.num_targets and trainer.clips_seen == 4
    parts = [trainer.training_step(trainer.model, batch, items) for batch in (first, second)]
    total, count = plain_loss(trainer, collate([trainer.data.train[index] for index in range(4)]))
    torch.testing.assert_close(sum(parts), (total / count).detach(), rtol=1e-5, atol=1e-6)
