"""Folders in stock vLLM: tokens are those of this project's engine, for one checkpoint and for an ensemble."""

from __future__ import annotations

import base64
import gc
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoProcessor

import src.hf
from src.audio.waveform import Waveform, load_waveform
from src.common.errors import UserError
from src.common.paths import ASSETS, REPO_ROOT
from src.hf.export import export_transformers
from src.inference.ensemble import EmbedderEnsemble
from src.inference.prompt_builder import PromptBuilder
from src.inference.vllm_backend import prepare_environment
from src.model.checkpoints import open_checkpoint
from src.prompts.prompt_sets import choose_prompts
from tests.hf.test_auto_classes import CLIPS, LONG, SIMPLE, TOKENS, engine_tokens, saved

LLM = ASSETS / "mini" / "llm"
GREEDY = {"temperature": 0.0, "max_tokens": TOKENS}
Start = Callable[[Path], Any]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts vLLM on a folder, as its users do but for the entry point, which needs an installed package."""
    prepare_environment()
    src.hf.register_vllm()
    started: list[Any] = []

    def run(folder: Path) -> Any:
        from vllm import LLM as VllmModel

        options: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "block_size": 32}
        options |= {"kv_cache_memory_bytes": 2**27, "max_num_seqs": 8, "enable_prefix_caching": True}
        started.append(VllmModel(str(folder), **options))
        return started[0]

    yield run
    started.clear()
    gc.collect()  # one that ends later would take the process groups of the next with it


def clips(messages: list[dict[str, Any]]) -> list[Waveform]:
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    return [load_waveform(part["audio"]) for part in parts if part["type"] == "audio"]


def in_openai_form(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def part(given: dict[str, Any]) -> dict[str, Any]:
        if given["type"] == "text":
            return given
        data = base64.b64encode(Path(given["audio"]).read_bytes()).decode()
        return {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}

    contents = [
        each["content"] if isinstance(each["content"], str) else [part(given) for given in each["content"]]
        for each in messages
    ]
    return [{**each, "content": content} for each, content in zip(messages, contents, strict=True)]


def tokens(llm: Any, prompt: str, heard: list[Waveform], **params: Any) -> tuple[list[int], int]:
    """Token ids of a response, and the number of prompt tokens that came from the prefix cache."""
    from vllm import SamplingParams

    data = {"audio": [(clip.samples.numpy(), clip.sample_rate) for clip in heard]} if heard else {}
    request = {"prompt": prompt, "multi_modal_data": data}
    [output] = llm.generate(request, SamplingParams(**{**GREEDY, **params}), use_tqdm=False)
    return list(output.outputs[0].token_ids), output.num_cached_tokens or 0


def chat_tokens(llm: Any, messages: list[dict[str, Any]]) -> list[int]:
    from vllm import SamplingParams

    [output] = llm.chat(in_openai_form(messages), SamplingParams(**GREEDY), use_tqdm=False)
    return list(output.outputs[0].token_ids)


def test_the_entry_point_names_the_function() -> None:
    stated = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = stated["vllm.general_plugins"]["alarm"].partition(":")
    assert getattr(import_module(module), name) is src.hf.register_vllm


@pytest.mark.vllm
@pytest.mark.slow
def test_an_exported_checkpoint(start: Start, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "run", "mini_alarm_ca", LLM)
    folder = export_transformers(open_checkpoint(checkpoint), tmp_path / "hf")
    expected = engine_tokens(checkpoint, [SIMPLE, LONG])
    processor = AutoProcessor.from_pretrained(str(folder))
    llm = start(folder)
    for messages, wanted in zip((SIMPLE, LONG), expected, strict=True):
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        first, _ = tokens(llm, prompt, clips(messages))
        again, cached = tokens(llm, prompt, clips(messages))
        assert first == again == wanted
        assert cached > 0, "the same clips are found in the prefix cache"
        assert chat_tokens(llm, messages) == wanted
    prompt = processor.apply_chat_template(SIMPLE, add_generation_prompt=True)
    [clip] = clips(SIMPLE)
    quiet = Waveform(clip.samples * 0.01, clip.sample_rate)
    assert tokens(llm, prompt, [quiet])[1] == 0, "another clip of the same length is not"
    silent_text = processor.apply_chat_template([{"role": "user", "content": "What is it?"}])
    assert tokens(llm, silent_text, [])[0] != expected[0]
    with pytest.raises(ValueError, match="got 2 placeholders .* for 1 clips"):
        tokens(llm, processor.audio_token + prompt, [clip])
    with pytest.raises(Exception, match="the placeholder of audio; remove it"):  # of vLLM, status 400
        chat_tokens(llm, [{"role": "user", "content": f"What is {processor.audio_token}?"}])
    # the language model has no row for the placeholder, and penalties count the prompt's ids
    assert len(tokens(llm, processor.audio_token, [], repetition_penalty=1.3)[0]) > 0


@pytest.mark.vllm
@pytest.mark.slow
def test_an_ensemble(start: Start, tmp_path: Path) -> None:
    first = saved(tmp_path / "ca", "mini_alarm_ca", LLM)
    second = saved(tmp_path / "tags", "mini_whisper", LLM, "model.config.use_explicit_audio_tokens=true")
    folder = export_transformers([open_checkpoint(first), open_checkpoint(second)], tmp_path / "both")
    members = [folder / "ensemble" / "0", folder / "ensemble" / "1"]
    assert [open_checkpoint(each).digest() for each in members] == [
        open_checkpoint(e).digest() for e in (first, second)
    ]
    expected = engine_tokens([first, second], [SIMPLE, LONG])
    assert engine_tokens(members, [SIMPLE]) == expected[:1]
    processor = AutoProcessor.from_pretrained(str(folder))
    llm = start(folder)
    for messages, wanted in zip((SIMPLE, LONG), expected, strict=True):
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        assert tokens(llm, prompt, clips(messages))[0] == wanted
        assert chat_tokens(llm, messages) == wanted
    with pytest.raises(UserError, match="an ensemble, which vLLM serves; here name its checkpoints"):
        open_checkpoint(folder)
    with pytest.raises(UserError, match="an ensemble of 2 checkpoints is not one model for transformers"):
        AutoModelForCausalLM.from_pretrained(str(folder))


def test_the_processor_of_an_ensemble(tmp_path: Path) -> None:
    """Ids without vLLM: the texts of the ensemble and the embeddings' places are those of the prompt builder."""
    first = saved(tmp_path / "whisper", "mini_whisper", LLM)
    second = saved(tmp_path / "tags", "mini_whisper", LLM, "model.config.use_explicit_audio_tokens=true")
    folder = export_transformers([open_checkpoint(first), open_checkpoint(second)], tmp_path / "both")
    processor = AutoProcessor.from_pretrained(str(folder))
    assert processor.audio_parts.count(None) == 2
    inputs = processor.apply_chat_template(SIMPLE, tokenize=True, add_generation_prompt=True)
    counts = processor.feature_extractor.count(load_waveform(CLIPS[0]))
    assert counts[0] == counts[1] + 2, "the second has its tags in the text"
    assert int((inputs["input_ids"] == processor.audio_token_id).sum()) == sum(counts)
    ensemble = EmbedderEnsemble.load([str(first), str(second)], "cpu")
    found = [open_checkpoint(first), open_checkpoint(second)]
    prompts = choose_prompts(None, [(each.name, each.extra) for each in found], str(LLM))
    builder = PromptBuilder(processor.tokenizer, prompts, "", ensemble.explicit_tags)
    segments = builder.with_audio("What is it?", ensemble.encode([load_waveform(CLIPS[0])])[0])
    expected: list[int] = []
    for segment in segments:
        is_audio = isinstance(segment, Tensor)
        expected += [processor.audio_token_id] * len(segment) if is_audio else list(segment)  # type: ignore[arg-type]
    assert inputs["input_ids"][0].tolist() == expected


def test_ensembles_that_are_refused(tmp_path: Path) -> None:
    one = open_checkpoint(saved(tmp_path / "one", "mini_whisper", LLM))
    other = open_checkpoint(saved(tmp_path / "other", "mini_whisper", LLM, "model.llm=assets/mini/llm"))
    with pytest.raises(UserError, match="ensemble: needs one language model, got"):
        export_transformers([one, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()
