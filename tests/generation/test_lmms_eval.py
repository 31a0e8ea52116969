"""The model ``alarm`` of lmms-eval: a local task through its command, and what the model does with its requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lmms_eval", reason="needs requirements-lmms.txt")

from lmms_eval.api.instance import Instance, unwrap_generation_output  # noqa: E402
from lmms_eval.models.registry_v2 import ModelRegistryV2  # noqa: E402

from src.common.errors import ConfigError, UserError  # noqa: E402
from src.common.paths import REPO_ROOT  # noqa: E402
from src.generation import lmms_eval_model  # noqa: E402
from src.generation.lmms_eval_model import LmmsEvalModel, read_sampling, read_settings  # noqa: E402
from src.inference.config import ModelSettings  # noqa: E402
from src.inference.engine import Engine  # noqa: E402
from src.inference.ensemble import EmbedderEnsemble  # noqa: E402
from src.inference.prompt_builder import PromptBuilder  # noqa: E402
from src.inference.transformers_backend import TransformersBackend  # noqa: E402
from src.inference.types import Request, Sampling  # noqa: E402
from src.model.checkpoints import LoadedEmbedder  # noqa: E402
from src.model.llm import load_llm  # noqa: E402
from src.prompts.reasoning import split_response  # noqa: E402
from src.prompts.texts import load_prompts  # noqa: E402
from tests.generation.conftest import choice_rows, save_set  # noqa: E402
from tests.generation.fakes import WIDTH, ScriptedBackend  # noqa: E402
from tests.prompts.fakes import CharTokenizer  # noqa: E402
from tests.support.tiny_llm import save_lively_llm, save_tiny_llm  # noqa: E402
from tests.support.tiny_models import mini_audio_embedder, model_config  # noqa: E402

ROWS = 4
TASK = """
task: alarm_local
dataset_path: {data}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function alarm_local.clips
doc_to_text: !function alarm_local.question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, temperature: 0}}
process_results: !function alarm_local.score
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
"""
FUNCTIONS = """
def clips(row):
    return [row["audio"]]


def question(row):
    return row["question"] + " " + ", ".join(row["choices"])


def score(row, results):
    return {"right": float(results[0] == row["answer"])}
"""


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = save_tiny_llm(tmp_path_factory.mktemp("tiny") / "llm")
    return save_lively_llm(tiny, tmp_path_factory.mktemp("lively") / "llm")


def test_the_package_declares_the_model() -> None:
    registry = ModelRegistryV2()
    declared = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = declared["lmms_eval.models"]["alarm"].partition(":")
    manifest = getattr(__import__(module, fromlist=[name]), name)()
    registry.register_manifest(manifest)
    assert registry.get_model_class("alarm") is LmmsEvalModel


def test_model_args_are_the_keys_of_the_other_programs() -> None:
    given = {
        "pretrained": "[a,b]",
        "prompts": "mini",
        "batch_size": "4",
        "thoughts": True,
        "model.max_thinking_tokens": -1.0,
        "model.max_model_len": 512,
        "model.seed": "null",
        "engine.kv_cache_gib": 0.5,
    }
    settings = read_settings(given)
    assert (
        settings.pretrained == ["a", "b"]
        and settings.batch_size == 4
        and settings.prompts == {"name": "mini"}
        and settings.thoughts
    )
    assert settings.model.max_thinking_tokens == -1 and settings.model.seed is None
    assert settings.engine.kv_cache_gib == 0.5 and settings.engine.max_model_len == 512
    with pytest.raises(ConfigError, match=r"max_thinking_token: unknown key.*max_thinking_tokens"):
        read_settings({"pretrained": "a", "model.max_thinking_token": 1})
    with pytest.raises(ConfigError, match="batch_size"):
        read_settings({"pretrained": "a", "batch_size": "auto"})
    with pytest.raises(ConfigError, match=r"engine\.workers"):
        read_settings({"pretrained": "a", "engine.workers": 2})


def test_generation_kwargs_of_tasks() -> None:
    settings = ModelSettings(max_tokens=100, max_thinking_tokens=50)
    usual = read_sampling({"max_new_tokens": 7, "temperature": 0, "top_p": 1.0, "num_beams": 1}, settings, "</think>")
    assert (usual.max_tokens, usual.max_thinking_tokens, usual.greedy) == (7, 50, True)
    assert usual.overrides() == {"temperature": 0.0}
    assert read_sampling({"until": ["\n\n"], "do_sample": False}, settings, "").max_tokens == 100
    drawn = read_sampling({"do_sample": True, "temperature": 0.7, "top_k": 5}, settings, "")
    assert not drawn.greedy and drawn.overrides() == {"temperature": 0.7, "top_k": 5}
    assert not read_sampling({"do_sample": True}, settings, "").overrides()
    with pytest.raises(UserError, match="num_beams=4"):
        read_sampling({"num_beams": 4}, settings, "")


class FewFrames:
    """Stands for an ensemble: a clip of n samples has n embeddings; one of 5 samples cannot be encoded."""

    explicit_tags = [False]

    def encode(self, clips: list[Any]) -> list[list[Tensor]]:
        if any(clip.samples.shape[-1] == 5 for clip in clips):
            raise ValueError("too short\nfor this encoder")
        return [[torch.zeros(clip.samples.shape[-1], WIDTH)] for clip in clips]

    def max_clip_seconds(self, positions: int) -> float:
        return 1.0


@pytest.fixture
def make_model(monkeypatch: pytest.MonkeyPatch, loaded: LoadedEmbedder) -> Callable[..., LmmsEvalModel]:
    """Builds the model over a scripted backend."""

    def make(script: Callable[[str], str], **options: Any) -> LmmsEvalModel:
        engine = Engine(ScriptedBackend(script), CharTokenizer())
        monkeypatch.setattr(lmms_eval_model, "load_vllm", lambda source, config: engine)
        monkeypatch.setattr(lmms_eval_model, "load_ensemble", lambda names, settings: FewFrames())
        return LmmsEvalModel(loaded.name, **{"prompts": "mini", "system_prompt": "S", "batch_size": 2, **options})

    return make


def clip(samples: int) -> dict[str, Any]:
    return {"array": [0.1] * samples, "sampling_rate": 8000}


def ask(model: LmmsEvalModel, rows: list[dict[str, Any]], **kwargs: Any) -> list[Any]:
    """Texts of the responses to rows with ``text`` and ``media``."""
    model.task_dict["local"] = {"test": rows}
    instances = [
        Instance(
            "generate_until",
            (row["text"], row.get("kwargs", kwargs), lambda doc: doc["media"], number, "local", "test"),
            0,
            {"task": "local", "doc_id": number, "repeats": 1},
        )
        for number, row in enumerate(rows)
    ]
    return [unwrap_generation_output(each)[0] for each in model.generate_until(instances)]


def test_clips_stand_before_the_text_and_answers_end_at_stop_texts(make_model: Callable[..., LmmsEvalModel]) -> None:
    prompts: list[str] = []

    def script(prompt: str) -> str:
        prompts.append(prompt)
        return "so so</think>\n\nA. yes\n\nmore"

    model = make_model(script)
    rows = [
        {"text": "one?", "media": [clip(3)]},
        {"text": "two?", "media": [clip(2), {"type": "audio", "url": clip(4)}], "kwargs": {"until": "\n\n"}},
        {"text": "zero?", "media": None},
    ]
    assert ask(model, rows, max_new_tokens=200) == ["A. yes\n\nmore", "A. yes", "A. yes\n\nmore"]
    found = {next(name for name in ("one?", "two?", "zero?") if name in each): each for each in prompts}
    assert "{3}one?" in found["one?"] and "{2}{4}two?" in found["two?"] and "{" not in found["zero?"]
    assert all("S" in each for each in prompts)
    whole = ask(make_model(script, thoughts=True), rows[:1], max_new_tokens=200)
    assert whole == ["<think>\nso so\n</think>\n\nA. yes\n\nmore"]


def test_a_row_that_cannot_be_answered_is_empty_and_others_go_on(
    make_model: Callable[..., LmmsEvalModel], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(lambda prompt: "x</think>yes")
    media = [[clip(5)], [clip(3)], ["/no/such.wav"], [clip(9000)], [clip(4)]]
    rows = [{"text": f"{number}?", "media": each} for number, each in enumerate(media)]
    assert ask(model, rows) == ["", "yes", "", "", "yes"]
    assert "3 of 5 rows have no answer" in caplog.text


def test_thoughts_without_an_end_are_no_answer(make_model: Callable[..., LmmsEvalModel]) -> None:
    model = make_model(lambda prompt: "A or B or C " * 9, **{"model.max_thinking_tokens": -1.0, "thoughts": True})
    (text,) = ask(model, [{"text": "?", "media": [clip(3)]}], max_new_tokens=20)
    assert text.startswith("<think>\nA or B") and text.endswith("</think>\n\n")


def test_other_media_and_other_kinds_of_tasks_are_refused(make_model: Callable[..., LmmsEvalModel]) -> None:
    from PIL import Image

    model = make_model(lambda prompt: "x</think>yes")
    for medium in (Image.new("RGB", (4, 4)), {"type": "image", "url": "a.png"}):
        with pytest.raises(UserError, match="task local has .* in row 0"):
            ask(model, [{"text": "?", "media": [medium]}])
    request = Instance("loglikelihood", (), 0, {"task": "lm", "doc_id": 0, "repeats": 1})
    with pytest.raises(UserError, match="task lm asks for likelihoods"):
        model.loglikelihood([request])
    with pytest.raises(UserError, match="task lm asks for several rounds"):
        model.generate_until_multi_round([request])


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes"):
        LmmsEvalModel("anything")


def installed(folder: Path) -> Path:
    """A folder for the module path with this package's metadata, as an installation writes it."""
    project = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
    made = folder / f"{project['name']}-{project['version']}.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (made / "entry_points.txt").write_text("\n".join(lines))
    return folder


def engine_answers(checkpoint: Path, llm: Path, texts: list[str], clips: list[Any]) -> list[str]:
    """Greedy answers of the transformers backend, as ``ask.py`` makes them."""
    prompts = load_prompts("mini")
    model, tokenizer = load_llm(str(llm), torch.float32)
    ensemble = EmbedderEnsemble.load([str(checkpoint)], "cpu")
    builder = PromptBuilder(tokenizer, prompts, prompts.generation_system, ensemble.explicit_tags)
    sampling = Sampling(8, 12, greedy=True, budget_closing=prompts.budget_closing)
    requests = [
        Request(str(number), builder.with_audio(text, ensemble.encode([each])[0]))
        for number, (text, each) in enumerate(zip(texts, clips, strict=True))
    ]
    results = Engine(TransformersBackend(model), tokenizer).run(requests, sampling)
    found = {result.key: split_response(result.text).answer for result in results}
    return [found[str(number)] for number in range(len(texts))]


@pytest.mark.slow
@pytest.mark.vllm
def test_command_answers_a_local_task(tmp_path: Path, data_root: Path, lively: Path) -> None:
    from datasets import load_from_disk

    from src.audio.waveform import load_waveform
    from src.model.checkpoints import save_checkpoint

    checkpoint = save_checkpoint(
        tmp_path / "run",
        mini_audio_embedder("mini_whisper"),
        model_config("mini_whisper", f"model.llm={lively}"),
    )
    data = save_set("local", {"test": choice_rows(ROWS)})
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "alarm_local.yaml").write_text(TASK.format(data=data))
    (tasks / "alarm_local.py").write_text(FUNCTIONS)
    options = "prompts=mini,model.max_thinking_tokens=12,model.max_model_len=512,engine.kv_cache_gib=0.25"
    command = [sys.executable, "-m", "lmms_eval", "--model", "alarm", "--tasks", "alarm_local"]
    command += ["--model_args", f"pretrained={checkpoint},{options}", "--include_path", str(tasks)]
    command += ["--batch_size", "3", "--output_path", str(tmp_path / "out"), "--log_samples"]
    path = os.pathsep.join([str(REPO_ROOT), str(installed(tmp_path / "installed"))])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "alarm_local" in done.stdout, done.stderr[-3000:]

    written = list((tmp_path / "out").rglob("*_samples_alarm_local.jsonl"))
    assert written, done.stderr[-3000:]
    samples = written[0].read_text().splitlines()
    logged = sorted((json.loads(line) for line in samples), key=lambda sample: sample["doc_id"])
    rows = load_from_disk(str(data))["test"]
    texts = [f"{row['question']} {', '.join(row['choices'])}" for row in rows]
    expected = engine_answers(checkpoint, lively, texts, [load_waveform(row["audio"]) for row in rows])
    assert [sample["filtered_resps"] for sample in logged] == [answer.strip() for answer in expected]
    assert len(set(expected)) > 1
