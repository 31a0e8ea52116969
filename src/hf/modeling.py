"""A trained model for transformers: audio embedder and language model behind one ``generate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.hub import convert_file_size_to_int

from src.audio.waveform import Waveform
from src.common.errors import UserError, error_text
from src.hf.configuration import AlarmConfig, NoCodeFiles
from src.model import published
from src.model.alarm import check_width
from src.model.audio_embedder import AudioEmbedder, build_audio_embedder, build_feature_extractor
from src.model.checkpoints import Checkpoint, load_audio_embedder, open_checkpoint, write_config
from src.model.config import ModelConfig
from src.model.export import HEAD, SHARD_BYTES, warn_of_local_sources, write_shards
from src.model.llm import config_width, freeze, generation_settings, resolve_source
from src.model.lora_files import Lora, attach_lora, write_lora
from src.model.precision import torch_dtype
from src.model.wrapped_llms.causal_lm import Qwen3AudioWrappedConfig


class AlarmForConditionalGeneration(NoCodeFiles, PreTrainedModel, GenerationMixin):
    """Answers about clips. Each embedding of a clip has a position with ``config.audio_token_id`` in ``input_ids``.

    Without ``audio_embedder`` and ``llm`` both are built with random weights.
    """

    config_class: Any = AlarmConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    # PreTrainedModel checks `attn_implementation` against these; the parts compute attention, and check it again
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        config: AlarmConfig,
        audio_embedder: AudioEmbedder | None = None,
        llm: Any = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__(config)
        model = _only_model(config)
        if audio_embedder is None:
            width = config_width(config.text_config)
            audio_embedder = build_audio_embedder(model.config, width, encoder_weights=False).eval()
        # first, because a model's `dtype` is that of its first parameter: samples must have the embedder's
        self.audio_embedder = audio_embedder
        self.llm: Any = freeze(AutoModelForCausalLM.from_config(config.text_config)) if llm is None else llm
        check_width(self.audio_embedder, self.llm)
        self.generation_config = self.llm.generation_config
        self._extractor = build_feature_extractor(model.config)
        self._lora = lora
        """LoRA that is merged into the language model's weights, saved next to them for this project's programs."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *_: Any,
        config: Any = None,
        dtype: torch.dtype | str | None = None,
        audio_dtype: torch.dtype | str = torch.float32,
        device_map: str | torch.device | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> AlarmForConditionalGeneration:
        """The model of a checkpoint of any form: a folder or Hub id.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            config: as ``AutoConfig`` loads it; not needed.
            dtype: of the language model; None or "auto": as it is stored.
            audio_dtype: of the audio embedder.
            device_map: one device, or "auto" for the first GPU.
            revision: of a Hub id.
            trust_remote_code: has no effect, no remote code is run.
            kwargs: of the language model's ``from_pretrained``, such as ``attn_implementation``.

        Raises:
            UserError: the checkpoint or its language model is unusable.
        """
        # not PreTrainedModel's way: a checkpoint may name its language model and encoders in other repositories
        if isinstance(config, AlarmConfig):
            _only_model(config)
        checkpoint = open_checkpoint(pretrained_model_name_or_path, revision)
        if not isinstance(config, AlarmConfig):
            config = AlarmConfig.of_checkpoints([checkpoint])
        precision = torch_dtype(audio_dtype) if isinstance(audio_dtype, str) else audio_dtype
        loaded = load_audio_embedder(
            pretrained_model_name_or_path, dtype=precision, revision=revision, encoder_dtype=precision
        )
        if dtype in (None, "auto"):
            dtype = config.text_config.dtype or torch.float32
        llm = _load_llm(checkpoint, config, torch_dtype(dtype) if isinstance(dtype, str) else dtype, kwargs)
        config.name_or_path = str(pretrained_model_name_or_path)
        model = AlarmForConditionalGeneration(config, loaded.audio_embedder, llm, checkpoint.lora())
        if device_map == "auto":
            device_map = "cuda:0" if torch.cuda.is_available() else "cpu"
        return model.to(device_map or "cpu").eval()

    def save_pretrained(self, save_directory: str | Path, max_shard_size: int | str = SHARD_BYTES) -> None:
        """Write the complete model, its configuration and LoRA; tensors have the published names.

        The folder is also a checkpoint for this project's programs. ``max_shard_size`` is in bytes, or a text such as
        "5GB". Raises :class:`UserError` if the folder contains weights.
        """
        folder = Path(save_directory)
        if any(folder.glob("*.safetensors")):
            raise UserError(f"{folder}: contains a checkpoint already; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        # a tied output layer is the table of input embeddings: safetensors would store it twice
        tied = bool(self.config.text_config.get_text_config(decoder=True).tie_word_embeddings)
        tensors = {name: value for name, value in self.llm.state_dict().items() if not (tied and name == HEAD)}
        tensors |= {published.PREFIX + name: value for name, value in self.audio_embedder.state_dict().items()}
        write_shards(tensors.items(), folder, convert_file_size_to_int(max_shard_size))
        write_description(folder, self.config, self.generation_config)
        write_lora(folder, self._lora)
        write_config(folder, _only_model(self.config).with_width(self.audio_embedder.llm_dim))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """As of any model; a warning names parts of the configuration that are folders of this machine."""
        warn_of_local_sources(_only_model(self.config), repo_id)
        address: str = super().push_to_hub(repo_id, **kwargs)
        return address

    def get_input_embeddings(self) -> Any:
        """Of the language model; it has no row for the placeholder of audio."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The language model's output layer."""
        return self.llm.get_output_embeddings()

    def get_decoder(self) -> Any:
        """The language model without its output layer."""
        return self.llm.get_decoder()

    @torch.no_grad()
    def get_audio_features(
        self, input_values: Tensor, input_lengths: Tensor, input_rates: Tensor, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Embeddings of clips as :class:`src.hf.processing.AlarmFeatureExtractor` gives them.

        ``pooler_output`` is (embeddings of all clips, llm_dim), learned separators included.
        """
        sizes = zip(input_lengths.tolist(), input_rates.tolist(), strict=True)
        clips = [
            Waveform(samples[None, :length].float(), int(rate))
            for samples, (length, rate) in zip(input_values, sizes, strict=True)
        ]
        features = self._extractor.to(self.audio_embedder.device)(clips)
        frames = [self.audio_embedder.with_separators(each) for each in self.audio_embedder(features)]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(frames))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        input_values: Tensor | None = None,
        input_lengths: Tensor | None = None,
        input_rates: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's output, with its ``loss`` for ``labels``, for what the processor returns."""
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, input_values, input_lengths, input_rates)
        return self.llm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        input_lengths: Tensor | None = None,
        input_rates: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's ``generate`` for what the processor returns; sequences begin with ``input_ids``."""
        ids = inputs if input_ids is None else input_ids
        embeds = self._embed(ids, input_values, input_lengths, input_rates)
        assert ids is not None
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        result = self.llm.generate(inputs_embeds=embeds, attention_mask=mask.to(embeds.device), **kwargs)
        # generate returns only the new tokens for a prompt of embeddings, and the whole sequence for one of ids
        written = result if isinstance(result, Tensor) else result.sequences
        each = len(written) // len(ids)  # num_return_sequences
        sequences = torch.cat([ids.to(written.device).repeat_interleave(each, dim=0), written], dim=1)
        if isinstance(result, Tensor):
            return sequences
        result.sequences = sequences
        return result

    def _embed(
        self,
        ids: Tensor | None,
        input_values: Tensor | None,
        input_lengths: Tensor | None,
        input_rates: Tensor | None,
    ) -> Tensor:
        """Embeddings (texts, tokens, llm_dim) of ids with the clips' embeddings at the placeholders.

        Raises :class:`UserError` if their numbers differ.
        """
        if ids is None:
            raise UserError("model: got neither input_ids nor inputs_embeds")
        table = self.get_input_embeddings()
        ids = ids.to(table.weight.device)
        places = ids == self.config.audio_token_id
        embeds = table(ids.masked_fill(places, 0))  # the placeholder's id may be beyond the table
        audio = embeds.new_empty(0, embeds.shape[-1])
        if input_values is not None:
            assert input_lengths is not None and input_rates is not None
            audio = self.get_audio_features(input_values, input_lengths, input_rates).pooler_output.to(embeds)
        if int(places.sum()) != len(audio):
            raise UserError(
                f"model: got {int(places.sum())} placeholders of audio in input_ids for {len(audio)} embeddings; "
                "pass all that the processor returns"
            )
        return embeds.masked_scatter(places[..., None], audio)


class PublishedFormForCausalLM(AlarmForConditionalGeneration):
    """Loads the published form, whose ``config.json`` has a model type of its own."""

    config_class = Qwen3AudioWrappedConfig


def _only_model(config: AlarmConfig) -> ModelConfig:
    """The model's configuration. Raises :class:`UserError` for an ensemble."""
    models = config.models
    if len(models) > 1:
        raise UserError(
            f"{config.name_or_path or 'config'}: an ensemble of {len(models)} checkpoints is not one model for "
            "transformers; serve the folder with vLLM (docs/serving.md)"
        )
    return models[0]


def write_description(folder: Path, config: AlarmConfig, generation: GenerationConfig | None) -> None:
    """Write ``config.json`` and ``generation_config.json`` of a folder with the complete model."""
    config.save_pretrained(folder)
    if generation is not None:
        generation.save_pretrained(folder)


def _load_llm(checkpoint: Checkpoint, config: AlarmConfig, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The language model: from the checkpoint, where it is in it; else from its source, with LoRA merged."""
    text, model = config.text_config, checkpoint.config
    try:
        if checkpoint.is_full_model:
            names = [name for name in checkpoint.tensors.names() if not name.startswith(published.AUDIO_PREFIX)]
            state = dict(checkpoint.tensors.read(names))
            # not the Auto class: it looks into a folder also where weights and configuration are given
            family = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
            llm = family.from_pretrained(None, config=text, state_dict=state, dtype=dtype, **options)
            stated = _stored_generation(checkpoint) or generation_settings(model.llm, model.llm_revision)
            llm.generation_config = GenerationConfig(**stated)
            return freeze(llm)
        llm = AutoModelForCausalLM.from_pretrained(
            resolve_source(model.llm), config=text, revision=model.llm_revision, dtype=dtype, **options
        )
    except (OSError, ValueError) as error:
        reason = error_text(error)
        raise UserError(f"LLM of checkpoint {checkpoint.name} cannot be loaded: {reason}") from error
    lora = checkpoint.lora()
    return freeze(llm if lora is None else attach_lora(llm, lora, checkpoint.name).merge_and_unload(safe_merge=True))


def _stored_generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """Settings of ``generation_config.json`` next to a complete model; empty where there is none."""
    if checkpoint.folder is None:
        return {}
    try:
        stated: dict[str, Any] = GenerationConfig.from_pretrained(str(checkpoint.folder)).to_diff_dict()
    except OSError:
        return {}
    return stated
