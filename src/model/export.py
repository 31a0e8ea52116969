"""From our checkpoints to the published form and back, without loss."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PretrainedConfig

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import ASSETS
from src.model import published
from src.model.checkpoints import (
    CONFIG_FILE,
    Checkpoint,
    adapter_prefix,
    open_checkpoint,
    write_checkpoint,
    write_config,
)
from src.model.config import ModelConfig
from src.model.llm import llm_config, load_tokenizer, resolve_source
from src.model.lora_files import load_merged, write_lora
from src.model.published_config import own_modules, published_from_model_config
from src.model.tensor_files import INDEX_FILE, find_tensors

SHARD_BYTES = 5 * 10**9
HEAD = "lm_head.weight"
ARCHITECTURE = "Qwen3AudioWrappedForCausalLM"

log = get_logger(__name__)


def warn_of_local_sources(config: ModelConfig, where: str) -> None:
    """Log one line if frozen parts are named by folders of this machine, which others do not have."""
    sources = {
        f"encoder {name}": spec.weights.source for name, spec in config.config.encoders.items() if spec.weights
    }
    local = []
    for part, source in {"LLM": config.llm, **sources}.items():
        path = Path(source).expanduser()
        if (path.is_absolute() or path.exists()) and not path.resolve().is_relative_to(ASSETS):
            local.append(f"{part} ({source})")
    if local:
        log.warning(
            "%s names folders of this machine: %s. Others need these folders under the same names, or Hub ids in "
            "their place in %s", where, ", ".join(local), CONFIG_FILE,
        )  # fmt: skip


def export_published(
    checkpoint: Checkpoint, out: str | Path, shard_bytes: int = SHARD_BYTES, tokenizer: str | None = None
) -> Path:
    """Write the whole model under the published names: LLM, encoders, and the trained part; returns the folder.

    LLM and encoders are those that the configuration names: the LLM as it is stored, the encoders in float32. A
    checkpoint that is whole already gives its own. Next to them are the published ``config.json``, the tokenizer
    (of ``tokenizer`` where it is given, else the LLM's) and our configuration. Not more than one shard and one
    encoder are in memory at a time.

    LoRA is added to the LLM's weights; then the LLM is in memory as a whole. LoRA lies beside them too, because this
    project's own programs read the audio embedder and LoRA alone from the folder, and the LLM from its source. Raises
    :class:`UserError` when a frozen part cannot be found.
    """
    folder, config = Path(out), checkpoint.config
    if any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: holds a checkpoint already; choose another folder for the published form")
    lora = checkpoint.lora()
    content = published_config(checkpoint)
    source = (config.llm, config.llm_revision) if tokenizer in (None, config.llm) else (str(tokenizer), None)
    words = load_tokenizer(*source)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_full_model:
        tensors = checkpoint.tensors.read(checkpoint.tensors.names())
    else:
        # the output layer of tied embeddings is the same tensor again
        left_out = HEAD if content.get("tie_word_embeddings") else None
        llm = ((name, value) for name, value in llm_tensors(checkpoint) if name != left_out)
        tensors = itertools.chain(llm, audio_tensors(checkpoint))
    write_shards(tensors, folder, shard_bytes)
    (folder / published.CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    words.save_pretrained(folder)
    write_lora(folder, lora)
    write_config(folder, config, checkpoint.extra)
    warn_of_local_sources(config, str(folder))
    return folder


def published_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of the published ``config.json``: the LLM's own fields, as its source has them, and the audio part.

    The published code reads it with transformers 4.57, to which the fields that transformers 5 renamed are added
    (``rope_theta``, ``rope_scaling``, ``torch_dtype``). ``llm`` and ``llm_revision`` name the language model; the
    published code skips them.
    """
    if checkpoint.published_config is not None:
        return dict(checkpoint.published_config)
    config = checkpoint.config
    own, _ = PretrainedConfig.get_config_dict(resolve_source(config.llm), revision=config.llm_revision)
    # What the source states comes last: transformers 5 renames fields that 4.57 reads under their old names.
    content = {**llm_config(config.llm, config.llm_revision).to_dict(), **own}
    for key in ("_name_or_path", "_commit_hash", "transformers_version"):
        content.pop(key, None)
    kind = str(content["model_type"])
    if kind != "qwen3":
        log.warning("the published code knows Qwen3 only; it cannot load a model on %s (%s)", config.llm, kind)
    rope = content.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        content.setdefault("rope_theta", rope["rope_theta"])
        content.setdefault("rope_scaling", None if rope.get("rope_type", "default") == "default" else dict(rope))
    dtype = content.get("dtype") or content.get("torch_dtype")
    if isinstance(dtype, str):
        content |= {"dtype": dtype, "torch_dtype": dtype}  # the old name and the new one
    content |= {"model_type": f"{kind}_audio", "architectures": [ARCHITECTURE]}
    if own := own_modules(config):
        log.warning(
            "the published code has no %s: config.json is the language model's, and the whole model is read by "
            "alarm_config.json", ", ".join(own),
        )  # fmt: skip
    else:
        content |= published_from_model_config(config)["config"]
    if not Path(config.llm).is_absolute():
        content |= {"llm": config.llm, "llm_revision": config.llm_revision}
    return json.loads(json.dumps(content, default=str))  # plain values, as they will be read back


def import_published(checkpoint: Checkpoint, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write the trained part of a checkpoint of any form as one of ours; returns the folder.

    As stored, or in ``dtype``: ALARM-CA takes 489 MB in float32 and 245 MB in bfloat16, which rounds it.
    """
    state, extra = checkpoint.state(dtype=dtype), {**checkpoint.extra, "source": checkpoint.name}
    warn_of_local_sources(checkpoint.config, str(out))
    return write_checkpoint(out, state, checkpoint.config, extra, checkpoint.lora())


def export_adapters(checkpoints: Sequence[str], out: str | Path, only: Sequence[str] | None = None) -> dict[str, str]:
    """Write every adapter of the checkpoints as ``out/ENCODER``, for ``pretrained_adapters_dir``.

    Returns encoder name -> checkpoint. Raises :class:`UserError` when two checkpoints hold the same adapter, or none
    of them one that ``only`` names.
    """
    found: dict[str, Checkpoint] = {}
    for name in checkpoints:
        checkpoint = open_checkpoint(name)
        for encoder in checkpoint.config.config.encoders:
            if only is not None and encoder not in only:
                continue
            if encoder in found:
                raise UserError(
                    f"the adapter {encoder} is in {found[encoder].name} and in {name}: choose with --encoders"
                )
            found[encoder] = checkpoint
    lacking = [encoder for encoder in only or () if encoder not in found]
    if lacking:
        raise UserError(f"no adapter {', '.join(lacking)} in {', '.join(checkpoints)}; there are {', '.join(found)}")
    for encoder, checkpoint in found.items():
        state = checkpoint.state(adapter_prefix(encoder))
        config = dataclasses.replace(checkpoint.config, lora=None)  # an adapter of the encoder, not of the LLM
        write_checkpoint(Path(out) / encoder, state, config, {"source": checkpoint.name, "adapter": encoder})
    return {encoder: checkpoint.name for encoder, checkpoint in found.items()}


def llm_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint's language model: its own, or those of the one that it names, with its LoRA merged.

    Raises :class:`UserError` if they cannot be found.
    """
    config, lora = checkpoint.config, checkpoint.lora()
    if checkpoint.is_full_model:
        names = checkpoint.tensors.names()
        yield from checkpoint.tensors.read([name for name in names if not name.startswith(published.AUDIO_PREFIX)])
    elif lora is None:
        llm = find_tensors("LLM", config.llm, config.llm_revision)
        yield from llm.read(llm.names())
    else:
        merged, _ = load_merged(config.llm, config.llm_revision, lora, checkpoint.name)
        yield from merged.state_dict().items()


def audio_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint's audio embedder, under the published names.

    Raises :class:`UserError` if an encoder cannot be found.
    """
    for name in sorted(checkpoint.config.config.encoders):
        encoder = checkpoint.encoder(name)
        prefix = f"{published.ENCODER_PREFIX}{name}."
        yield from ((prefix + inner, value) for inner, value in encoder.state_dict().items())
    yield from ((published.PREFIX + name, value) for name, value in checkpoint.state().items())


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as they come to numbered safetensors files of at most ``shard_bytes``, and their index."""
    shards: list[list[str]] = []
    waiting: dict[str, Tensor] = {}
    used = total = 0
    # The final names contain the number of shards, which is known at the end. These do not end in .safetensors, so
    # that a folder of an export that was killed is not taken for a checkpoint.
    part = ".part-{:05d}"

    def write() -> None:
        save_file(
            {name: value.contiguous() for name, value in waiting.items()}, folder / part.format(len(shards) + 1)
        )
        shards.append(list(waiting))
        waiting.clear()

    for name, value in tqdm(tensors, desc="tensors", unit="", disable=None):
        if waiting and used + value.nbytes > shard_bytes:
            write()
            used = 0
        waiting[name] = value
        used += value.nbytes
        total += value.nbytes
    if waiting:
        write()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / part.format(number)).rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
