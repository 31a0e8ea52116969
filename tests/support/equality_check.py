"""One checkpoint through other ways than this project's engine: answers to a benchmark must be the same.

``compare_transformers``: greedy tokens of the exported folder, loaded by the Auto classes in a fresh process.
``compare_endpoint``: a run through ``serve.py`` and ``engine=openai``, undisturbed and killed, against one in here.
Run as a module it is the body of such a process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.paths import REPO_ROOT, data_root
from tests.support.kill_campaign import Campaign, Report, run_campaign

SETTINGS = ("greedy=true", "engine.dtype=float32", "engine.enforce_eager=true")
"""Of runs in process."""
START_SECONDS = 1800
SAME = ("question", "choices", "llm_answer", "thoughts", "answer", "parse_status", "status", "finish_reason")
"""Columns that are equal in both runs; the text between thoughts and answer is the endpoint client's own."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint and a multiple-choice set; ``folder`` is for everything that is written.

    ``overrides`` are keys that runs and server have in common, such as ``model.max_tokens=64``; those of ``engine``
    are not for runs through the endpoint.
    """

    checkpoint: str
    dataset: str
    folder: Path
    split: str | None = None
    prompts: str | None = None
    overrides: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Use a data root below ``folder``, with the raw sets of the present one."""
        raw, root = data_root() / "raw", self.folder / "datasets"
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "raw").exists():
            (root / "raw").symlink_to(raw.resolve())
        os.environ["ALARM_DATA_ROOT"] = str(root)

    def run_keys(self) -> list[str]:
        """Keys of every run over the set."""
        split = [] if self.split is None else [f"dataset.split={self.split}"]
        prompts = [] if self.prompts is None else [f"prompts={self.prompts}"]
        return [f"dataset.name={self.dataset}", *split, *prompts, *self.overrides]

    def config(self) -> dict[str, Any]:
        """Resolved configuration of a run in process; without a thinking budget, which ``generate`` does not have."""
        from src.common.config import compose

        unlimited = "model.max_thinking_tokens=-1"
        return compose("generate", [f"checkpoint_name={self.checkpoint}", *SETTINGS, *self.run_keys(), unlimited])


@dataclass(frozen=True)
class Tokens:
    """Greedy token ids of a row, and how far each one's logit was above the next best (empty: not known)."""

    ids: list[int]
    gaps: list[float] = field(default_factory=list)


def compare_transformers(subject: Subject, batch: int = 8) -> list[str]:
    """A report in lines, the last of which begins with ``equal`` or ``DIFFERENT``."""
    subject.prepare()
    folder = subject.folder
    config, exported, saved = folder / "config.json", folder / "exported", folder / "saved_again"
    config.write_text(json.dumps(subject.config()))
    _run("scripts/convert_checkpoint.py", subject.checkpoint, exported, "--to", "transformers")
    _run("-m", __name__, "save", exported, saved)
    _run("-m", __name__, "transformers", config, folder / "transformers.json", saved, batch)
    _run("-m", __name__, "engine", config, folder / "engine.json")
    return compare_tokens(*(_read_tokens(folder / f"{name}.json") for name in ("engine", "transformers")))


def compare_tokens(ours: Mapping[str, Tokens], theirs: Mapping[str, Tokens]) -> list[str]:
    """As :func:`compare_transformers`, for the tokens of each row; ``theirs`` have the distances."""
    if set(ours) != set(theirs):
        return [f"DIFFERENT: {len(ours)} rows of the engine, {len(theirs)} of transformers"]
    lines: list[str] = []
    differing = 0
    for key, own in ours.items():
        other = theirs[key]
        if own.ids == other.ids:
            continue
        differing += 1
        pairs = zip(own.ids, other.ids, strict=False)
        place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(own.ids), len(other.ids)))
        gap = other.gaps[place] if place < len(other.gaps) else float("nan")
        lines.append(f"{key}: token {place} of {len(own.ids)} differs, logits {gap:.2e} apart")
    smallest = min((gap for each in theirs.values() for gap in each.gaps), default=float("nan"))
    total = sum(len(each.ids) for each in ours.values())
    lines.append(f"{total} tokens; the smallest distance of the best two logits is {smallest:.2e}")
    verdict = "DIFFERENT" if differing else "equal"
    return [*lines, f"{verdict}: greedy tokens of {len(ours) - differing} of {len(ours)} rows are equal"]


def _read_tokens(path: Path) -> dict[str, Tokens]:
    return {key: Tokens(**found) for key, found in json.loads(path.read_text()).items()}


def write_engine_tokens(config: Path, out: Path) -> None:
    """Tokens of this project's engine: vLLM with prompt embeddings, in float32."""
    from src.generation.worker import make_requests, start_models
    from src.inference.prompt_builder import in_batches

    job = _job(config)
    models = start_models(job)
    batches = in_batches(job.pending({}), job.config.batch_size)
    found = {}
    for result in models.engine.run(make_requests(job, models, batches), job.sampling()):
        assert result.error is None, result.error
        found[result.key] = {"ids": list(result.token_ids)}
    models.engine.close()
    out.write_text(json.dumps(found))


def save_again(exported: Path, saved: Path) -> None:
    """Load an exported folder and write it by ``save_pretrained``."""
    from transformers import AutoModelForCausalLM, AutoProcessor

    import src.hf  # noqa: F401

    AutoModelForCausalLM.from_pretrained(exported).save_pretrained(saved)
    AutoProcessor.from_pretrained(exported).save_pretrained(saved)


def write_transformers_tokens(config: Path, out: Path, saved: Path, batch: int) -> None:
    """Tokens of ``AutoModelForCausalLM.generate`` over conversations with audio parts, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoProcessor

    import src.hf  # noqa: F401
    from src.inference.prompt_builder import in_batches

    processor = AutoProcessor.from_pretrained(saved)
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    job = _job(config)
    system = job.task.system(job.prompts)
    ends = model.generation_config.eos_token_id
    stops = {ends} if isinstance(ends, int) else set(ends)
    found: dict[str, Any] = {}
    for rows in in_batches(job.items(job.pending({})), batch):
        conversations = [
            [
                *([{"role": "system", "content": system}] if system else []),
                {
                    "role": "user",
                    "content": [{"type": "audio", "audio": row.audio}, {"type": "text", "text": row.content}],
                },
            ]
            for row in rows
        ]
        inputs = processor.apply_chat_template(conversations, tokenize=True, add_generation_prompt=True)
        made = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=job.config.model.max_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        written = made.sequences[:, inputs["input_ids"].shape[1] :]
        best = torch.stack([step.float().topk(2).values for step in made.logits])  # (tokens, rows, 2)
        gaps = (best[..., 0] - best[..., 1]).T
        for row, ids, row_gaps in zip(rows, written.tolist(), gaps.tolist(), strict=True):
            end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
            found[row.key] = {"ids": ids[:end], "gaps": row_gaps[:end]}
    out.write_text(json.dumps(found))


def _job(config: Path) -> Any:
    from src.generation.config import read_run_config
    from src.generation.job import prepare
    from src.generation.task_types import MULTIPLE_CHOICE

    return prepare(read_run_config(json.loads(config.read_text())), MULTIPLE_CHOICE)


@dataclass(frozen=True)
class EndpointCampaign(Campaign):
    """Runs of ``generate_vllm_mcqa.py engine=openai`` against a server, with the keys in ``settings``."""

    settings: tuple[str, ...] = ()

    def prepare(self) -> None:
        """The server is running, and the data are there."""

    def command(self) -> list[str]:
        """Program and settings."""
        return ["generate_vllm_mcqa.py", "engine=openai", "greedy=true", *self.settings]


def compare_endpoint(subject: Subject, kills: int, seed: int = 0, concurrency: int = 8) -> list[str]:
    """A report in lines, the last of which begins with ``equal`` or ``DIFFERENT``."""
    subject.prepare()
    inside = Campaign(subject.folder, 0)
    _run(
        "generate_vllm_mcqa.py",
        f"checkpoint_name={subject.checkpoint}",
        *SETTINGS,
        *subject.run_keys(),
        "run_tag=inside",
    )
    rows = inside.saved("inside")
    with served(subject) as (url, name):
        endpoint = [f"engine.base_url={url}", f"engine.model={name}", f"engine.concurrency={concurrency}"]
        endpoint.append("engine.thinking_tokens_field=thinking_token_budget")
        settings = (*(key for key in subject.run_keys() if not key.startswith("engine.")), *endpoint)
        campaign = EndpointCampaign(subject.folder, len(rows), settings=settings, jitter=0.5)
        report = run_campaign(campaign, kills, seed)
    if report.faults:
        return [*report.lines(), "DIFFERENT: see above"]
    return [*report.lines(), *_difference(subject, inside, report)]


def _difference(subject: Subject, inside: Campaign, report: Report) -> list[str]:
    """The run in process and the undisturbed endpoint run, row by row and as the reports compare them."""
    from src.report.benchmark_runs import read_runs

    first, second = inside.saved("inside"), inside.saved("whole")
    names = [name for name in SAME if name in first[0]]
    differing = [
        f"{one['split']} {one['dataset_index']}: " + ", ".join(n for n in names if one[n] != other[n])
        for one, other in zip(first, second, strict=True)
        if any(one[name] != other[name] for name in names)
    ]
    lines = [f"{each} differ" for each in differing]
    same_text = sum(one["response"] == other["response"] for one, other in zip(first, second, strict=True))
    lines.append(f"{same_text} of {len(first)} responses are the same to the letter")
    paired = 0.0
    for split in read_runs([inside.output("inside"), inside.output("whole")]):
        found = split.compare(*split.runs)
        assert found is not None
        paired = max(paired, abs(found.difference.value))
        lines.append(
            f"{split.split}: {found.both} right in both, {found.neither} in neither, {found.first} only in process, "
            f"{found.second} only through the endpoint; difference {found.difference.value:+.4f} (p {found.p:.2f})"
        )
    verdict = "DIFFERENT" if differing or paired else "equal"
    lines.append(
        f"{verdict}: {len(first) - len(differing)} of {len(first)} rows are equal, after "
        f"{len(report.finished_at_kill)} kills too, largest paired difference {paired:.4f}"
    )
    return lines


@contextmanager
def served(subject: Subject) -> Iterator[tuple[str, str]]:
    """``serve.py`` over the checkpoint on a free port: address up to /v1, name of the model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    prompts = [] if subject.prompts is None else [f"prompts={subject.prompts}"]
    options = [f"checkpoint_name={subject.checkpoint}", f"port={port}", *SETTINGS, *prompts, *subject.overrides]
    log: Any = (subject.folder / "server.log").open("ab")
    process = subprocess.Popen([sys.executable, "serve.py", *options], cwd=REPO_ROOT, stdout=log, stderr=log)
    try:
        _wait_for_health(process, f"http://127.0.0.1:{port}/health", subject.folder / "server.log")
        yield f"http://127.0.0.1:{port}/v1", Path(subject.checkpoint).name
    finally:
        process.terminate()
        process.wait(60)


def _wait_for_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"serve.py ended with exit code {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"serve.py does not answer within {START_SECONDS} s")


def _run(*command: Any) -> None:
    """A Python program in a process of its own. Raises RuntimeError with the end of its output if it fails."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[1:4])} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    mode, *given = sys.argv[1:]
    if mode == "engine":
        write_engine_tokens(*map(Path, given))
    elif mode == "save":
        save_again(*map(Path, given))
    else:
        write_transformers_tokens(Path(given[0]), Path(given[1]), Path(given[2]), int(given[3]))
