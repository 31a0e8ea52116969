"""Runs whose machine fails or that meet another run: lost devices, full disks, no network, one folder for two.

The rows P3 to P6 and P8 of the list of inputs that were handled wrongly.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from src.audio.each_clip import each_clip
from src.audio.waveform import Waveform
from src.benchmarks.run_loader import open_splits
from src.common import lock
from src.common.cli import run_cli
from src.common.config import compose
from src.common.errors import MachineError, UserError, explain, machine_fault
from src.common.existing import set_problem
from src.common.lock import holder_file, lock_folder, locked_folders
from src.common.paths import REPO_ROOT, indexes_dir, indexes_filtered_dir, merged_dir, raw_dir, responses_dir
from src.corpus.collect.build import CollectSettings, collect
from src.corpus.collect.pool import run_all
from src.corpus.postprocess.merge import MergeSettings, Published, merge_corpus
from src.corpus.postprocess.merged_set import merge_to_one_set
from src.corpus.postprocess.split import SplitSettings, create_split
from src.corpus.postprocess.transcribe import Clips, transcribe_rows
from src.corpus.targets.llm_settings import PromptSettings, work_dir
from src.corpus.targets.prompts import create_prompts
from src.dataset.row_log import SHARDS, ResultLog, StageLog
from src.dataset.tables import open_split
from src.generation.job import Job
from src.generation.run import generate
from src.generation.task_types import FREE
from src.generation.worker import Models
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.model.audio_embedder import build_feature_extractor
from src.model.checkpoints import LoadedEmbedder, save_checkpoint
from src.training.resume import find_resume
from tests.corpus.targets.fakes import FakeEngine
from tests.generation.conftest import free_rows, save_set
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.serving.client import running
from tests.serving.fakes import FakeEnsemble
from tests.serving.sounds import chat, encoded, input_audio
from tests.support.tiny_corpus import make_rows, save_raw
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config
from tests.support.toy_corpus import RECIPE, write_toy

LOST = [
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("HIP error: hipErrorIllegalAddress"),
    RuntimeError("MPS backend failed to commit the command buffer"),
    torch.AcceleratorError("the accelerator has gone"),
]
OTHERS = [RuntimeError("too odd"), ValueError("a shape that does not fit"), FileNotFoundError(2, "no", "a.wav")]


def clip(samples: int) -> Waveform:
    return Waveform(torch.zeros(1, samples), 16000)


# P5: every row after a lost device became unencodable_audio and counted as finished


@pytest.mark.parametrize("error", LOST, ids=str)
def test_p5_a_lost_device_is_no_clips_fault(error: Exception) -> None:
    def run(clips: Sequence[Waveform]) -> list[int]:
        raise error

    assert machine_fault(error) == "device"
    with pytest.raises(MachineError, match="start again"):
        list(each_clip(run, [("a", clip(10)), ("b", clip(20))]))


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_p5_any_other_error_costs_the_one_clip(error: Exception) -> None:
    def run(clips: Sequence[Waveform]) -> list[int]:
        if any(each.samples.shape[1] == 300 for each in clips):
            raise error
        return [each.samples.shape[1] for each in clips]

    found = dict(each_clip(run, [("a", clip(100)), ("b", clip(300)), ("c", clip(500))]))
    assert found == {"a": 100, "b": error, "c": 500}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory"), MemoryError()]
)
def test_p5_memory_is_the_clips_fault_only_if_a_second_of_silence_fits(error: Exception) -> None:
    room = 50_000

    def run(clips: Sequence[Waveform]) -> list[int]:
        if sum(each.samples.shape[1] for each in clips) > room:
            raise error
        return [each.samples.shape[1] for each in clips]

    items = [("a", clip(30_000)), ("huge", clip(90_000)), ("b", clip(40_000))]
    assert dict(each_clip(run, items)) == {"a": 30_000, "huge": error, "b": 40_000}
    room = 10_000
    with pytest.raises(MachineError, match="no memory is left"):
        list(each_clip(run, items))


def test_p5_a_broken_disk_is_no_clips_fault(monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    def broken(self: Any, ref: Any) -> Waveform:
        raise OSError(errno.EIO, "Input/output error", "/data/a.arrow")

    monkeypatch.setattr(Clips, "load", broken)
    with pytest.raises(OSError, match="Input/output") as caught:
        list(transcribe_rows(Clips("set"), lambda clips: [""] * len(clips), [[("train", 0)]]))
    assert "/data/a.arrow: the disk cannot be read" in str(explain(caught.value))
    with pytest.raises(MachineError):
        list(each_clip(lambda clips: broken(None, None), [("a", clip(10))]))  # type: ignore[arg-type, return-value]


class _MortalEars(EmbedderEnsemble):
    """Audio embedders on a device that is lost after some clips."""

    left = 5

    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        """As before, until it is lost."""
        type(self).left -= len(waveforms)
        if self.left < 0:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return super().encode(waveforms)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedEmbedder:
    """An audio embedder with random weights, saved as a checkpoint."""
    llm = save_tiny_llm(tmp_path_factory.mktemp("processes") / "tiny-llm")
    config = model_config("mini_whisper", f"model.llm={llm}")
    audio_embedder = mini_audio_embedder("mini_whisper").requires_grad_(False)
    folder = save_checkpoint(llm.parent / "checkpoint", audio_embedder, config)
    return LoadedEmbedder(audio_embedder, build_feature_extractor(config.config), config, str(folder))


def answer(loaded: LoadedEmbedder, ensemble: type[EmbedderEnsemble], *overrides: str) -> int:
    """A scripted run over the set ``sounds``."""

    def start(job: Job) -> Models:
        backend = ScriptedBackend(lambda prompt: "i hear it.\n</think>\n\na kick.", width=192)
        return Models(Engine(backend, CharTokenizer(), 2, 1), ensemble([loaded]))

    given = ["dataset.name=sounds", "prompts=mini", "batch_size=2", f"checkpoint_name={loaded.name}", *overrides]
    return generate(compose("generate", given), FREE, start)


def shards(root: Path) -> dict[str, dict[str, Any]]:
    """Records of the one run below the data root."""
    (folder,) = (root / "generated" / "tiny-llm").glob(f"sounds_*/{SHARDS}")
    lines = [line for part in folder.glob("part-*.jsonl") for line in part.read_text().splitlines()]
    return {record["key"]: record for record in map(json.loads, lines)}


def test_p5_a_run_with_a_lost_device_ends_in_one_line_and_its_rows_are_done_again(
    data_root: Path, loaded: LoadedEmbedder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_set("sounds", {"train": free_rows(12)})
    monkeypatch.setattr(_MortalEars, "left", 7)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: answer(loaded, _MortalEars))
    assert ended.value.code == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and "the device failed" in told[0] and "unspecified launch failure" in told[0]
    before = shards(data_root)
    assert len(before) < 12 and all(record["status"] == "ok" for record in before.values())
    assert answer(loaded, EmbedderEnsemble) == 0
    assert len(shards(data_root)) == 12
    (saved,) = (data_root / "generated" / "tiny-llm").glob("sounds_*/dataset_dict.json")
    assert set(load_from_disk(str(saved.parent))["train"]["status"]) == {"ok"}


class _LostEnsemble(FakeEnsemble):
    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        """Encodes two batches."""
        if len(self.batches) == 2:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().encode(waveforms)


def test_p5_a_server_with_a_lost_device_says_so_and_is_not_healthy() -> None:
    bodies = [chat(input_audio(encoded(seconds=seconds))) for seconds in (0.5, 0.6, 0.7, 0.8)]
    with running(ensembles={"m": _LostEnsemble()}) as (url, _), httpx.Client(base_url=url, timeout=20) as client:
        answers = [client.post("/v1/chat/completions", json=body) for body in bodies]
        assert [each.status_code for each in answers] == [200, 200, 503, 503]
        assert "device failed" in answers[2].json()["error"]["message"]
        assert client.get("/health").status_code == 503


# P8: a full or read-only disk and a network without an answer ended in tracebacks


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/a.jsonl"), "/out/a.jsonl: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/out"), "/out: the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/b"), "/out/b: permission denied"),
        (FileExistsError(errno.EEXIST, "File exists", "/out/c"), "/out/c: a file is where a folder is needed"),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/c/run.json"),
            "/c/run.json: a part of this path: a file is where a folder is needed",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/out/d"), "/out/d: a folder is where a file is needed"),
        (OSError(errno.ENOSPC, "Error writing bytes to file"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "the disk is full"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "no answer from the network"),
        (ConnectionRefusedError(111, "Connection refused"), "no answer from the network"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "no answer from the network"),
    ],
    ids=str,
)
def test_p8_faults_of_the_machine_are_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_cli(fail)
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.startswith("error: ") and told.count("\n") == 1 and said in told


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(2, "no such file", "a"), AssertionError()])
def test_p8_faults_of_the_program_keep_their_traceback(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        run_cli(fail)


def test_p8_names_that_the_file_system_does_not_take_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output folder that is a file, below a file, too long or a link in a circle ended in a traceback."""
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    names = {
        "file": "is not a folder; remove it", "file/run": "a part of this path: a file is where a folder is needed",
        "x" * 300: "is longer than",
        "circle": "is not a folder", "circle/run": "go in a circle", "nowhere": "is not a folder",
    }  # fmt: skip
    for name, said in names.items():
        with pytest.raises(SystemExit) as ended:
            run_cli(functools.partial(_lock_and_release, tmp_path / name))
        told = capsys.readouterr().err
        assert ended.value.code == 1 and told.startswith("error: ") and told.count("\n") == 1
        assert str(tmp_path) in told and said in told, told


def _lock_and_release(folder: Path) -> None:
    with locked_folders([folder]):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the loader that was not made
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOSYS, errno.ENOENT])
def test_m3_worker_processes_without_shared_memory_are_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full ``/dev/shm`` was "the disk is full; choose another folder"; a missing one was a traceback."""
    from multiprocessing import synchronize

    def none(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(synchronize._multiprocessing, "SemLock", none)  # type: ignore[attr-defined]
    for start in (lambda: list(run_all(str, [1], 1, str)), lambda: list(DataLoader([1], num_workers=1))):  # type: ignore[arg-type]
        with pytest.raises(SystemExit) as ended:
            run_cli(lambda start=start: len(start()))  # type: ignore[misc]
        told = capsys.readouterr().err
        assert ended.value.code == 1 and told.count("\n") == 1
        assert told.startswith("error: /dev/shm: worker processes need it") and "--jobs 0" in told


SAVE = {
    "weights": "from safetensors.torch import save_file; save_file({'a': torch.ones(99999)}, 'a.safetensors')",
    "optimizer": "torch.save({'a': torch.ones(99999)}, 'a.pt')",
    "set": "from datasets import Dataset; Dataset.from_dict({'a': ['x' * 99] * 9999}).save_to_disk('a')",
    "records": "import pathlib; src.common.files.write_json(pathlib.Path('a'), 'x' * 99999)",
}


@pytest.mark.slow  # one process with torch and datasets for each library
def test_p8_what_the_libraries_raise_at_a_limit_of_file_size_is_one_line(tmp_path: Path) -> None:
    program = (
        "import os, resource, sys, torch\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from src.common.cli import run_cli\n"
        "import safetensors.torch, datasets, src.common.run_record\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "for line in sys.argv[2:]:\n"
        "    if os.fork() == 0:\n"
        "        run_cli(lambda: exec(line))\n"
        "    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(REPO_ROOT), *SAVE.values()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1"] * len(SAVE), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == len(SAVE) and "Traceback" not in done.stderr


def test_p8_a_full_disk_ends_a_generation_run_in_one_line(
    data_root: Path, loaded: LoadedEmbedder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_set("sounds", {"train": free_rows(4)})

    def full(self: ResultLog, record: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResultLog, "append", full)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: answer(loaded, EmbedderEnsemble))
    assert ended.value.code == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert (
        told.startswith(f"error: {data_root / 'generated' / 'tiny-llm' / 'sounds_'}") and "the disk is full" in told
    )


# P3: two runs with one output both wrote


@contextmanager
def another_process(folder: Path, seconds: float, wrote: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder for a while and writes a file in the end."""
    program = (
        "import sys, time; from pathlib import Path; from src.common.lock import locked_folders\n"
        "folder = Path(sys.argv[1])\n"
        "with locked_folders([folder]):\n"
        "    print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
        "    if sys.argv[3]: (folder / sys.argv[3]).write_text('{}')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(seconds), wrote],
        cwd=REPO_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_p3_who_holds_a_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    folder = tmp_path / "out"
    with another_process(folder, 60) as process:
        with pytest.raises(UserError, match=rf"another run is writing here \(process {process.pid} on .*since 20"):
            lock_folder(folder)
        process.kill()
        process.wait()
    lock_folder(folder).close()  # what a killed run has left behind holds nothing
    assert not holder_file(folder).exists() and folder.is_dir()


def test_p3_a_folder_that_was_removed_or_exchanged_while_waiting_is_held_anew(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = lock_folder(folder)
    found: list[lock.FolderLock] = []
    waiting = threading.Thread(target=lambda: found.append(lock_folder(folder)))
    waiting.start()
    time.sleep(0.3)
    folder.rename(tmp_path / "old")
    first.close()
    waiting.join(10)
    (second,) = found
    assert second.descriptor is not None
    assert os.fstat(second.descriptor).st_ino == folder.stat().st_ino != (tmp_path / "old").stat().st_ino
    second.close()


def test_p3_an_overwriting_run_that_waited_keeps_what_the_first_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    ResultLog(folder, {"seed": 0}).close()
    first = ResultLog(folder, {"seed": 1}, overwrite=True)
    outcome: list[BaseException] = []

    def second() -> None:
        try:
            ResultLog(folder, {"seed": 2}, overwrite=True)
        except UserError as error:
            outcome.append(error)

    waiting = threading.Thread(target=second)
    waiting.start()
    time.sleep(0.3)
    first.append({"key": "a"})
    first.close()
    waiting.join(10)
    assert "other settings (seed)" in str(outcome[0])
    with ResultLog(folder, {"seed": 1}) as shards:
        assert list(shards.read()) == ["a"]
    with ResultLog(folder, {"seed": 2}, overwrite=True) as shards:  # alone, it replaces them
        assert not shards.read()


def test_p3_waiting_for_a_run_that_writes_nothing_leaves_the_choice_to_overwrite(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for wrote in ("", "run.json"):
        with another_process(folder, 0.5, wrote), locked_folders([folder]) as changed:
            assert changed == bool(wrote)


def test_p3_two_collections_of_one_set(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    write_toy(tmp_path, 3)
    settings = CollectSettings(jobs=0, from_dir=tmp_path)
    with another_process(raw_dir("toy"), 60) as process, pytest.raises(UserError, match=f"process {process.pid}"):
        collect(RECIPE, settings)
    assert collect(RECIPE, settings)["rows"] == {"train": 3}
    assert sorted(path.name for path in raw_dir("toy").parent.iterdir()) == ["toy"]


def _create_prompts() -> Any:
    return create_prompts(["esc50"], PromptSettings(llm="org/tiny", prompts="mini"), lambda llm: FakeEngine(no_reply))


def _merge() -> Any:
    return merge_corpus("esc50", Published(published_splits()), MergeSettings("tiny"))


WRITERS: dict[str, tuple[Callable[[], Path], Callable[[], Any]]] = {
    "create_prompts_offline.py": (lambda: work_dir("esc50"), _create_prompts),
    "create_train_val_split.py": (lambda: indexes_dir("esc50"), lambda: create_split("esc50", SplitSettings())),
    "merge_with_online_alarm_corpora.py": (lambda: indexes_filtered_dir("esc50"), _merge),
    "merge_with_online_alarm_corpora.py, prompts": (lambda: work_dir("esc50"), _merge),
    "merge_with_online_alarm_corpora.py, responses": (
        lambda: responses_dir("tiny", "esc50_rephrased_1536_tiny_512"), _merge,
    ),
    "merge_with_online_alarm_corpora.py --save-name": (
        lambda: merged_dir("one"),
        lambda: merge_to_one_set("one", Published(published_splits()), filtered=True),
    ),
}  # fmt: skip
"""A folder that each command writes, and the command."""


def published_splits() -> dict[str, Any]:
    names = ("audio_description", "unique_id_1", "unique_id_2")
    texts = {"dataset_name": "esc50", "context": "?", "llm_answer_with_context": "!", "llm_answer_no_context": ""}
    rows = [{name: row[name] for name in names} | texts for row in make_rows(3)]
    return {"train": Dataset.from_list(rows[:2]), "validation": Dataset.from_list(rows[2:])}


def no_reply(prompt: str, request: Any) -> str:
    raise AssertionError("another run has this work")


@pytest.mark.parametrize("command", WRITERS)
def test_p3_two_of_one_command_on_a_corpus(command: str, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    save_raw(make_rows(3), "esc50")
    find_folder, run = WRITERS[command]
    before = {path for path in data_root.rglob("*") if path.is_file()}
    with another_process(find_folder(), 60) as process:
        with pytest.raises(UserError, match=rf"another run is writing here \(process {process.pid} on .*since 20"):
            run()
        holder = {holder_file(find_folder())}
        assert {path for path in data_root.rglob("*") if path.is_file()} == before | holder, "nothing is written"
    if "prompts" not in command or "merge" in command:
        assert run()


def test_p3_two_trainings_with_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.training.run import run_training

    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    output = tmp_path / "run"
    given = ["model=mini_whisper", "dataset=mini", "training_args=mini", f"training_args.output_dir={output}"]
    with another_process(output, 60) as process, pytest.raises(UserError, match=f"process {process.pid} on"):
        run_training(compose("train", given))


def test_p6_a_folder_replaced_by_a_killed_run_is_restored_before_it_is_locked(tmp_path: Path) -> None:
    """P6, file systems without exchange: the lock made an empty folder, and the set under its other name was lost."""
    folder, old = tmp_path / "name", tmp_path / ".name.old"
    old.mkdir()
    (old / "rows.txt").write_text("all")
    lock_folder(folder).close()
    assert (folder / "rows.txt").read_text() == "all" and not old.exists()

    folder.rename(old)  # now by a process that is alive and holds the lock: its new folder is about to follow
    with old_folder_locked(old):
        lock_folder(folder).close()
    assert old.exists() and not any(folder.iterdir())


@contextmanager
def old_folder_locked(old: Path) -> Iterator[None]:
    descriptor = os.open(old, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


# P4: records and LoRA files of the newest checkpoint were not looked at, so that a torn one ended every start


def test_p4_every_file_of_a_checkpoint_is_looked_at(tmp_path: Path) -> None:
    checkpoint = {
        "alarm_config.json": b'{"model": {"lora": {"r": 4}}}',
        "trainer_state.json": b'{"global_step": 6}',
        "rows_done.json": b'{"epoch": 0, "parts": []}',
        "lora/adapter_config.json": b'{"r": 4}',
    }
    for number in (3, 6):
        folder = tmp_path / f"checkpoint-{number}"
        (folder / "lora").mkdir(parents=True)
        for name, content in checkpoint.items():
            (folder / name).write_bytes(content)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"a": torch.ones(9)}, folder / name)
        for name in ("model.safetensors", "lora/adapter_model.safetensors"):
            save_file({"a": torch.ones(9)}, folder / name)
    newest, older = tmp_path / "checkpoint-6", tmp_path / "checkpoint-3"
    files = [path for path in newest.rglob("*") if path.is_file()]
    assert len(files) == 9 and find_resume(True, tmp_path) == newest
    for path in files:
        whole = path.read_bytes()
        for torn in (b"", whole[: len(whole) // 2], whole[:-3], bytes(len(whole))):
            path.write_bytes(torn)
            assert find_resume(True, tmp_path) == older, (path.name, len(torn))
        path.write_bytes(whole)
    assert find_resume(True, tmp_path) == newest


# P6: row logs whose files are damaged in other ways than by a cut


@pytest.mark.parametrize("settings", [b"null", b"[]", b"[1]", b"5", b'"x"', b"", b"{", b"\xff", b"\0\0"])
def test_p6_a_log_of_unknown_settings_is_not_continued(settings: bytes, tmp_path: Path) -> None:
    """``null`` let results of any settings be mixed; other values ended in tracebacks."""
    with ResultLog(tmp_path / "out", {"seed": 1}) as results:
        results.append({"key": "a"})
    (tmp_path / "out/.shards/settings.json").write_bytes(settings)
    with pytest.raises(UserError, match=r"holds results of other settings \(seed\); give overwrite=true"):
        ResultLog(tmp_path / "out", {"seed": 1})
    StageLog(tmp_path / "stage", np.arange(2), {"seed": 1}).close()
    (tmp_path / "stage/settings.json").write_bytes(settings)
    with pytest.raises(UserError, match="holds results of other settings"):
        StageLog(tmp_path / "stage", np.arange(2), {"seed": 1})


ODD_LINES = [
    b"[" * 100_000, b"\0" * 40, b"\xff\xfe", b"null", b"5", b"[]", b"{}", b'{"key": [1], "dataset_index": "0"}',
    b'{"dataset_index": 99999999999999999999, "input": 1, "ok": true}',
    b'{"dataset_index": 0, "input": 99999999999999999999, "ok": true}',
]  # fmt: skip


@pytest.mark.parametrize("line", ODD_LINES, ids=range(len(ODD_LINES)))
def test_p6_a_line_that_is_no_record_is_named_or_done_again(line: bytes, tmp_path: Path) -> None:
    with ResultLog(tmp_path / "out", {}) as results:
        results.append({"key": "a"})
    log = StageLog(tmp_path / "stage", np.arange(2), {})
    log.append(0, 7, True)
    log.close()
    for part in tmp_path.rglob("part-00000.jsonl"):
        part.write_bytes(line + b"\n" + part.read_bytes())
    with ResultLog(tmp_path / "out", {}) as results:
        assert list(results.read()) == ["a"]
    with pytest.raises(
        UserError, match="part-00000.jsonl, line 1: not a record of this stage .*; delete the line"
    ) as told:
        StageLog(tmp_path / "stage", np.arange(2), {})
    assert "\n" not in str(told.value)


def test_p6_a_saved_set_that_is_cut_between_two_batches_is_not_whole(tmp_path: Path) -> None:
    """The library returns the rows in front of the cut, and the set counted as complete."""
    rows = Dataset.from_list([{"dataset_index": number, "text": "x" * 50} for number in range(40)])
    DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(tmp_path)
    (path,) = (tmp_path / "train").glob("*.arrow")
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    whole = path.read_bytes()
    assert set_problem(tmp_path) is None and len(open_split(tmp_path, "train", "rows")) == 40
    read_by_the_library = 0
    for size in range(0, len(whole), 4):
        path.write_bytes(whole[:size])
        assert set_problem(tmp_path), size
        with pytest.raises(UserError, match="cut|not a saved data set") as told:
            open_split(tmp_path, "train", "rows")
        assert "\n" not in str(told.value)
        with pytest.raises(UserError, match="no saved data set at"):
            open_splits(tmp_path)
        with suppress(Exception):
            read_by_the_library += bool(Dataset.from_file(str(path)))
    assert read_by_the_library, "some cuts are seen only by the missing end"
    path.write_bytes(whole)
    for name in ("dataset_dict.json", "train/state.json", "train/dataset_info.json"):
        before = (tmp_path / name).read_bytes()
        for damaged in (b"", b"null", b'{"splits": 5}', b'{"splits": [1]}', b'{"_data_files": [{"filename": 5}]}'):
            (tmp_path / name).write_bytes(damaged)
            assert set_problem(tmp_path), (name, damaged)
        (tmp_path / name).write_bytes(before)
    assert set_problem(tmp_path) is None
