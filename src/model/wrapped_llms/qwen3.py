"""The published names of a checkpoint's model, for users' notebooks and scripts: see the README's Python example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.model.audio_embedder import AudioEmbedder
from src.model.checkpoints import Checkpoint, LoadedEmbedder, load_audio_embedder, open_checkpoint
from src.model.llm import llm_width
from src.model.precision import torch_dtype
from src.model.wrapped_llms.causal_lm import Qwen3AudioWrappedConfig, Qwen3AudioWrappedForCausalLM

__all__ = ["Qwen3AudioWrappedConfig", "Qwen3AudioWrappedFeatureExtractor", "Qwen3AudioWrappedForCausalLM"]


class ClipFeatures:
    """Features of one clip by encoder name, as the published ``AudioFeatureExtractor`` returns them."""

    def __init__(self, extractor: AudioFeatureExtractor) -> None:
        self.extractor = extractor

    def __call__(self, audio: Any) -> dict[str, dict[str, Tensor]]:
        """``audio`` (frames, dim), ``audio_attention`` (frames,) and ``audio_lengths`` (scalar), each by encoder.

        ``audio`` in any form that :func:`src.audio.waveform.load_waveform` takes.
        """
        features = self.extractor([load_waveform(audio)])
        return {
            "audio": {name: batch.features[0] for name, batch in features.items()},
            # int64, as published; ours are int8
            "audio_attention": {name: batch.mask[0].long() for name, batch in features.items()},
            "audio_lengths": {name: batch.lengths[0] for name, batch in features.items()},
        }


class Qwen3AudioWrappedFeatureExtractor(nn.Module):
    """Turns audio into embeddings for the language model; text stays text, vLLM embeds it.

    Nothing of the language model is loaded until text is to be embedded here. The audio part is read from the
    checkpoint; ``feature_extractor_configs`` of ``model_config`` need not be given.

    Args:
        model_config: ``src/configs/model/default_inference.yaml`` as a mapping; its ``llm`` is checked against the
            checkpoint. ``front_end_dtype`` (float32) and ``encoder_dtype`` choose the precision.
        checkpoint_name: folder or Hub id.
        tokenizer: of the language model.

    Raises:
        UserError: the checkpoint is unusable, or its embeddings do not fit the language model.
    """

    def __init__(self, model_config: Any, checkpoint_name: str, tokenizer: Any) -> None:
        super().__init__()
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.checkpoint: Checkpoint = open_checkpoint(checkpoint_name)  # get_response reads its LoRA and its record
        precision = model_config.get("front_end_dtype") or "float32"
        encoders = model_config.get("encoder_dtype") or precision
        loaded = load_audio_embedder(
            checkpoint_name, dtype=torch_dtype(precision), encoder_dtype=torch_dtype(encoders)
        )
        llm = model_config.get("llm") or loaded.config.llm
        width = llm_width(llm, model_config.get("llm_revision"))
        if width != loaded.audio_embedder.llm_dim:
            raise UserError(
                f"checkpoint {checkpoint_name!r} was trained for {loaded.config.llm} and gives embeddings "
                f"{loaded.audio_embedder.llm_dim} wide, {llm} takes {width}: set model_config.llm to its own"
            )
        self.model = Qwen3AudioWrappedForCausalLM(loaded, llm)
        if tokenizer is not None:
            self.model.set_tokenizer_arguments(tokenizer)
        self.feature_extractor = ClipFeatures(loaded.feature_extractor)
        self.eval().freeze()

    @property
    def audio_embedder(self) -> AudioEmbedder:
        """Encoders, adapters, fusion and separators."""
        return self.model.audio_embedder

    @property
    def device(self) -> torch.device:
        """Where clips are encoded."""
        return self.audio_embedder.device

    @property
    def loaded(self) -> LoadedEmbedder:
        """Audio embedder, feature extractor and configuration."""
        return self.model.loaded

    def freeze(self) -> None:
        """Stop gradients; it is built that way."""
        self.requires_grad_(False)

    def to(self, *args: Any, **kwargs: Any) -> Qwen3AudioWrappedFeatureExtractor:
        """As of any module; features are computed there too."""
        super().to(*args, **kwargs)
        self.loaded.feature_extractor.to(self.device)
        return self

    def prepare_audio(
        self, audio_list: Sequence[Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Features (batch, frames, dim), masks (batch, frames) and lengths (batch,) of clips, by encoder name."""
        batch = self.loaded.feature_extractor([load_waveform(clip) for clip in audio_list])
        return (
            {name: each.features.to(self.device) for name, each in batch.items()},
            {name: each.mask.to(self.device).long() for name, each in batch.items()},
            {name: each.lengths.to(self.device) for name, each in batch.items()},
        )

    @torch.inference_mode()
    def get_text_embeds(self, input_ids: Sequence[Tensor]) -> list[Tensor]:
        """The language model's input embeddings (length_i, llm_dim) of each list of ids (length_i,), in float32."""
        return [self.model.embed_tokens(ids.to(self.device)) for ids in input_ids]

    @torch.inference_mode()
    def forward(
        self,
        *positional: Any,
        inputs_system: Sequence[Tensor] | None = None,
        inputs_start: Sequence[Tensor] | None = None,
        inputs_main: Sequence[Tensor] | None = None,
        audio: Sequence[Any] | None = None,
    ) -> list[Tensor]:
        """Embeddings of clips, or as published of whole prompts with clips.

        ``forward(audio)`` gives ``(frames, llm_dim)`` for each clip, learned separators included. With
        ``inputs_start`` and ``inputs_main`` (ids (length_i,) of each prompt before and after the audio, and
        optionally ``inputs_system``) it gives ``(positions, llm_dim)`` for each prompt, text included; positional
        arguments then are ``inputs_system, inputs_start, inputs_main, audio``. Clips in any form that
        :func:`src.audio.waveform.load_waveform` takes.
        """
        # One argument is a list of clips; more are in the published order, in which clips come last.
        if len(positional) == 1:
            audio = positional[0]
        elif positional:
            given = [*positional, *(inputs_start, inputs_main, audio)[len(positional) - 1 :]]
            inputs_system, inputs_start, inputs_main, audio = given
        if audio is None:
            raise UserError("feature extractor: got no clips; give audio, a list with one clip for each prompt")
        if inputs_start is None:
            features = self.loaded.feature_extractor([load_waveform(clip) for clip in audio])
            return [self.audio_embedder.with_separators(frames) for frames in self.audio_embedder(features)]
        items, _, _ = self.model.prepare_multimodal_inputs(
            inputs_system, inputs_start, inputs_main or [], None, *self.prepare_audio(audio), return_batch=False
        )
        return items
