"""The complete model of a checkpoint, or of an ensemble, as a folder that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from src.common.errors import UserError
from src.hf.configuration import AlarmConfig
from src.hf.modeling import write_description
from src.hf.processing import AlarmProcessor
from src.model.checkpoints import ENSEMBLE_FOLDER, Checkpoint, write_config
from src.model.export import (
    SHARD_BYTES,
    audio_tensors,
    export_published,
    llm_tensors,
    warn_of_local_sources,
    write_shards,
)
from src.model.llm import generation_settings

STUB_FILE = "modeling_alarm.py"
STUB = '''"""Loads the classes of the ALARM package for programs without `import src.hf`; no model code is here."""

try:
    from src.hf import AlarmConfig, AlarmFeatureExtractor, AlarmForConditionalGeneration, AlarmProcessor
except ImportError as error:
    raise ImportError(
        "this checkpoint needs the ALARM package: in a clone of its repository, `pip install -r requirements.txt`, "
        f"then `pip install -e . --no-deps` ({error})"
    ) from error

__all__ = ["AlarmConfig", "AlarmFeatureExtractor", "AlarmForConditionalGeneration", "AlarmProcessor"]
'''
STUB_CLASSES = {
    "config.json": {
        "AutoConfig": "AlarmConfig",
        "AutoModelForCausalLM": "AlarmForConditionalGeneration",
        "AutoModelForMultimodalLM": "AlarmForConditionalGeneration",
    },
    "processor_config.json": {"AutoFeatureExtractor": "AlarmFeatureExtractor", "AutoProcessor": "AlarmProcessor"},
}
"""File of a saved folder -> Auto classes -> classes of the stub."""


def export_transformers(
    checkpoints: Checkpoint | Sequence[Checkpoint],
    out: str | Path,
    shard_bytes: int = SHARD_BYTES,
    stub: bool = False,
) -> Path:
    """Write language model, encoders and the trained part with configuration, tokenizer and processor.

    One checkpoint: the tensors are those of the published form, LoRA merged, and are written as
    :func:`export_published` does, one shard in memory at a time. Several are an ensemble for vLLM: the folder has the
    language model once, and ``ensemble/0``, ``ensemble/1`` and so on with an audio embedder each, which are
    checkpoints of their own for this project's programs. ``stub`` as in :func:`write_stub`.

    Returns the folder. Raises :class:`UserError` when a frozen part cannot be found, and for checkpoints of different
    language models or with LoRA in an ensemble.
    """
    listed = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    folder, first = Path(out), listed[0]
    if len(listed) > 1:
        _check_ensemble(listed)
    config, processor = AlarmConfig.of_checkpoints(listed), AlarmProcessor.of_checkpoints(listed)
    if len(listed) == 1:
        export_published(first, folder, shard_bytes)
    else:
        _write_ensemble(listed, folder, shard_bytes)
    # These two replace files of the published form: its config.json, and its tokenizer, which has no token for audio.
    stated = generation_settings(first.config.llm, first.config.llm_revision)
    write_description(folder, config, GenerationConfig(**stated))
    processor.save_pretrained(folder)
    if stub:
        write_stub(folder)
    return folder


def _check_ensemble(checkpoints: Sequence[Checkpoint]) -> None:
    models = {(each.config.llm, each.config.llm_revision) for each in checkpoints}
    if len(models) > 1:
        listed = ", ".join(f"{each.name} ({each.config.llm})" for each in checkpoints)
        raise UserError(f"ensemble: needs one language model, got {listed}")
    with_lora = [each.name for each in checkpoints if each.config.lora is not None]
    if with_lora:
        raise UserError(
            f"ensemble: {', '.join(with_lora)} with LoRA changes the language model of the others; leave it out"
        )


def _write_ensemble(checkpoints: Sequence[Checkpoint], folder: Path, shard_bytes: int) -> None:
    if any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: contains a checkpoint already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(llm_tensors(checkpoints[0]), folder, shard_bytes)
    for number, each in enumerate(checkpoints):
        member = folder / ENSEMBLE_FOLDER / str(number)
        member.mkdir(parents=True)
        write_shards(audio_tensors(each), member, shard_bytes)
        write_config(member, each.config, each.extra)
        warn_of_local_sources(each.config, str(member))


def write_stub(folder: Path) -> None:
    """Add ``modeling_alarm.py``, which imports the classes from this package, and the ``auto_map`` that names it.

    Only for users who pass ``trust_remote_code=True`` themselves: their programs then need no ``import src.hf``, and
    say in one line what is missing where this package is not installed.
    """
    (folder / STUB_FILE).write_text(STUB, encoding="utf-8")
    module = STUB_FILE.removesuffix(".py")
    for name, classes in STUB_CLASSES.items():
        path = folder / name
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["auto_map"] = {auto: f"{module}.{own}" for auto, own in classes.items()}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
