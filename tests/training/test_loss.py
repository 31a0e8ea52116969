"""The step's loss equals the straightforward one: one clip at a time, full logits, float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from src.audio.waveform import Waveform
from src.common.config import compose
from src.common.seeds import seed_everything
from src.dataset.examples import Batch, collate, collate_step
from src.model.audio_embedder import build_feature_extractor
from src.model.precision import cast_frozen_weights
from tests.support.tiny_models import mini_audio_embedder
from tests.training.conftest import overrides


@pytest.fixture()
def trainer(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    from src.training.arguments import step_plan, training_arguments
    from src.training.build import build_model, open_data
    from src.training.config import bind_train_config
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
        step_plan(config),
    )


def plain_loss(trainer, batch: Batch) -> tuple[torch.Tensor, int]:  # noqa: ANN001
    """Sum of the cross-entropy and number of targets, clip by clip over all positions and the whole vocabulary."""
    model = trainer.model
    embed = model.llm.get_input_embeddings()
    total, count = torch.zeros(()), 0
    assert batch.waveforms is not None
    for waveform, *ids in zip(batch.waveforms, batch.starts, batch.mains, batch.outputs, strict=True):
        start, main, outputs = (torch.tensor(part) for part in ids)
        audio = model.audio_embedder(trainer.extractor([waveform]))[0]
        opening, closing = model.audio_embedder.separators()
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
    assert count == batch.num_targets and trainer.model._has_plain_head(
        torch.randn(1, 2, trainer.model.audio_embedder.llm_dim)
    )
    (total / count).backward()
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    expected = {name: value.grad.clone() for name, value in trained.items()}
    trainer.model.zero_grad()
    step = collate_step(trainer.data.train.__getitems__([[3, 1], [0], [4, 2]]))  # three micro-batches
    _, items = trainer.get_batch_samples(iter([step]), 1, torch.device("cpu"))
    assert int(items) == count and trainer.clips_seen == 5
    loss = trainer.training_step(trainer.model, step, items)
    torch.testing.assert_close(loss, (total / count).detach(), rtol=1e-5, atol=1e-6)
    assert set(expected) == {name for name, value in trainer.model.named_parameters() if value.grad is not None}
    for name, gradient in expected.items():
        torch.testing.assert_close(trained[name].grad, gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("every", [1, 2])
def test_checkpointed_activations_change_nothing(trainer, every: int) -> None:  # noqa: ANN001
    step = [collate([trainer.data.train[index] for index in range(4)])]
    expected = gradients(trainer, step)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    assert sum("_checkpoint_wrapped_module" in name for name, _ in trainer.model.llm.named_modules()) > 0
    for name, gradient in gradients(trainer, step).items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("model", ["alarm_ca", "alarm_p"])
def test_held_encoders_equal_autocast_ones(model: str) -> None:
    """States of the frozen encoders, bit for bit, whether autocast converts their weights or they are held so."""
    audio_embedder = mini_audio_embedder(f"mini_{model}")
    clips = [Waveform(torch.randn(1, samples), 16000) for samples in (24000, 9000)]
    features = build_feature_extractor(audio_embedder.config)(clips)
    layers = {name: audio_embedder.config.layers(name) for name in features}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain, _ = audio_embedder.audio_encoder(features, layers)
        held, _ = cast_frozen_weights(audio_embedder.audio_encoder)(features, layers)
    assert {value.dtype for value in audio_embedder.audio_encoder.parameters()} == {torch.float32, torch.bfloat16}
    assert all(torch.equal(plain[name], held[name]) for name in features) and len(features) == 4
    with pytest.raises(ValueError, match="is trained"):
        cast_frozen_weights(audio_embedder.audio_adapter)


def gradients(trainer, step: list[Batch]) -> dict[str, torch.Tensor]:  # noqa: ANN001
    """Gradients of one step by name, taken off the model."""
    _, items = trainer.get_batch_samples(iter([step]), 1, torch.device("cpu"))
    trainer.training_step(trainer.model, step, items)
    named = {name: value for name, value in trainer.model.named_parameters() if value.grad is not None}
    found = {name: value.grad.clone() for name, value in named.items()}
    trainer.model.zero_grad()
    assert found
    return found
