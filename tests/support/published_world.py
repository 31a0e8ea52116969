"""A scratch copy of the repository with tiny data, in which the published commands are run.

:class:`World` makes what a command needs and does not find: what an earlier command has made there is used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.paths import REPO_ROOT
from tests.support.hub_server import HubServer

LLM = "Qwen/Qwen3-4B-Thinking-2507"
WRITER = "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"
SHORT = "Qwen3-4B-Thinking-2507"
CA, WHISPER = "Blinorot/ALARM-CA", "Blinorot/AL-Whisper-Instruct-R"
RATES = (8000, 16000, 24000, 44100)
RUNS = {
    "music_muq": "mini_muq",
    "speech_w2vbert_layer": "mini_w2vbert",
    "audio_sslam_layer": "mini_sslam",
    "content_whisper_batch": "mini_whisper",
    "alldataset_whisper_batch": "mini_whisper",
}
"""Runs of the published training scripts, and the miniature of the model of each."""
ROWS = 12
LARGER = {"nsynth": 24, "sonicmaster": 24, "audioset": 60}
"""Rows of the corpora of the smallest mixture (an optimizer step takes 32 clips), and of one that is read in part."""
COPIED = ("*.py", "*.sh", "*.toml", "*.txt", "*.md", "src", "examples", "scripts", "assets", "tests")
SPOKEN = 16
"""Training rows of the instruction sets."""
HEARD_TEXT = "what is number called"
"""Transcripts of every clip by the stand-in for speech recognition; every fourth spoken question is another one."""


@dataclass
class World:
    """The scratch folder: ``repo`` (the copy), ``hub`` (what the Hub serves), ``home`` (caches)."""

    folder: Path
    hub: HubServer
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        from datasets import disable_progress_bars

        self.repo = self.folder / "repo"
        self.data = self.repo / "data" / "datasets"
        disable_progress_bars()
        os.environ["ALARM_DATA_ROOT"] = str(self.data)  # for what is written from this process
        if not self.repo.is_dir():
            copy_repository(self.repo)

    def environment(self) -> dict[str, str]:
        """Environment of the commands: this Python, the local Hub, no other network, no GPU."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ALARM_", "HF_", "PYTHON"))}
        nowhere = "http://127.0.0.1:9"
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": self.hub.address,
            "GITHUB_RAW_ENDPOINT": self.hub.address,
            "GOOGLE_DRIVE_ENDPOINT": self.hub.address,
            "HF_HOME": str(self.folder / "home"),
            "HF_TOKEN": "hf_none",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "CUDA_VISIBLE_DEVICES": "",
            "WANDB_MODE": "offline",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def need(self, names: Sequence[str]) -> None:
        """Make what is named and not there."""
        for name in names:
            getattr(self, f"make_{name}")()

    def run(self, *command: str) -> None:
        """Run one of the project's programs in the copy. Raises ``RuntimeError`` with its last lines."""
        done = subprocess.run(
            [sys.executable, *command], cwd=self.repo, env=self.environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")

    # ------------------------------------------------------------------ corpora

    def make_raw(self) -> None:
        """Raw sets of all audio corpora: scenes' descriptions over tones, at several sampling rates."""
        for number, name in enumerate(_audio_corpora()):
            if not (self.data / "raw" / name / "dataset_dict.json").is_file():
                _save_raw(self.data / "raw" / name, corpus_rows(number, name))

    def make_raw_instructions(self) -> None:
        """Raw sets of the instruction sets, at 16 kHz."""
        from tests.support.tiny_instructions import save_questions

        sets = {
            "heysquad_human": {"train": _questions(SPOKEN), "validation": _questions(4, 100)},
            "instructs2s": {"train": _questions(SPOKEN, 200)},
        }
        for name, splits in sets.items():
            if not (self.data / "raw" / name).is_dir():
                save_questions(name, splits)

    def make_prompts(self) -> None:
        """Prompts of the audio corpora."""
        for number, name in enumerate(_audio_corpora()):
            folder = self.data / "raw_with_prompts" / f"{name}_with_prompts"
            if not folder.is_dir():
                _save(folder, {"train": _columns(corpus_rows(number, name), PROMPT_COLUMNS)})

    def make_responses(self) -> None:
        """Rephrased responses of the audio corpora."""
        for number, name in enumerate(_audio_corpora()):
            folder = self.data / "responses" / SHORT / f"{name}_rephrased_1536_{SHORT}_512"
            if not folder.is_dir():
                _save(folder, {"train": _columns(corpus_rows(number, name), RESPONSE_COLUMNS)})

    def make_instruction_responses(self) -> None:
        """Responses of the instruction sets, under the names that training reads."""
        sets = {
            "heysquad_human_filtered": {"train": _questions(SPOKEN), "validation": _questions(4, 100)},
            "instructs2s": {"train": _questions(SPOKEN, 200)},
        }
        raw = self.data / "raw" / "heysquad_human_filtered"
        if not _usable(raw):
            from tests.support.tiny_instructions import save_questions

            shutil.rmtree(raw, ignore_errors=True)
            save_questions("heysquad_human_filtered", sets["heysquad_human_filtered"])
        for name, splits in sets.items():
            folder = self.data / "responses" / SHORT / f"{name}_{SHORT}_512"
            if not _usable(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _save(folder, {split: [_answered(row) for row in rows] for split, rows in splits.items()})

    def make_splits(self) -> None:
        """Training and validation rows of the audio corpora."""
        for number, name in enumerate(_audio_corpora()):
            _save_indexes(self.data / "indexes" / name, len(corpus_rows(number, name)))

    def make_indexes(self) -> None:
        """Splits, and the same after the filter of clips."""
        self.make_splits()
        for number, name in enumerate(_audio_corpora()):
            _save_indexes(self.data / "indexes_filtered" / name, len(corpus_rows(number, name)))

    def make_upstream_singmos(self) -> None:
        """A corpus as it lies upstream."""
        from tests.support.upstream.sounds import singmos

        folder = self.folder / "upstream" / "singmos"
        if not folder.is_dir():
            singmos(folder)

    # ------------------------------------------------------------------ the Hub

    def make_hub(self) -> None:
        """The language model, the writer of prompts, and the speech recognition of the filter: all miniatures."""
        from tests.support.tiny_whisper import save_tiny_whisper

        for name in (LLM, WRITER):
            self.hub.serve_folder(name, REPO_ROOT / "assets" / "mini" / "llm")
        ear = self.folder / "hub" / "whisper"
        if not ear.is_dir():
            say_always(save_tiny_whisper(ear), HEARD_TEXT)
        self.hub.serve_folder("openai/whisper-large-v3", ear)

    def make_released(self) -> None:
        """The released corpora: prompts and responses of two corpora and of an instruction set, four splits."""
        folder = self.folder / "hub" / "ALARM-Corpora"
        if not folder.is_dir():
            rows = [
                _released(row, name)
                for number, name in enumerate(_audio_corpora())
                if name in ("esc50", "nsynth")
                for row in corpus_rows(number, name)
            ]
            rows += [_released({**row, "audio_description": row["question"], "prompt": row["context"]},
                               "heysquad_human_filtered") for row in _questions(SPOKEN)]  # fmt: skip
            parts = {"raw_train": rows[::2] + rows[1::4], "raw_validation": rows[3::4],
                     "train": rows[::2], "validation": rows[3::4]}  # fmt: skip
            _save_parquet(folder, parts)
        self.hub.serve_folder("Blinorot/ALARM-Corpora", folder)

    def make_heysquad_on_hub(self) -> None:
        """The data set of the published example, as the Hub has it: clips and questions."""
        from tests.support.tiny_corpus import wav_bytes

        folder = self.folder / "hub" / "HeySQuAD_human"
        if not folder.is_dir():
            rows = [
                {"audio": {"bytes": wav_bytes(1.0, number, 16000), "path": f"{number}.wav"},
                 "context": f"passage {number}", "question": f"question {number}?"} for number in range(6)
            ]  # fmt: skip
            _save_parquet(folder, {"train": rows, "validation": rows})
        self.hub.serve_folder("yijingwu/HeySQuAD_human", folder)

    def make_benchmarks_on_hub(self) -> None:
        """The recorded rows of the benchmarks behind the addresses of their files."""
        from tests.benchmarks.conversion.test_collect import put_on_server

        os.environ |= {name: self.hub.address for name in ("GITHUB_RAW_ENDPOINT", "GOOGLE_DRIVE_ENDPOINT")}
        for name in ("mmsu", "mmau", "mmar", "airbench"):
            given = self.folder / "upstream" / name
            shutil.rmtree(given, ignore_errors=True)
            given.mkdir(parents=True)
            stand_in = _Addresses(self.hub.address)
            put_on_server(name, given, stand_in)
            self.hub.files |= stand_in.files
            for (repo, _), files in stand_in.hub.items():
                self.hub.repos[repo] = {**self.hub.repos.get(repo, {}), **files}

    # ------------------------------------------------------------------ checkpoints

    def make_checkpoints(self) -> None:
        """A ``checkpoint-1`` of every run that the published scripts take adapters from."""
        self.need(["hub", "raw", "raw_instructions", "responses", "instruction_responses", "indexes"])
        for run, model in RUNS.items():
            self._checkpoint(run, model)

    def _checkpoint(self, run: str, model: str) -> Path:
        folder = self.repo / "saved" / SHORT / run
        if not (folder / "checkpoint-1").is_dir():
            self.run(
                "train.py", f"model={model}", "dataset=music_4b", "training_args=mini", f"model.llm={LLM}",
                "training_args.max_steps=1", "training_args.save_strategy=steps", "training_args.save_steps=1",
                "sample_generations=false", f"training_args.output_dir={folder}",
            )  # fmt: skip
        return folder / "checkpoint-1"

    def make_pth_adapters(self) -> None:
        """``data/pretrained_weights/{encoder}.pth``: state dicts of the adapters, names without prefix."""
        import torch
        from safetensors.torch import load_file

        folder = self.repo / "data" / "pretrained_weights"
        encoders = {"whisper": "alldataset_whisper_batch", "w2vbert": "speech_w2vbert_layer",
                    "sslam": "audio_sslam_layer", "muq": "music_muq"}  # fmt: skip
        if all((folder / f"{name}.pth").is_file() for name in encoders):
            return
        self.make_checkpoints()
        folder.mkdir(parents=True, exist_ok=True)
        for name, run in encoders.items():
            tensors = load_file(str(self._checkpoint(run, RUNS[run]) / "model.safetensors"))
            mark = f".{name}."
            own = {
                key.partition(mark)[2]: value for key, value in tensors.items() if "adapter" in key and mark in key
            }
            torch.save(own, folder / f"{name}.pth")

    def make_released_checkpoints(self) -> None:
        """ALARM-CA and AL-Whisper-Instruct-R under their ids on the Hub: miniatures, what was trained."""
        self.need(["hub", "raw", "raw_instructions", "responses", "instruction_responses", "indexes"])
        self.hub.serve_folder(CA, self._checkpoint("alldataset_alarm_ca", "mini_alarm_ca"))
        self.hub.serve_folder(WHISPER, self._checkpoint("content_whisper_batch", "mini_whisper"))

    # ------------------------------------------------------------------ benchmarks

    def make_mmsu(self) -> None:
        """The converted benchmark."""
        if not (self.data / "raw" / "mmsu" / "dataset_dict.json").is_file():
            from tests.benchmarks.conversion.test_collect import lay_out

            given = self.folder / "upstream" / "mmsu_folder"
            given.mkdir(parents=True, exist_ok=True)
            lay_out("mmsu", given)
            program = "scripts/benchmarks/dataset_collection/mmsu.py"
            self.run(program, "--from-dir", str(given), "--any-edition")

    def make_mmsu_answers(self) -> None:
        """Answers of two runs on it: the first choice of every row."""
        from datasets import load_from_disk

        self.make_mmsu()
        rows = load_from_disk(str(self.data / "raw" / "mmsu"))["test"].remove_columns("audio")
        answers = [{**row, "llm_answer": row["choices"][0], "response": "<answer>0</answer>"} for row in rows]
        for name in (CA, f"{CA}_{WHISPER}_seed_1"):
            folder = self.data / "generated" / SHORT / f"mmsu_{name.replace('/', '_')}_16384_8192"
            if not (folder / "dataset_dict.json").is_file():
                _save(folder, {"test": answers})

    def make_mmsu_metadata(self) -> None:
        """The answers of ALARM-CA put next to the benchmark's metadata."""
        run = self.data / "generated" / SHORT / "mmsu_Blinorot_ALARM-CA_16384_8192"
        if not (run / "metadata" / "test_metadata.json").is_file():
            self.run("scripts/benchmarks/create_answer_json.py", "--run", str(run))


def _questions(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of an instruction set; every fourth asks something else than is heard."""
    from tests.support.tiny_instructions import make_questions

    rows = make_questions(count, first)
    for row in rows[::4]:
        row["question"] = "who sings here at night?"
    return rows


def say_always(folder: Path, text: str) -> None:
    """Set the weights of the tiny Whisper in ``folder`` so that it transcribes every clip as ``text``.

    Each position of the decoder points to the token that follows there; the layers add nothing.
    """
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(str(folder))
    tokenizer = WhisperProcessor.from_pretrained(str(folder)).tokenizer
    tokens = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    decoder = model.model.decoder
    with torch.no_grad():
        table = decoder.embed_tokens.weight
        table -= table.mean(dim=1, keepdim=True)
        table /= table.norm(dim=1, keepdim=True)
        for layer in decoder.layers:
            for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                part.weight.zero_()
                part.bias.zero_()
        decoder.layer_norm.weight.fill_(1)
        decoder.layer_norm.bias.zero_()
        for place, token in enumerate(tokens):
            decoder.embed_positions.weight[3 + place] = 50 * table[token]  # after language, task and "no timestamps"
    model.save_pretrained(str(folder))


class _Addresses:
    """Target of :func:`put_on_server`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.hub: dict[tuple[str, str], dict[str, bytes]] = {}
        self.files: dict[str, bytes] = {}


def copy_repository(target: Path) -> None:
    """Copy what users have of the repository; nothing is written outside ``target``."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for pattern in COPIED:
        for path in sorted(REPO_ROOT.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, target / path.name, ignore=ignore)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / path.name)


PROMPT_COLUMNS = ("dataset_index", "audio_description", "prompt")
RESPONSE_COLUMNS = (*PROMPT_COLUMNS, "llm_answer_with_context", "llm_answer_no_context")
RAW_COLUMNS = ("audio", "audio_description", "unique_id_1", "unique_id_2", "dataset_index", "duration")
_rows: dict[str, list[dict[str, Any]]] = {}


def _audio_corpora() -> list[str]:
    import yaml

    table = yaml.safe_load((REPO_ROOT / "src/configs/corpora/alarm.yaml").read_text(encoding="utf-8"))
    return [name for group in table["groups"].values() for name in group]


def corpus_rows(number: int, name: str) -> list[dict[str, Any]]:
    """Rows of a corpus with all columns, at one of four sampling rates."""
    from tests.support.tiny_corpus import make_rows, wav_bytes

    if name not in _rows:
        rows = make_rows(LARGER.get(name, ROWS), seed=number)
        for row in rows:
            clip = wav_bytes(row["duration"], number * 1000 + row["dataset_index"], RATES[number % len(RATES)])
            row |= {"audio": {"bytes": clip, "path": f"{row['dataset_index']}.wav"}, "unique_id_1": name}
        _rows[name] = rows
    return _rows[name]


def _columns(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in columns} for row in rows]


def _save(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(str(folder))


def _with_audio(rows: Sequence[dict[str, Any]]) -> Any:
    from datasets import Audio, Dataset, Features

    data = Dataset.from_list(list(rows))
    return data.cast(Features({**data.features, "audio": Audio(decode=False)})).cast_column("audio", Audio())


def _save_raw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    from datasets import DatasetDict

    DatasetDict({"train": _with_audio(_columns(rows, RAW_COLUMNS))}).save_to_disk(str(folder))


def _save_parquet(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    from datasets import Dataset

    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        data = _with_audio(rows) if "audio" in rows[0] else Dataset.from_list(rows)
        data.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in splits)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _save_indexes(folder: Path, count: int) -> None:
    import numpy as np

    if (folder / "train_indexes.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    held_out = set(range(0, count, 6))
    np.save(folder / "train_indexes.npy", np.array([i for i in range(count) if i not in held_out]))
    np.save(folder / "validation_indexes.npy", np.array(sorted(held_out)))


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    answer = "i hear this.\n</think>\n\nit is so."
    kept = {name: row[name] for name in ("dataset_index", "question", "context", "id")}
    return {**kept, "llm_answer_with_context": answer, "llm_answer_no_context": answer}


def _released(row: dict[str, Any], name: str) -> dict[str, Any]:
    answer = "i hear this.\n</think>\n\nit is so."
    return {
        "dataset_name": name,
        "context": row["prompt"],
        "audio_description": row["audio_description"],
        "llm_answer_with_context": answer,
        "llm_answer_no_context": "",
        "unique_id_1": row["unique_id_1"],
        "unique_id_2": row["unique_id_2"],
        "dataset_index": row["dataset_index"],
    }


def _usable(folder: Path) -> bool:
    """Whether a saved set is there and has rows."""
    if not (folder / "dataset_dict.json").is_file():
        return False
    splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    infos = (folder / split / "dataset_info.json" for split in splits)
    from datasets import load_from_disk

    return all(info.is_file() for info in infos) and len(load_from_disk(str(folder))[splits[0]]) > 0
