"""Auto classes of transformers: the tokens are those of this project's engine, whatever form is loaded."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor, pipeline
from transformers.utils.import_utils import BACKENDS_MAPPING

import src.hf
from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.common.paths import ASSETS, REPO_ROOT
from src.hf.export import export_transformers
from src.inference.ensemble import EmbedderEnsemble
from src.inference.prompt_builder import PromptBuilder
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Sampling
from src.model.checkpoints import open_checkpoint, save_checkpoint
from src.model.export import export_published
from src.model.llm import load_llm
from src.model.lora import LoraConfig, add_lora, lora_tensors
from src.model.lora_files import attach_lora
from src.prompts.chat import Placeholders
from src.prompts.prompt_sets import choose_prompts
from tests.support.tiny_llm import save_lively_llm, save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config

CLIPS = sorted((ASSETS / "mini" / "sounds" / "flac").glob("*.flac"))[:3]
TOKENS = 12
Content = str | list[dict[str, Any]]


def part(audio: Any) -> dict[str, Any]:
    return {"type": "audio", "audio": audio}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


SIMPLE = [{"role": "user", "content": [part(str(CLIPS[0])), said("What is it?")]}]
LONG = [
    {"role": "system", "content": "You hear."},
    {"role": "user", "content": [part(str(CLIPS[1])), said("And this? "), part(str(CLIPS[2])), said("Compare.")]},
    {"role": "assistant", "content": "Both are drums."},
    {"role": "user", "content": [said("Now: "), part(str(CLIPS[0]))]},
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = save_tiny_llm(tmp_path_factory.mktemp("tiny") / "llm")
    return save_lively_llm(tiny, tmp_path_factory.mktemp("lively") / "llm")


def saved(folder: Path, name: str, llm: Path, *overrides: str) -> Path:
    """A checkpoint with random adapters and fusion and the miniature encoders."""
    changed = (f"model.llm={llm}", *overrides)
    return save_checkpoint(folder, mini_audio_embedder(name, *overrides), model_config(name, *changed), {"step": 1})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, llm: Path) -> Path:
    return saved(tmp_path_factory.mktemp("ca") / "run", "mini_alarm_ca", llm)


def engine_tokens(
    checkpoints: Path | Sequence[Path], conversations: Sequence[Sequence[dict[str, Any]]]
) -> list[list[int]]:
    """Greedy token ids of this project's engine."""
    names = [checkpoints] if isinstance(checkpoints, Path) else checkpoints
    checkpoint = names[0]
    ensemble = EmbedderEnsemble.load([str(name) for name in names], "cpu")
    llm, tokenizer = load_llm(open_checkpoint(checkpoint).config.llm, torch.float32)
    if (lora := open_checkpoint(checkpoint).lora()) is not None:
        attach_lora(llm, lora, str(checkpoint))
    found = [open_checkpoint(name) for name in names]
    prompts = choose_prompts(None, [(each.name, each.extra) for each in found], found[0].config.llm)
    builder = PromptBuilder(tokenizer, prompts, "", ensemble.explicit_tags)
    backend = TransformersBackend(llm)
    answers = []
    for number, messages in enumerate(conversations):
        marks, clips, flat = Placeholders(), [], []
        for message in messages:
            text = message["content"]
            if not isinstance(text, str):
                clips += [load_waveform(each["audio"]) for each in text if each["type"] == "audio"]
                text = "".join(marks.next() if each["type"] == "audio" else each["text"] for each in text)
            flat.append({"role": message["role"], "content": text})
        segments = builder.conversation(flat, marks, [ensemble.encode([clip])[0] for clip in clips])
        backend.add(str(number), segments, Sampling(max_tokens=TOKENS, greedy=True), TOKENS, 0)
        tokens: list[int] = []
        while True:
            [output] = backend.step()
            tokens += output.token_ids
            if output.finish_reason is not None:
                break
        answers.append(tokens)
    return answers


def auto_tokens(folder: Path, conversations: Sequence[Sequence[dict[str, Any]]]) -> list[list[int]]:
    processor = AutoProcessor.from_pretrained(str(folder))
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    found = []
    for messages in conversations:
        inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        found.append(written[0, inputs["input_ids"].shape[1] :].tolist())
    return found


@pytest.mark.parametrize("name", ["mini_alarm_ca", "mini_alarm_p", "mini_whisper"])
def test_tokens_are_those_of_the_engine(name: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "run", name, ASSETS / "mini" / "llm")
    expected = engine_tokens(checkpoint, [SIMPLE, LONG])
    assert len(set(map(tuple, expected))) == 2, "answers that do not depend on the prompt would prove nothing"
    assert auto_tokens(checkpoint, [SIMPLE, LONG]) == expected


def test_every_form_gives_the_same_tokens_in_a_fresh_process(checkpoint: Path, llm: Path, tmp_path: Path) -> None:
    found = open_checkpoint(checkpoint)
    whole = export_transformers(found, tmp_path / "hf", shard_bytes=200_000)
    published = export_published(found, tmp_path / "published")
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint))
    model.save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(str(checkpoint)).save_pretrained(tmp_path / "again")
    assert open_checkpoint(whole).digest() == open_checkpoint(tmp_path / "again").digest() == found.digest()
    expected = engine_tokens(checkpoint, [SIMPLE, LONG])
    assert auto_tokens(published, [SIMPLE, LONG]) == expected
    (llm / "model.safetensors").rename(llm / "hidden")  # both folders are complete
    try:
        program = (
            "import json, sys, src.hf\nfrom pathlib import Path\nfrom tests.hf.test_auto_classes import *\n"
            "print(json.dumps([auto_tokens(Path(each), [SIMPLE, LONG]) for each in sys.argv[1:]]))"
        )
        folders = [str(whole), str(tmp_path / "again")]
        done = subprocess.run(
            [sys.executable, "-c", program, *folders], cwd=REPO_ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout.splitlines()[-1]) == [expected, expected]
    finally:
        (llm / "hidden").rename(llm / "model.safetensors")


def test_lora_is_merged_and_saved(llm: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=("q_proj", "down_proj"))
    trained, _ = load_llm(str(llm))
    add_lora(trained, lora, str(llm))
    for value in lora_tensors(trained).values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
    config = dataclasses.replace(model_config("mini_whisper", f"model.llm={llm}"), lora=lora)
    plain = saved(tmp_path / "plain", "mini_whisper", llm)
    checkpoint = save_checkpoint(tmp_path / "lora", mini_audio_embedder("mini_whisper"), config, llm=trained)
    expected = engine_tokens(checkpoint, [SIMPLE, LONG])
    assert expected != engine_tokens(plain, [SIMPLE, LONG])
    assert auto_tokens(checkpoint, [SIMPLE, LONG]) == expected
    AutoModelForCausalLM.from_pretrained(str(checkpoint)).save_pretrained(tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert again.digest() == open_checkpoint(checkpoint).digest(), "the programs of this project read LoRA from it"
    assert auto_tokens(tmp_path / "again", [SIMPLE, LONG]) == expected, "and LoRA is not added twice"


def test_precision_of_the_language_model_and_of_the_audio_embedder(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype="bfloat16")
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.dtype == model.audio_embedder.audio_start_emb.dtype == torch.float32
    inputs = AutoProcessor.from_pretrained(str(checkpoint)).apply_chat_template(SIMPLE, tokenize=True)
    assert model(**inputs).logits.dtype == torch.bfloat16


def test_random_weights(checkpoint: Path) -> None:
    config = AutoConfig.from_pretrained(str(checkpoint))
    model = AutoModelForCausalLM.from_config(config)
    inputs = AutoProcessor.from_pretrained(str(checkpoint)).apply_chat_template(SIMPLE, tokenize=True)
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape


def test_forms_of_a_clip_and_padded_batches(checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(str(checkpoint))
    model = AutoModelForMultimodalLM.from_pretrained(str(checkpoint))
    clip = load_waveform(CLIPS[0])
    text = processor.apply_chat_template(SIMPLE, add_generation_prompt=True)
    other = processor.apply_chat_template(LONG, add_generation_prompt=True)
    by_path = processor(text=text, audio=str(CLIPS[0]))
    samples = np.asarray(clip.mono)
    by_array = processor(text=text, audio=[samples], sampling_rate=clip.sample_rate)
    by_bytes = processor(text=text, audio=CLIPS[0].read_bytes())
    for inputs in (by_array, by_bytes):
        assert all(torch.equal(inputs[key], by_path[key]) for key in by_path)
    batch = processor(text=[text, other], audio=[str(CLIPS[0]), str(CLIPS[1]), str(CLIPS[2]), str(CLIPS[0])])
    written = model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)[:, batch["input_ids"].shape[1] :]
    alone = auto_tokens(checkpoint, [SIMPLE, LONG])
    for row, expected in zip(written.tolist(), alone, strict=True):
        assert row[: len(expected)] == expected
    loss = model(**by_path, labels=by_path["input_ids"].clamp(max=10)).loss
    assert torch.isfinite(loss)


def test_the_template_itself_takes_parts(checkpoint: Path, tmp_path: Path) -> None:
    """vLLM renders the template without the processor; it looks into it for the form of the messages."""
    AutoProcessor.from_pretrained(str(checkpoint)).save_pretrained(tmp_path / "processor")
    processor = AutoProcessor.from_pretrained(str(tmp_path / "processor"))
    for messages in (SIMPLE, LONG):
        rendered = processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        assert rendered == processor.apply_chat_template(messages, add_generation_prompt=True)
    (template,) = (tmp_path / "processor").glob("*.jinja")
    assert template.read_text().count("namespace(messages=") == 1


def test_counts_are_those_of_the_embedder(checkpoint: Path, llm: Path, tmp_path: Path) -> None:
    tags = saved(tmp_path / "tags", "mini_alarm_p", llm, "model.config.use_explicit_audio_tokens=true")
    for folder in (checkpoint, tags):
        processor = AutoProcessor.from_pretrained(str(folder))
        ensemble = EmbedderEnsemble.load([str(folder)], "cpu")
        for seconds in (0.01, 0.3, 1.003, 4.9):
            clip = load_waveform(np.random.default_rng(0).normal(size=int(seconds * 22050)).astype("f"), 22050)
            [[embeddings]] = ensemble.encode([clip])
            assert processor.feature_extractor.count(clip) == (len(embeddings),)
    assert auto_tokens(tags, [SIMPLE]) == engine_tokens(tags, [SIMPLE])


def test_the_placeholder_is_no_row_of_the_language_model(checkpoint: Path, llm: Path) -> None:
    config = AutoConfig.from_pretrained(str(checkpoint))
    processor = AutoProcessor.from_pretrained(str(checkpoint))
    assert processor.audio_token_id == config.audio_token_id == len(processor.tokenizer) - 1
    assert processor.tokenizer.decode([config.audio_token_id, 5], skip_special_tokens=True) == processor.decode([5])
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint))
    before, _ = load_llm(str(llm), torch.float32)
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)


def test_pipeline(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers asks for librosa, which nothing here uses: with it comes scikit-learn, and all of transformers then
    # takes twice as long to import
    _, message = BACKENDS_MAPPING["librosa"]
    monkeypatch.setitem(BACKENDS_MAPPING, "librosa", (lambda: True, message))
    answer = pipeline("any-to-any", model=str(checkpoint))
    [found] = answer(text=SIMPLE, max_new_tokens=TOKENS, do_sample=False, return_full_text=False)
    expected = engine_tokens(checkpoint, [SIMPLE])[0]
    processor = AutoProcessor.from_pretrained(str(checkpoint))
    assert found["generated_text"] == processor.decode(expected, skip_special_tokens=True)


def test_messages(checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(str(checkpoint))
    token = processor.audio_token
    with pytest.raises(UserError, match="got 1 clips for 2 placeholders"):
        processor(text=token * 2, audio=str(CLIPS[0]))
    with pytest.raises(UserError, match="contains <|audio|>, the placeholder".replace("|", r"\|")):
        processor.apply_chat_template([{"role": "user", "content": f"{token}?"}])
    with pytest.raises(UserError, match="got a part of type 'image'"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}])
    model = src.hf.AlarmForConditionalGeneration.from_pretrained(checkpoint)
    inputs = processor(text=f"{token}?", audio=str(CLIPS[0]))
    with pytest.raises(UserError, match="placeholders of audio in input_ids for 0 embeddings"):
        model.generate(input_ids=inputs["input_ids"])
