"""The README's Python example as it stands, on the miniature; what get_response says about bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.generation import get_response
from src.inference.engine import Engine
from src.model.checkpoints import LoadedEmbedder, save_checkpoint
from src.model.llm import load_llm
from src.model.lora import LoraConfig, add_lora
from src.model.wrapped_llms.qwen3 import Qwen3AudioWrappedFeatureExtractor
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.support.tiny_corpus import wav_bytes
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config


@pytest.fixture
def extractor(loaded: LoadedEmbedder, llm: Path) -> Qwen3AudioWrappedFeatureExtractor:
    return Qwen3AudioWrappedFeatureExtractor({"llm": str(llm)}, loaded.name, None)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    """In place of vLLM."""
    made = ScriptedBackend(lambda prompt: f"hm.</think>so <answer> {len(prompt)} </answer>", width=192)
    monkeypatch.setattr(get_response, "_engine_over", lambda *given: Engine(made, CharTokenizer(), 2, 1))
    return made


def ask(prompts: list, clips: list, extractor: object, **options: object) -> object:
    sample = SimpleNamespace(seed=3, max_tokens=50)
    return get_response.get_response(
        prompts=prompts,
        audio_list=clips,
        llm=None,
        feature_extractor=extractor,
        sample=sample,
        tokenizer=CharTokenizer(),
        system_prompt="listen.",
        **options,
    )


def test_one_answer_a_prompt_in_their_order(extractor: object, backend: ScriptedBackend) -> None:
    clips = [wav_bytes(0.5 + 0.2 * number, number) for number in range(5)]
    questions = ["a", {"context": "bb", "x": 1}, {"content": "ccc"}, {"prompt": "dddd"}, "eeeee"]
    answers = ask(questions, clips, extractor)
    assert [int(answer) for answer in answers] == sorted(int(answer) for answer in answers)
    assert {call.seed for call in backend.calls} == {3} and len(backend.calls) == 5
    answers, tokens = ask(questions[:1], clips[:1], [extractor, extractor], debug=True, max_thinking_tokens=4)
    assert len(answers) == 1 and "".join(map(chr, tokens)).startswith("hm.<")


def test_bad_clips_and_prompts_are_named(extractor: object, backend: ScriptedBackend) -> None:
    with pytest.raises(UserError, match="2 prompts and 1 clips"):
        ask(["a", "b"], [wav_bytes(0.5, 0)], extractor)
    with pytest.raises(UserError, match="clip 1: .*cannot be read as audio"):
        ask(["a", "b"], [wav_bytes(0.5, 0), b"no audio"], extractor)
    assert not backend.active, "nothing is left in the engine"
    with pytest.raises(UserError, match="prompt 0 is not a text"):
        ask([{"question": "a"}], [wav_bytes(0.5, 0)], extractor)


def test_a_checkpoint_of_another_language_model_is_refused(loaded: LoadedEmbedder, tmp_path: Path) -> None:
    other = save_tiny_llm(tmp_path / "narrow", width=64)
    with pytest.raises(UserError, match="192 wide, .*narrow takes 64"):
        Qwen3AudioWrappedFeatureExtractor({"llm": str(other)}, loaded.name, None)


def test_a_checkpoint_with_lora_needs_an_llm_with_room_for_it(
    extractor: Qwen3AudioWrappedFeatureExtractor, llm: Path, tmp_path: Path
) -> None:
    """The message names the options that make room; without LoRA none is asked for."""
    model, _ = load_llm(str(llm))
    lora = LoraConfig(r=6, target_modules=("q_proj", "v_proj"))
    add_lora(model, lora, str(llm))
    config = dataclasses.replace(model_config("mini_whisper", f"model.llm={llm}"), lora=lora)
    folder = save_checkpoint(tmp_path / "lora", mini_audio_embedder("mini_whisper"), config, llm=model)
    with_lora = Qwen3AudioWrappedFeatureExtractor({"llm": str(llm)}, str(folder), None)
    engine_config = SimpleNamespace(lora_config=None)
    no_room = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=engine_config))
    given = (["a"], [wav_bytes(0.5, 0)], no_room)
    rest = (SimpleNamespace(seed=3, max_tokens=50), CharTokenizer(), "listen.")
    with pytest.raises(UserError, match=r"LLM\(enable_lora=True, max_loras=1, max_lora_rank=8, .*'q_proj', 'v_proj'"):
        get_response.get_response(*given, with_lora, *rest)
    with pytest.raises(UserError, match="members' LoRA differ"):
        get_response.get_response(*given, [extractor, with_lora], *rest)


@pytest.mark.vllm
@pytest.mark.slow
def test_the_readme_example_runs(tmp_path: Path) -> None:
    """Only the names of models and the device differ. The miniature's context is lengthened to the default one."""
    llm = shutil.copytree(REPO_ROOT / "assets/mini/llm", tmp_path / "llm")
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    settings = (REPO_ROOT / "src/configs/model/default_inference.yaml").read_text()
    mini = tmp_path / "mini_inference.yaml"
    mini.write_text(settings.replace("Qwen/Qwen3-4B-Thinking-2507", str(llm)))
    names = []
    for seed, name in enumerate(("mini_alarm_ca", "mini_whisper")):
        config = model_config(name, f"model.llm={llm}")
        names.append(str(save_checkpoint(tmp_path / name, mini_audio_embedder(name, seed=seed), config)))
    (example,) = re.findall(r"```python\n(.*?)```", (REPO_ROOT / "README.md").read_text(), re.DOTALL)
    for ours, theirs in {
        "src/configs/model/default_inference.yaml": str(mini),
        "Blinorot/ALARM-CA": names[0],
        "Blinorot/AL-Whisper-Instruct-R": names[1],
        '.to("cuda")': '.to("cpu")',
    }.items():
        assert example.count(ours) == 1
        example = example.replace(ours, theirs)
    script = tmp_path / "example.py"
    script.write_text(example)
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=REPO_ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1].strip()
