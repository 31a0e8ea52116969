"""Runs that were killed half way, one of each command with a row log; recorded in ``tests/reference/begun_runs``.

``python -m tests.support.begun_runs`` records them with the code of this checkout. They were recorded once, before
the row logs became one module, and are kept as they are: runs that users began then must continue.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from datasets import Dataset, DatasetDict, load_from_disk

from src.common.config import compose
from src.common.paths import REPO_ROOT, data_root, prompts_dir, raw_dir, responses_dir
from src.corpus.postprocess.asr_filter import AsrLimits, filter_by_asr
from src.corpus.postprocess.transcribe import AsrSettings, Transcript
from src.corpus.targets.instructions import generate_instruction_responses
from src.corpus.targets.llm_settings import AnswerSettings, PromptSettings, ResponseSettings
from src.corpus.targets.prompts import create_prompts
from src.corpus.targets.responses import generate_responses
from src.generation.run import generate
from src.generation.task_types import FREE
from src.generation.worker import Models
from src.inference.engine import Engine
from src.inference.types import Request
from src.prompts.reasoning import THINKING
from tests.corpus.targets.fakes import FakeEngine, Killed, is_rephrase, response_in, save_prompts
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.support.tiny_instructions import make_questions, save_questions
from tests.support.tiny_llm import save_tiny_llm

RECORDED = REPO_ROOT / "tests" / "reference" / "begun_runs"
SOUNDS, DESCRIBED, PROMPTED, ASKED, SPOKEN = "sounds", "esc50", "gtzan", "instructs2s", "heysquad_human"
TORN = b'{"dataset_index": 9, "inp'
Outcome = tuple[list[list[Any]], Any]
"""Requests that a command made, each with its seed, and the rows that it saved."""


@contextmanager
def place(folder: Path) -> Iterator[None]:
    """A working folder with a language model ``tiny-llm``; data sets are below ``datasets`` in it."""
    before = Path.cwd()
    with ExitStack() as stack:
        stack.callback(os.chdir, before)
        os.chdir(folder)
        save_tiny_llm(Path("tiny-llm"))
        stack.enter_context(patch.dict(os.environ, {"ALARM_DATA_ROOT": str(folder / "datasets")}))
        # random weights may differ between versions of torch
        stack.enter_context(patch("src.generation.job.file_digests", lambda *_: {"model.safetensors": "recorded"}))
        yield


def save_inputs() -> None:
    """The sets that the runs read."""
    texts = {"audio_description": [f"|sound {row} – 音|" for row in range(6)]}
    table = {"dataset_index": list(range(6)), **texts}
    asked = {**table, "prompt": [f"what is {row}?" for row in range(6)]}
    DatasetDict({"train": Dataset.from_dict(asked)}).save_to_disk(str(raw_dir(SOUNDS)))
    DatasetDict({"train": Dataset.from_dict(table)}).save_to_disk(str(raw_dir(DESCRIBED)))
    save_prompts(PROMPTED, 6)
    save_questions(ASKED, {"train": make_questions(3)})
    save_questions(SPOKEN, {"train": make_questions(3)})


def run_generation(die_after: int | None = None) -> Outcome:
    """``generate_vllm.py`` over descriptions."""
    seen: list[list[Any]] = []

    def script(prompt: str) -> str:
        if die_after is not None and len(seen) >= die_after:
            raise KeyboardInterrupt  # any other exception would be the row's own
        seen.append([prompt])
        return f"a sound – 音.\n</think>\n\nit is {prompt[-60:]!r}."

    keys = [f"dataset.name={SOUNDS}", "prompts=mini", "batch_size=1", "seed=3", "model.llm=tiny-llm"]
    keys += ["checkpoint_name=null", "audio_input=description"]
    core = ScriptedBackend(script, width=192)
    with suppress(KeyboardInterrupt):
        generate(compose("generate", keys), FREE, lambda job: Models(Engine(core, CharTokenizer(), 4, 1), None))
    calls = [[request[0], call.seed] for request, call in zip(seen, core.calls, strict=False)]
    folders = list((data_root() / "generated" / "tiny-llm").glob(f"{SOUNDS}_*"))
    return calls, _rows(folders[0], left_out=("seconds",))


def _lists(prompt: str, request: Request) -> str:
    """Writes three prompts and calls the second one bad; every third seed writes none."""
    user = prompt.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    about, _, rest = user.removeprefix("<start_audio>").partition("<end_audio>\n\n")
    if "mark every prompt" in prompt:
        verdicts = [f"{line.split('.')[0]}. {'bad' if 'wrong' in line else 'good'}" for line in rest.splitlines()]
        return "hm.\n</think>\n\n<answer>\n" + "\n".join(verdicts) + "\n</answer>"
    if (request.seed or 0) % 3 == 0:
        return "i cannot."
    return f"hm.\n</think>\n\n<answer>1. A {about} {rest}\n2. wrong {about}\n3. C {about} {rest}</answer>"


def _answers(prompt: str, request: Request) -> str:
    """Answers, rewrites, and as a checker finds a leak for every third seed."""
    if is_rephrase(prompt):
        text = response_in(prompt).replace("the description mentions", "i hear")
        return f"easy.\n</think>\n\n<answer>\n{text}\n</answer>"
    if "<response>" in prompt:
        return "YES" if (request.seed or 0) % 3 == 0 else "NO"
    about = prompt.partition("<start_audio>[")[2].partition("<end_audio>")[0]
    return f"the description mentions {about}.\n</think>\n\nit is {(request.seed or 0) % 1000}."


def _echo(prompt: str, request: Request) -> str:
    return f"{request.seed}\n</think>\n\n[{prompt.partition('user')[2][:40]}]"


def run_prompts(die_after: int | None = None) -> Outcome:
    """``create_prompts_offline.py``."""
    settings = PromptSettings(llm="org/tiny", prompts="mini", max_tokens=64)
    return _run(
        lambda start: create_prompts([DESCRIBED], settings, start_engine=start),
        _lists, die_after, prompts_dir(DESCRIBED),
    )  # fmt: skip


def run_responses(die_after: int | None = None) -> Outcome:
    """``generate_responses.py`` with a checker."""
    settings = ResponseSettings(
        llm="org/tiny", prompts="mini", max_tokens=64, max_thinking_tokens=16, checker_llm="org/checker"
    )
    plain, final = f"{PROMPTED}_tiny_64", f"{PROMPTED}_rephrased_16_filtered_tiny_64"
    return _run(
        lambda start: generate_responses([PROMPTED], settings, start_engine=start, reasoning=THINKING),
        _answers, die_after, responses_dir("tiny", plain), responses_dir("tiny", final),
    )  # fmt: skip


def run_instructions(die_after: int | None = None) -> Outcome:
    """``generate_instruction_responses.py``."""
    settings = AnswerSettings(llm="org/tiny", max_tokens=64)
    return _run(
        lambda start: generate_instruction_responses([ASKED], settings, start_engine=start),
        _echo, die_after, responses_dir("tiny", f"{ASKED}_tiny_64"),
    )  # fmt: skip


def run_transcripts(die_after: int | None = None) -> Outcome:
    """``filter_dataset.py``."""
    seen: list[list[Any]] = []

    def hear(name: str, rows: Sequence[tuple[str, int]]) -> Iterator[Transcript]:
        for split, row in rows:
            if die_after is not None and len(seen) >= die_after:
                raise Killed
            seen.append([split, row])
            yield Transcript(split, row, f"what is number {row} called?" if row else "something else – 音", None)

    with suppress(Killed):
        filter_by_asr(SPOKEN, AsrSettings(model="org/ear"), AsrLimits(), hear)
    folder = raw_dir(f"{SPOKEN}_filtered")
    return seen, _lines(folder / "asr.jsonl") if folder.is_dir() else None


RUNS: dict[str, tuple[Callable[[int | None], Outcome], int]] = {
    "generation": (run_generation, 3),
    "prompts": (run_prompts, 11),
    "responses": (run_responses, 20),
    "instructions": (run_instructions, 2),
    "transcripts": (run_transcripts, 2),
}
"""Every command, and after how many requests it was killed."""


def _run(
    command: Callable[[Callable[[str], FakeEngine]], Any],
    reply: Callable[[str, Request], str],
    die_after: int | None,
    *folders: Path,
) -> Outcome:
    engines: list[FakeEngine] = []

    def start(llm: str) -> FakeEngine:
        done = sum(len(engine.seen) for engine in engines)
        engines.append(FakeEngine(reply, die_after=None if die_after is None else die_after - done))
        return engines[-1]

    with suppress(Killed):
        command(start)
    seen = [[prompt, request.seed] for engine in engines for prompt, request, _ in engine.seen]
    return seen, [_rows(folder) for folder in folders]


def _rows(folder: Path, left_out: tuple[str, ...] = ()) -> Any:
    if not (folder / "dataset_dict.json").is_file():
        return None
    return {
        split: [{name: value for name, value in row.items() if name not in left_out} for row in table.to_list()]
        for split, table in load_from_disk(str(folder)).items()
    }


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def record() -> None:
    """Kill every command half way, keep what it left, and what the rest of it does undisturbed."""
    with tempfile.TemporaryDirectory() as scratch, place(Path(scratch)):
        save_inputs()
        for run, die_after in RUNS.values():
            run(die_after)
        for newest in sorted(data_root().glob("**/part-*.jsonl")):
            if re.search(r"\.shards|check-0|with_context-0|esc50.*write-1|ear/train", str(newest)):
                with newest.open("ab") as part:
                    part.write(TORN)
        shutil.rmtree(RECORDED, ignore_errors=True)
        shutil.copytree(data_root(), RECORDED / "datasets")
        outcomes = {name: run(None) for name, (run, _) in RUNS.items()}
        (RECORDED / "outcomes.json").write_text(json.dumps(outcomes, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    record()
