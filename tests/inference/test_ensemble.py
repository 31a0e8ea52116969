"""Audio embedders that have encoders in common load and run them once, and hear the same as apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.audio.waveform import Waveform
from src.generation import worker
from src.generation.ask import ask
from src.inference.config import ModelSettings
from src.inference.ensemble import EmbedderEnsemble
from src.inference.load import load_ensemble
from src.model import checkpoints as checkpoint_module
from src.model.checkpoints import Checkpoint, load_audio_embedder, save_checkpoint
from src.model.encoders.base import Encoder
from src.model.export import export_published
from src.model.wrapped_llms.qwen3 import Qwen3AudioWrappedFeatureExtractor
from src.serving import start as serving
from src.serving.config import ServeConfig
from tests.support.tiny_models import mini_audio_embedder, model_config

LENGTHS = (9000, 30000)
CLIPS = [
    Waveform(torch.randn(1, count, generator=torch.Generator().manual_seed(count)) / 9, 16000) for count in LENGTHS
]


@pytest.fixture(scope="module")
def pair(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A fusion of four encoders, and a single one of them; both name the shipped encoders."""
    folder = tmp_path_factory.mktemp("ensemble")
    names = []
    for seed, name in enumerate(("mini_alarm_ca", "mini_whisper")):
        audio_embedder = mini_audio_embedder(name, seed=seed)
        names.append(str(save_checkpoint(folder / name, audio_embedder, model_config(name, f"model.llm={llm}"))))
    return names[0], names[1]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts loaded encoders and their forward passes from here on."""
    counts = {"loaded": 0, "run": 0}
    load, forward = Checkpoint.encoder, Encoder.forward

    def loading(self: Checkpoint, *args: Any) -> Encoder:
        counts["loaded"] += 1
        return load(self, *args)

    def running(self: Encoder, *args: Any) -> Any:
        counts["run"] += 1
        return forward(self, *args)

    monkeypatch.setattr(checkpoint_module.Checkpoint, "encoder", loading)
    monkeypatch.setattr(Encoder, "forward", running)
    return counts


def alone(names: tuple[str, ...]) -> list[list[Any]]:
    """Embeddings of each checkpoint alone."""
    return [EmbedderEnsemble([load_audio_embedder(name)]).encode(CLIPS) for name in names]


def assert_same(heard: list[list[Any]], apart: list[list[Any]]) -> None:
    for clip, embeddings in enumerate(heard):
        for place, embedding in enumerate(embeddings):
            assert torch.equal(embedding, apart[place][clip][0])


def test_an_ensemble_runs_a_common_encoder_once(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    apart = alone(pair)
    counts = count_calls(monkeypatch)
    ensemble = EmbedderEnsemble.load(pair, "cpu", torch.float32)
    assert_same(ensemble.encode(CLIPS), apart)
    assert counts == {"loaded": 4, "run": 4}


def test_checkpoints_of_the_published_form_are_compared_by_their_weights(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [
        str(export_published(checkpoint_module.open_checkpoint(name), tmp_path / str(number)))
        for number, name in enumerate(pair)
    ]
    apart = alone(pair)
    counts = count_calls(monkeypatch)
    ensemble = EmbedderEnsemble.load(whole, "cpu", torch.float32)
    assert_same(ensemble.encode(CLIPS), apart)
    assert counts == {"loaded": 5, "run": 4}  # the fifth was read to be compared, and dropped
    one, other = (each.audio_embedder.audio_encoder.encoders["whisper"] for each in ensemble.loaded)
    assert one is other


def test_audio_embedders_made_one_by_one_share_as_well(pair: tuple[str, str], llm: Path) -> None:
    apart = alone(pair)
    made = [Qwen3AudioWrappedFeatureExtractor({"llm": str(llm)}, name, None).to("cpu") for name in pair]
    for place, each in enumerate(made):
        for clip, heard in enumerate(each(CLIPS)):
            assert torch.equal(heard, apart[place][clip][0])
    ensemble = EmbedderEnsemble([each.loaded for each in made])
    assert_same(ensemble.encode(CLIPS), apart)
    assert len({id(e) for each in made for e in each.audio_embedder.audio_encoder.encoders.values()}) == 4


@pytest.mark.parametrize("what", ["revision", "weights"])
def test_other_revisions_and_other_weights_are_not_shared(pair: tuple[str, str], what: str) -> None:
    first, second = (load_audio_embedder(pair[1]) for _ in range(2))
    if what == "weights":
        with torch.no_grad():
            next(second.audio_embedder.audio_encoder.parameters()).add_(0.5)
    else:
        spec = second.config.config.encoders["whisper"]
        pinned = dataclasses.replace(spec, weights=dataclasses.replace(spec.weights, revision="abc"))
        second.config.config.encoders["whisper"] = pinned
    ensemble = EmbedderEnsemble([first, second])
    one, other = (each.audio_embedder.audio_encoder.encoders["whisper"] for each in ensemble.loaded)
    assert one is not other
    left, right = ensemble.encode(CLIPS)[0]
    assert torch.equal(left, right) == (what == "revision")


def test_precision_is_float32_unless_keys_say_otherwise(pair: tuple[str, str], llm: Path) -> None:
    def kinds(audio_embedder: Any) -> tuple[set[torch.dtype], set[torch.dtype]]:
        encoders = {value.dtype for name, value in audio_embedder.audio_encoder.named_parameters()}
        return {
            value.dtype for value in audio_embedder.trained_state().values() if value.is_floating_point()
        }, encoders

    whole, half = {torch.float32}, {torch.bfloat16}
    for keys, expected in (
        ({}, (whole, whole)),
        ({"front_end_dtype": "bfloat16"}, (half, half)),
        ({"front_end_dtype": "bfloat16", "encoder_dtype": "float32"}, (half, whole)),
        ({"encoder_dtype": "bfloat16"}, (whole, half)),
    ):
        ensemble = load_ensemble(pair[:1], ModelSettings(**keys))
        assert kinds(ensemble.loaded[0].audio_embedder) == expected
        heard = ensemble.encode(CLIPS)
        python = Qwen3AudioWrappedFeatureExtractor({"llm": str(llm), **keys}, pair[0], None)
        for clip, alone in zip(heard, python(CLIPS), strict=True):
            assert clip[0].dtype == alone.dtype == (torch.float32 if expected[0] == whole else torch.bfloat16)
            torch.testing.assert_close(clip[0].float(), alone.float(), atol=2e-2, rtol=2e-2)


def test_a_gpu_changes_no_precision(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program loads its audio embedders in float32, whatever the machine has."""
    calls: list[tuple[Any, ...]] = []

    class Loaded(Exception):
        pass

    def load(*args: Any) -> EmbedderEnsemble:
        calls.append(args[1:])
        raise Loaded

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(EmbedderEnsemble, "load", load)
    settings = ModelSettings()
    config = SimpleNamespace(checkpoints=[pair[0]], uses_audio=True, model=settings, endpoint=None)
    job = SimpleNamespace(config=config)
    for start in (
        lambda: worker.start_models(job),  # type: ignore[arg-type]
        lambda: serving.load(ServeConfig(checkpoint_name=pair[0], prompts={"name": "mini"})),
        lambda: next(ask("assets/mini/sounds/flac/bd_klub_0.flac", "what?", {"checkpoint_name": pair[0]})),
    ):
        with pytest.raises(Loaded):
            start()
    assert calls == [("cuda:0", torch.float32, torch.float32)] * 3
