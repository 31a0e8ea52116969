"""Checkpoints: the trained state of an audio embedder, and a configuration that names the frozen parts.

Our form is a folder with ``model.safetensors`` (adapters, fusion, separators; published names without ``model.``) and
``alarm_config.json`` (LLM, encoders with source and revision, audio embedder); LoRA on the LLM is in ``lora/`` below
it, in PEFT's format (:mod:`src.model.lora_files`). The published form is the whole model in one or many safetensors
files (:mod:`src.model.published`); only the tensors that are needed are read. The output folder of a Trainer stands
for the last checkpoint in it; any other name is looked up on the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from src.audio.features import AudioFeatureExtractor
from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError, error_text
from src.model import published
from src.model.audio_embedder import AudioEmbedder, build_feature_extractor
from src.model.config import AudioEmbedderConfig, ModelConfig
from src.model.encoders.base import Encoder
from src.model.encoders.load import fill_computed_buffers, fill_encoder, load_encoder
from src.model.lora_files import Lora, find_lora, lora_of, read_lora, restore_lora, write_lora
from src.model.shared_encoders import EncoderStore
from src.model.tensor_files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    Fetch,
    TensorFiles,
    folder_files,
    gather_full,
    hub_files,
    read_json,
    tensor_mismatches,
    tensors_digest,
)

CONFIG_FILE = "alarm_config.json"
ENSEMBLE_FOLDER = "ensemble"
"""Folder of the audio embedders in an exported ensemble; each is a checkpoint."""
FORMAT = 1
MODEL_TYPE = "alarm"
"""By this word in ``config.json`` the Auto classes of transformers find ours (:mod:`src.hf`)."""
HUB_TIMEOUT_SECONDS = 10.0
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found; its tensors are read when they are asked for.

    Attributes:
        name: as it was given.
        tensors: all that its files hold.
        config_file: our configuration; None for a published checkpoint without one.
        published_file: ``config.json`` of a published checkpoint; None where there is none, or ours decides.
        folder: where it lies, None on the Hub.
        revision: commit on the Hub.
        fetch: gives its other files; not needed without LoRA.
    """

    name: str
    tensors: TensorFiles
    config_file: Path | None
    folder: Path | None = None
    revision: str | None = None
    fetch: Fetch | None = None
    published_file: Path | None = None

    @cached_property
    def config(self) -> ModelConfig:
        """The model's configuration, from its file or recognised by the tensors."""
        if self.config_file is not None:
            return read_config(self.config_file)
        where = f"checkpoint {self.name}"
        names = self.trained
        shapes = self.tensors.shapes(names.values())
        own = {name: shapes[stored] for name, stored in names.items()}
        if self.published_config is not None:
            return published.configured(self.published_config, self.tensors, own, where)
        needed = self.tensors.shapes([published.EMBEDDINGS] if published.EMBEDDINGS in self.tensors.file_of else [])
        width = next((shape[-1] for shape in (*needed.values(), *map(own.get, published.SEPARATORS)) if shape), 0)
        return published.recognise(own, published.encoder_names(self.tensors.file_of), width, where)

    @cached_property
    def published_config(self) -> dict[str, Any] | None:
        """Content of a published ``config.json`` that decides the configuration; None without one."""
        if self.published_file is None or self.config_file is not None:
            return None
        return published.read_published_config(self.published_file, f"checkpoint {self.name}")

    @property
    def assumed(self) -> bool:
        """Whether parts of the configuration are in no file and were taken from a shipped one."""
        return self.config_file is None and self.published_config is None

    @cached_property
    def extra(self) -> dict[str, Any]:
        """Record stored with the configuration: step, seed and prompts of the training, where it comes from."""
        if self.config_file is not None:
            extra = read_json(self.config_file, f"checkpoint {self.name}").get("extra")
            return dict(extra) if isinstance(extra, Mapping) else {}
        state = None if self.folder is None else folder_files(self.folder)(TRAINER_STATE)
        step = None if state is None else read_json(state, f"checkpoint {self.name}").get("global_step")
        return {} if step is None else {"step": step}

    @property
    def is_full_model(self) -> bool:
        """Whether the encoders are in it, as in the published form."""
        return bool(self.tensors.names(published.ENCODER_PREFIX))

    @property
    def trained(self) -> dict[str, str]:
        """Names of adapters, fusion and separators in the audio embedder -> names that they are stored under."""
        stored = self.tensors.names(published.AUDIO_PREFIX if self.is_full_model else "")
        own = [name for name in stored if not name.startswith(published.ENCODER_PREFIX)]
        return {name.removeprefix(published.PREFIX): name for name in own}

    def state(self, prefix: str = "", dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The trained tensors below ``prefix``, by their names in an audio embedder."""
        own = {stored: name for name, stored in self.trained.items() if name.startswith(prefix)}
        return {own[stored]: value for stored, value in self.tensors.read(own, dtype)}

    def encoder(self, name: str, dtype: torch.dtype = torch.float32) -> Encoder:
        """A frozen encoder: its own, or the one that its configuration names."""
        spec = self.config.config.encoders[name]
        if not self.is_full_model:
            return load_encoder(name, spec, dtype=dtype)
        return fill_encoder(name, spec, self.tensors, f"{published.ENCODER_PREFIX}{name}.", dtype)

    @property
    def lora_folder(self) -> Path | None:
        """Where its LoRA lies, for peft or vLLM; None without. Raises :class:`UserError` when a file is missing."""
        if self.assumed or self.config.lora is None:
            return None
        return find_lora(self.fetch or (lambda file: None), self.name)

    def lora(self) -> Lora | None:
        """Its LoRA on the LLM, None without."""
        folder = self.lora_folder
        return None if folder is None else read_lora(folder)

    def digest(self) -> str:
        """SHA-256 over the trained tensors, LoRA's included."""
        lora = self.lora()
        return tensors_digest({**self.state(), **({} if lora is None else lora.tensors)})


@dataclass(frozen=True)
class LoadedEmbedder:
    """An audio embedder ready for inference, its feature extractor, configuration, and the name of its checkpoint."""

    audio_embedder: AudioEmbedder
    feature_extractor: AudioFeatureExtractor
    config: ModelConfig
    name: str


def save_checkpoint(
    directory: str | Path,
    audio_embedder: AudioEmbedder,
    config: ModelConfig,
    extra: Mapping[str, Any] | None = None,
    llm: Any = None,
    write: bool = True,
) -> Path:
    """Write the trained state and the configuration; ``extra`` is kept as given (JSON values). Returns the folder.

    ``llm`` is the language model that holds the LoRA layers; it is not needed where ``config`` asks for none. Where
    the model is shared out, all processes must call this, and one of them with ``write``.
    """
    state = {name: gather_full(value) for name, value in audio_embedder.trained_state().items()}
    lora = lora_of(llm)
    if not write:  # only now: gathering is collective, and would wait for a process that left before
        return Path(directory)
    return write_checkpoint(directory, state, config.with_width(audio_embedder.llm_dim), extra, lora)


def write_checkpoint(
    directory: str | Path,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    extra: Mapping[str, Any] | None = None,
    lora: Lora | None = None,
) -> Path:
    """As :func:`save_checkpoint`, from the trained tensors by name."""
    if (lora is None) != (config.lora is None):
        raise ValueError("a configuration with lora and LoRA weights belong together; one is missing")
    folder = Path(directory)
    if (folder / INDEX_FILE).exists():  # it would be read instead of what is written here
        raise UserError(f"{folder}: holds a published checkpoint ({INDEX_FILE}); choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_lora(folder, lora)
    write_config(folder, config, extra)
    (folder / published.CONFIG_FILE).write_text(json.dumps({"model_type": MODEL_TYPE}) + "\n", encoding="utf-8")
    return folder


def write_config(folder: Path, config: ModelConfig, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``alarm_config.json``; ``extra`` is kept as given."""
    content = {"format": FORMAT, "model": config.as_dict(), "extra": dict(extra or {})}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_audio_embedder(
    name: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    encoder_dtype: torch.dtype = torch.float32,
    shared: EncoderStore | None = None,
) -> LoadedEmbedder:
    """Audio embedder of a checkpoint (folder or Hub id, our form or the published one), in eval mode.

    ``dtype`` is that of the trained part. Encoders in ``shared`` are used, others added to it. Raises
    :class:`UserError` for a missing folder or file, and for tensors that do not fit the configuration.
    """
    checkpoint = open_checkpoint(name, revision)
    config = checkpoint.config
    assert config.llm_embedding_dim is not None
    store = EncoderStore() if shared is None else shared
    encoders = {
        name: store.get(name, spec, partial(checkpoint.encoder, name, encoder_dtype), checkpoint.is_full_model)
        for name, spec in config.config.encoders.items()
    }
    # Built without memory and filled by assignment, which holds every weight once; only buffers that no file contains
    # are computed by a second, real build.
    audio_embedder = published.build_on_meta(config, f"checkpoint {checkpoint.name}", encoders)
    load_checked(
        audio_embedder, checkpoint.state(dtype=dtype), audio_embedder.trained_state(), checkpoint.name, assign=True
    )
    width = config.llm_embedding_dim
    with torch.random.fork_rng(devices=[]):
        fill_computed_buffers(audio_embedder, lambda: AudioEmbedder(config.config, width, encoders))
    audio_embedder.requires_grad_(False).eval().to(device)
    return LoadedEmbedder(audio_embedder, build_feature_extractor(config.config, device), config, checkpoint.name)


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint: the folder ``name``, the last ``checkpoint-N`` in it, or a repository of the Hub.

    From the Hub come the configuration and the index at once, other files when they are needed. Raises
    :class:`UserError` when there is no checkpoint of that name.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = _inside(folder)
        fetch = folder_files(folder)
        tensors = TensorFiles.open(f"checkpoint {str(folder)!r}", fetch)
        if tensors is None:
            raise UserError(f"checkpoint {str(folder)!r}: {WEIGHTS_FILE} is missing; the checkpoint is incomplete")
        own = fetch(CONFIG_FILE)
        shared = None if own else fetch(published.CONFIG_FILE)
        return Checkpoint(str(name), tensors, own, folder, fetch=fetch, published_file=shared)
    text = str(name)
    if not may_be_checkpoint(name):
        raise UserError(f"checkpoint {text!r}: no such folder; expected a checkpoint folder or a Hub id OWNER/NAME")
    return _of_hub(text, revision)


def may_be_checkpoint(name: str | Path) -> bool:
    """Whether a checkpoint's name is that of a folder, or can be an id of the Hub; the Hub is not asked."""
    folder, text = Path(name).expanduser(), str(name)
    # an id of the Hub is OWNER/NAME; where a folder OWNER exists, it is rather a path with a mistake in it
    local = folder.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1 or folder.parent.is_dir()
    return folder.is_dir() or not local


def _inside(folder: Path) -> Path:
    if (members := folder / ENSEMBLE_FOLDER).is_dir():
        raise UserError(
            f"checkpoint {str(folder)!r}: an ensemble, which vLLM serves; here name its checkpoints, as in "
            f"checkpoint_name=[{members / '0'},{members / '1'}]"
        )

    def complete(path: Path) -> bool:
        return any((path / file).is_file() for file in (CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE))

    if complete(folder):
        return folder
    steps = [
        (int(match.group(1)), path)  # as a number: checkpoint-1000 comes after checkpoint-900
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and complete(path)
    ]
    if not steps:
        raise UserError(
            f"checkpoint {str(folder)!r}: no {CONFIG_FILE} in it nor in a checkpoint-N below it, and no "
            f"{WEIGHTS_FILE}; expected a folder written by train.py or a published checkpoint"
        )
    return max(steps)[1]


def _of_hub(name: str, revision: str | None) -> Checkpoint:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    reason: Exception | None = None
    try:
        # Asked once before the downloads, which would try for minutes when there is no connection.
        revision = HfApi().repo_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
    except Exception as error:  # whatever the HTTP library raises: a copy from an earlier download will do
        reason = error
    fetch = hub_files(name, revision, offline=reason is not None)
    own = shared = tensors = None
    try:
        own = fetch(CONFIG_FILE)
        shared = None if own else fetch(published.CONFIG_FILE)
        tensors = TensorFiles.open(f"checkpoint {name!r}", fetch)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = reason or error
    if tensors is None:
        why = "it holds no safetensors files" if reason is None else error_text(reason, 200)
        raise UserError(f"checkpoint {name!r}: no such folder, and the Hub did not give it ({why})") from reason
    return Checkpoint(name, tensors, own, revision=revision, fetch=fetch, published_file=shared)


def read_config(path: Path) -> ModelConfig:
    """The configuration in an ``alarm_config.json``. Raises :class:`UserError` when it cannot be read or bound."""
    content = read_json(path, "checkpoint configuration")
    lacking = [key for key in ("format", "model") if key not in content]
    if lacking:
        raise UserError(f"{path}: cannot be read as a checkpoint configuration (no {' and no '.join(lacking)})")
    version, model = content["format"], content["model"]
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, this program reads format {FORMAT}")
    try:
        config = bind_dataclass(ModelConfig, model, "model")
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from error
    if config.llm_embedding_dim is None:
        raise UserError(f"{path}: model.llm_embedding_dim is missing")
    return config


def load_state(audio_embedder: AudioEmbedder, llm: Any, name: str | Path) -> None:
    """Load adapters, fusion, separators, and the weights of the LLM's LoRA layers, from a checkpoint of any form.

    Raises :class:`UserError` naming every tensor that does not fit, and every option that no tensor shows and the
    checkpoint was trained with otherwise.
    """
    checkpoint = open_checkpoint(name)
    load_checked(audio_embedder, checkpoint.state(), audio_embedder.trained_state(), str(name))
    if not checkpoint.assumed:
        differing = _differing_options(checkpoint.config.config, audio_embedder.config)
        if differing:
            raise UserError(
                f"checkpoint {name} was trained with another model config: {'; '.join(differing)}; give the same, or "
                "start from it with model.from_pretrained"
            )
    restore_lora(llm, checkpoint.lora(), str(name))


_TRAINING_ONLY = ("dropout", "conf_dropout", "residual_dropout", "init_scale")
"""Options that may change from run to run: the weights mean the same."""


def _differing_options(theirs: AudioEmbedderConfig, ours: AudioEmbedderConfig) -> list[str]:
    """Options of adapters and fusion that change what a checkpoint computes, where two configurations differ."""

    def options(config: AudioEmbedderConfig) -> dict[str, Any]:
        found = {f"audio_encoder_layers of {name}": config.layers(name) for name in config.encoders}
        for name, adapter in config.audio_adapter_config.items():
            common = {"pre_average": adapter.pre_average, "trim_extra_padding": adapter.trim_extra_padding}
            found |= {f"{key} of {name}": value for key, value in (adapter.options() | common).items()}
        fusion = config.audio_fusion_config
        width = len(fusion.encoder_names()) - 1
        for key, value in fusion.options().items():
            listed = isinstance(value, tuple) or key in ("main_encoder", "fusion_type")
            found[key] = value if listed else (value,) * width
        return found

    given, own = options(theirs), options(ours)
    return [
        f"{key} was {_shown(given[key])}, is {_shown(own[key])}"
        for key in own
        if key in given
        and not key.startswith(_TRAINING_ONLY)
        and not key.startswith(("adapter_embedding_dim", "hidden_dim", "conditional_embedding_dim"))  # tensors show
        and given[key] != own[key]
    ]


def _shown(value: Any) -> str:
    values = list(value) if isinstance(value, tuple) else [value]
    return str(values[0] if len(set(values)) == 1 else values)


def shared_lora(checkpoints: Sequence[Checkpoint]) -> Path | None:
    """The LoRA of the one LLM that hears all checkpoints; None without.

    Raises :class:`UserError` when they differ in it: an ensemble is heard in one pass of one language model.
    """
    folders = {checkpoint.name: checkpoint.lora_folder for checkpoint in checkpoints}
    found = {
        name: None if folder is None else tensors_digest(read_lora(folder).tensors)[:12]
        for name, folder in (folders.items() if len(folders) > 1 else ())
    }
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} ({digest or 'none'})" for name, digest in found.items())
        raise UserError(
            f"checkpoint_name: an ensemble needs one language model, and its members' LoRA differ: {listed}"
        )
    return next(iter(folders.values()), None)


def adapter_prefix(name: str) -> str:
    """How the names of an encoder's adapter tensors begin."""
    return f"audio_adapter.adapters.{name}."


def load_checked(
    audio_embedder: AudioEmbedder,
    given: dict[str, Tensor],
    expected: Mapping[str, Tensor],
    where: str,
    assign: bool = False,
) -> None:
    """Load tensors into an embedder. Raises :class:`UserError` naming every one that does not fit ``expected``."""
    problems = tensor_mismatches(given, expected)
    if problems:
        raise UserError(f"checkpoint {where} does not fit the model config: {'; '.join(problems)}")
    audio_embedder.load_state_dict(given, strict=False, assign=assign)
