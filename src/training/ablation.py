"""Answers of a training run with each clip, with another row's clip, and without any audio.

A model that answers from the text alone, or from what its targets have in common, scores alike in all three.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.seeds import seed_everything
from src.dataset.examples import Example, ExampleDataset
from src.model.splice import TokenizedTurn
from src.training.build import build_model, open_data
from src.training.config import bind_train_config
from src.training.samples import greedy_answers

log = get_logger(__name__)
MODES = {"own": "own clip", "other": "another clip", "none": "no audio"}


def answer_validation_rows(
    run: Path, batch: int = 32, max_tokens: int = 64, limit: int | None = None
) -> list[dict[str, str]]:
    """Answers to the validation rows of a run's data: for each row ``key``, ``target`` and an answer for each mode.

    The prompts are those of the training, answers are greedy. ``limit`` is the number of rows of each set. Raises
    :class:`UserError` if ``run`` is not the output folder of a training, or validation rows have no audio.
    """
    record = run / "run.json"
    if not record.is_file():
        raise UserError(f"{record} does not exist; expected the output folder of train.py")
    stored = json.loads(record.read_text(encoding="utf-8"))["config"]
    started = {"pretrained_adapters_dir": None, "pretrained_adapters_names": None, "resume_from_checkpoint": None}
    model = {**stored["model"], "from_pretrained": str(run)}
    config = bind_train_config(
        {**stored, **started, "model": model, "eval_mode": True, "objective": "ce", "sample_generations": False}
    )
    seed_everything(config.seed)
    bf16 = bool(config.training_args.get("bf16"))
    built = build_model(config, bf16)
    sets = open_data(config, built.tokenizer, built.config).evaluation.values()
    rows = [row for examples in sets for row in _read(examples, limit)]
    # longest first: what does not fit into memory fails at once, and batches have little padding
    rows.sort(key=lambda row: -row.waveform.mono.numel() if row.waveform is not None else 0)
    targets = [built.tokenizer.decode(row.outputs, skip_special_tokens=True).strip() for row in rows]
    clips: dict[str, list[int] | list[None]] = {
        "own": list(range(len(rows))),
        "other": mismatched(targets),
        "none": [None] * len(rows),
    }
    answers: dict[str, list[str]] = {}
    for mode, chosen in clips.items():
        answers[mode] = []
        for start in range(0, len(rows), batch):
            turns = [TokenizedTurn(row.start, row.main) for row in rows[start : start + batch]]
            audio = [rows[clip].waveform for clip in chosen[start : start + batch] if clip is not None]
            with torch.autocast(built.model.audio_embedder.device.type, torch.bfloat16, enabled=bf16):
                features = built.extractor([clip for clip in audio if clip is not None]) if audio else None
                answers[mode] += greedy_answers(built.model, turns, features, built.tokenizer, max_tokens)
        log.info("%s: %d answers", MODES[mode], len(answers[mode]))
    return [
        {"key": row.key, "target": target, **{mode: answers[mode][place] for mode in MODES}}
        for place, (row, target) in enumerate(zip(rows, targets, strict=True))
    ]


def mismatched(targets: Sequence[str], seed: int = 0) -> list[int]:
    """For every row another one, of another text: a seeded order in which each row takes a later one's clip.

    Raises :class:`UserError` if all texts are equal.
    """
    texts = [target.casefold() for target in targets]
    # RandomState: its numbers are the same in every version (https://numpy.org/neps/nep-0019-rng-policy.html)
    order = np.random.RandomState(seed).permutation(len(texts)).tolist()
    found = [-1] * len(texts)
    for place, row in enumerate(order):
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        found[row] = next((other for other in others if texts[other] != texts[row]), -1)
    if -1 in found:
        raise UserError("the validation rows have one text only, so no row can take another one's clip")
    return found


def _read(examples: ExampleDataset, limit: int | None) -> list[Example]:
    count = len(examples) if limit is None else min(limit, len(examples))
    rows = [examples[index] for index in range(count)]
    if not all(row.waveform is not None for row in rows):
        raise UserError("the run was trained without audio (return_audio=false), so there is nothing to compare")
    return rows
