"""The Python names of the published system: they are all there, and give what they gave there."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.generation import get_response
from src.inference.engine import Engine
from src.model.alarm import AlarmModel
from src.model.checkpoints import LoadedEmbedder
from src.model.llm import load_llm
from src.model.splice import TokenizedTurn
from src.model.wrapped_llms.qwen3 import (
    Qwen3AudioWrappedConfig,
    Qwen3AudioWrappedFeatureExtractor,
    Qwen3AudioWrappedForCausalLM,
)
from src.prompts import load_prompts
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.support.tiny_corpus import wav_bytes

SURFACE = {
    "generate_vllm": ["get_response", "get_system_prompt", "get_main_prompt"],
    "generate_vllm_mcqa": ["get_response", "get_system_prompt", "get_main_prompt"],
    "src.utils": ["ROOT_PATH", "SAMPLE_RATE"],
    "src.dataset": ["HFDataset"],
    "src.dataset.hf_dataset": ["HFDataset"],
    "src.model.wrapped_llms.qwen3": [
        "Qwen3AudioWrappedFeatureExtractor",
        "Qwen3AudioWrappedForCausalLM",
        "Qwen3AudioWrappedConfig",
    ],
}
SIGNATURES = {
    ("generate_vllm", "get_response"): (
        "prompts audio_list llm feature_extractor sample tokenizer system_prompt max_thinking_tokens debug"
    ),
    ("generate_vllm_mcqa", "get_response"): (
        "questions choices_list audio_list llm feature_extractor sample tokenizer system_prompt max_thinking_tokens "
        "debug"
    ),
    ("src.dataset", "HFDataset"): (
        "dataset_names split tokenizer feature_extractor limit return_audio name use_explicit_audio_tokens data_dir"
    ),
    ("src.model.wrapped_llms.qwen3", "Qwen3AudioWrappedFeatureExtractor"): "model_config checkpoint_name tokenizer",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in SURFACE.items() for name in names])
def test_every_published_name_is_there(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    expected = SIGNATURES.get((module, name))
    if expected is not None:
        assert list(inspect.signature(found).parameters)[: len(expected.split())] == expected.split()


def test_the_published_settings_file() -> None:
    settings = OmegaConf.load(REPO_ROOT / "src/configs/model/default_inference.yaml")
    assert (settings.llm, settings.llm_embedding_dim) == ("Qwen/Qwen3-4B-Thinking-2507", 2560)
    assert sorted(item.encoder_name for item in settings.feature_extractor_configs) == [
        "muq", "sslam", "w2vbert", "whisper",
    ]  # fmt: skip
    assert settings.config.use_explicit_audio_tokens is False
    assert (settings.max_tokens, settings.max_thinking_tokens, settings.max_model_len) == (8192, 1024, 16384)


def test_prompts() -> None:
    import generate_vllm
    import generate_vllm_mcqa

    texts = load_prompts("full")
    assert generate_vllm.get_system_prompt() == texts.generation_system
    assert generate_vllm_mcqa.get_system_prompt() == texts.mcqa_system
    assert generate_vllm.get_main_prompt("what?") == generate_vllm.get_main_prompt({"context": "what?"}) == "what?"
    assert generate_vllm.get_main_prompt({"prompt": ["a", "b"]}) == ["a", "b"]
    with pytest.raises(UserError, match="no column prompt"):
        generate_vllm.get_main_prompt({"question": "a"})
    turn = generate_vllm_mcqa.get_main_prompt("Which?", ["a bell", "a horn"])
    assert "Which?" in turn and "(Option_1) a horn" in turn


@pytest.fixture
def extractor(loaded: LoadedEmbedder, llm: Path) -> Qwen3AudioWrappedFeatureExtractor:
    tokenizer = load_llm(str(llm))[1]
    return Qwen3AudioWrappedFeatureExtractor({"llm": str(llm)}, loaded.name, tokenizer)


IDS: dict[str, Any] = {
    "inputs_system": [torch.tensor([5, 6]), torch.tensor([5, 6])],
    "inputs_start": [torch.tensor([7]), torch.tensor([7, 8])],
    "inputs_main": [torch.tensor([9, 10, 11]), torch.tensor([12])],
}


def test_the_extractor_has_its_published_parts(extractor: Qwen3AudioWrappedFeatureExtractor, llm: Path) -> None:
    clips = [wav_bytes(0.5, 1), wav_bytes(0.9, 2)]
    assert extractor.to("cpu") is extractor and str(extractor.device) == "cpu" and extractor.model_config["llm"]
    extractor.freeze()
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    audio, masks, lengths = extractor.prepare_audio(clips)
    single = extractor.feature_extractor(clips[0])
    for name, features in audio.items():
        assert features.shape[0] == 2 and masks[name].shape == features.shape[:2]
        assert masks[name].sum(1).tolist() == lengths[name].tolist()
        frames = single["audio"][name].shape[0]
        torch.testing.assert_close(features[0, :frames], single["audio"][name])
        assert single["audio_lengths"][name] == lengths[name][0]
    table = load_llm(str(llm))[0].get_input_embeddings().weight
    [text] = extractor.get_text_embeds([torch.tensor([3, 4])])
    assert text.dtype == torch.float32 and torch.equal(text, table[[3, 4]])


def test_the_extractor_embeds_whole_prompts_as_published(extractor: Qwen3AudioWrappedFeatureExtractor) -> None:
    clips = [wav_bytes(0.5, 1), wav_bytes(0.9, 2)]
    alone = extractor(clips)
    prompts = extractor(**IDS, audio=clips)
    by_place = extractor(IDS["inputs_system"], IDS["inputs_start"], IDS["inputs_main"], clips)
    for place, prompt in enumerate(prompts):
        before = extractor.get_text_embeds([IDS["inputs_system"][place], IDS["inputs_start"][place]])
        after = extractor.get_text_embeds([IDS["inputs_main"][place]])
        torch.testing.assert_close(prompt, torch.cat([*before, alone[place], *after]))
        assert torch.equal(prompt, by_place[place])
    without = extractor(None, IDS["inputs_start"], IDS["inputs_main"], clips)
    torch.testing.assert_close(without[0], prompts[0][2:])
    with pytest.raises(UserError, match="got no clips"):
        extractor(inputs_start=IDS["inputs_start"], inputs_main=IDS["inputs_main"])


def test_the_whole_model(extractor: Qwen3AudioWrappedFeatureExtractor, loaded: LoadedEmbedder, llm: Path) -> None:
    model = Qwen3AudioWrappedForCausalLM.from_pretrained(loaded.name)
    config = model.get_config()
    assert isinstance(config, Qwen3AudioWrappedConfig) and config.model_type == "qwen3_audio"
    assert config.hidden_size == config.audio_sep_d_embed == 192 and config.audio_encoder_configs
    assert extractor.model.get_config().use_explicit_audio_tokens is False
    assert Qwen3AudioWrappedConfig.from_dict(config.to_dict()).audio_fusion_config == {"fusion_type": "sum"}
    outputs = [torch.tensor([13, 14]), torch.tensor([15])]
    audio, masks, lengths = extractor.prepare_audio([wav_bytes(0.5, 1), wav_bytes(0.9, 2)])
    given = {**IDS, "audio": audio, "audio_attention": masks, "audio_lengths": lengths}
    with torch.no_grad():
        result, labels, counted = model(**given, outputs=outputs, return_labels_and_loss_mask=True)
        turns = [
            TokenizedTurn([*system.tolist(), *start.tolist()], main.tolist(), output.tolist())
            for system, start, main, output in zip(*IDS.values(), outputs, strict=True)
        ]
        alarm = AlarmModel(model.audio_embedder, load_llm(str(llm), dtype=torch.float32)[0])
        features = extractor.loaded.feature_extractor
        from src.audio.waveform import load_waveform

        expected = alarm({"turns": turns, "features": features([load_waveform(wav_bytes(*one)) for one in ((0.5, 1), (0.9, 2))])})  # fmt: skip  # noqa: E501
    assert counted.sum() == 3 and labels.shape == counted.shape
    torch.testing.assert_close(result.loss, expected["loss"])
    ids, length = model.generate(**given, max_new_tokens=2, do_sample=False, return_inputs_length=True)
    assert ids.shape == (2, 2) and length == result.logits.shape[1] - 1
    plain = model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False)
    assert plain.shape == (1, 2)


def test_multiple_choice_answers(
    extractor: Qwen3AudioWrappedFeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import generate_vllm_mcqa

    backend = ScriptedBackend(lambda prompt: f"hm.</think>so <answer> {len(prompt)} </answer>", width=192)
    monkeypatch.setattr(get_response, "_engine_over", lambda *given: Engine(backend, CharTokenizer(), 2, 1))
    common = {"llm": None, "sample": SimpleNamespace(seed=3, max_tokens=50), "tokenizer": CharTokenizer()}
    questions, choices = ["Which?", "Where?"], [["a", "b"], [1, 2, 3]]
    clips = [wav_bytes(0.5, 0), wav_bytes(0.5, 0)]
    answers = generate_vllm_mcqa.get_response(
        questions, choices, clips, feature_extractor=extractor, system_prompt="listen.", **common
    )
    turns = [generate_vllm_mcqa.get_main_prompt(*pair) for pair in zip(questions, choices, strict=True)]
    expected = get_response.get_response(turns, clips, feature_extractor=extractor, system_prompt="listen.", **common)
    assert answers == expected and answers[0] != answers[1]
    with pytest.raises(UserError, match="2 questions and 1 lists"):
        generate_vllm_mcqa.get_response(
            questions, choices[:1], clips, feature_extractor=extractor, system_prompt="x", **common
        )
