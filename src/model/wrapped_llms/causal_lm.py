"""The whole model of a checkpoint under the published names: audio embedder, language model, and both together.

For users' notebooks and scripts; this project's own programs use :mod:`src.model.audio_embedder` and
:mod:`src.model.alarm`. The language model is loaded when something asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from src.audio.features import EncoderFeatures
from src.model.audio_embedder import AudioEmbedder
from src.model.checkpoints import LoadedEmbedder, load_audio_embedder
from src.model.llm import llm_config, load_input_embeddings, load_llm
from src.model.published_config import published_from_model_config
from src.model.splice import IGNORE, TokenizedTurn, splice_batch, splice_items

Ids = Sequence[Tensor]
AudioBatch = Mapping[str, Tensor]


class Qwen3AudioWrappedConfig(Qwen3Config):
    """A Qwen3 configuration with the audio part of a published ``config.json``."""

    model_type = "qwen3_audio"
    audio_encoder_configs: list[dict[str, Any]] | None = None
    audio_adapter_configs: list[dict[str, Any]] | None = None
    audio_fusion_config: dict[str, Any] | None = None
    audio_postprocessing_config: dict[str, Any] | None = None
    audio_sep_d_embed: int = 1024
    use_explicit_audio_tokens: bool = False


class Qwen3AudioWrappedForCausalLM(nn.Module):
    """A checkpoint's audio embedder with its language model.

    Args:
        loaded: the audio embedder.
        llm: folder or Hub id of the language model; None: the one the checkpoint was trained with.
        dtype: of the language model; the published default is float32.

    ``tokenizer_model_max_length`` cuts what :meth:`prepare_multimodal_inputs` gives; None: nothing is cut.
    """

    def __init__(self, loaded: LoadedEmbedder, llm: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.audio_embedder: AudioEmbedder = loaded.audio_embedder
        self.loaded = loaded
        self.llm_name = llm or loaded.config.llm
        self.llm_revision = loaded.config.llm_revision if self.llm_name == loaded.config.llm else None
        self.dtype = dtype
        self.tokenizer_pad_token_id: int | None = None
        self.tokenizer_model_max_length: int | None = None
        self._llm: Any = None
        self._table: nn.Embedding | None = None

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path, llm: str | None = None, dtype: torch.dtype = torch.float32
    ) -> Qwen3AudioWrappedForCausalLM:
        """The model of a checkpoint of any form, a folder or Hub id. Raises :class:`UserError` if it is unusable."""
        return cls(load_audio_embedder(checkpoint), llm, dtype).eval()

    @property
    def llm(self) -> Any:
        """The frozen language model, loaded with its first use to the audio embedder's device."""
        if self._llm is None:
            self._llm, _ = load_llm(self.llm_name, self.dtype, self.device, revision=self.llm_revision)
        return self._llm

    @property
    def device(self) -> torch.device:
        """Where the audio embedder is."""
        return self.audio_embedder.device

    @cached_property
    def config(self) -> Qwen3AudioWrappedConfig:
        """The language model's configuration with the audio part, as in a published ``config.json``."""
        own = llm_config(self.llm_name, self.llm_revision).to_dict()
        own.pop("model_type", None)
        return Qwen3AudioWrappedConfig(**own, **published_from_model_config(self.loaded.config)["config"])

    def get_model(self) -> Qwen3AudioWrappedForCausalLM:
        """This object; it has what the published inner model has: ``embed_tokens``, ``audio_start_emb``, ..."""
        return self

    def get_config(self) -> Qwen3AudioWrappedConfig:
        """See :attr:`config`."""
        return self.config

    def get_head(self) -> nn.Module:
        """The language model's output layer."""
        return self.llm.get_output_embeddings()

    def get_audio_encoder(self) -> nn.Module:
        """The frozen encoders."""
        return self.audio_embedder.audio_encoder

    def get_audio_adapter(self) -> nn.Module:
        """The adapters, one for each encoder."""
        return self.audio_embedder.audio_adapter

    def get_audio_fusion(self) -> nn.Module:
        """The fusion."""
        return self.audio_embedder.audio_fusion

    def get_audio_postprocessing(self) -> nn.Module:
        """Identity: there is no other post-processing."""
        return nn.Identity()

    def get_audio_sep_embed(self) -> tuple[Tensor, Tensor]:
        """Learned rows (1, llm_dim) before and after the audio."""
        return self.audio_start_emb, self.audio_end_emb

    @property
    def audio_start_emb(self) -> Tensor:
        """Learned row (1, llm_dim) before the audio."""
        return self.audio_embedder.audio_start_emb

    @property
    def audio_end_emb(self) -> Tensor:
        """Learned row (1, llm_dim) after the audio."""
        return self.audio_embedder.audio_end_emb

    @property
    def embed_tokens(self) -> nn.Module:
        """The language model's input embeddings; they alone are read as long as the model itself is not needed."""
        if self._llm is not None:
            return self._llm.get_input_embeddings()
        if self._table is None:
            self._table = load_input_embeddings(self.llm_name, self.llm_revision, self.dtype)
        return self._table.to(self.device)

    def set_tokenizer_arguments(self, tokenizer: Any) -> None:
        """Take the pad id and the most positions from a tokenizer."""
        self.tokenizer_pad_token_id = tokenizer.pad_token_id
        self.tokenizer_model_max_length = tokenizer.model_max_length

    def get_audio_embeddings(
        self, audio: AudioBatch, audio_attention: AudioBatch, audio_lengths: AudioBatch
    ) -> list[Tensor]:
        """Embeddings (frames_i, llm_dim) of each clip, without separators; at least one frame each."""
        return self.audio_embedder(
            {name: EncoderFeatures(audio[name], audio_attention[name], audio_lengths[name]) for name in audio}
        )

    def prepare_multimodal_inputs(
        self,
        inputs_system: Ids | None,
        inputs_start: Ids,
        inputs_main: Ids,
        outputs: Ids | None,
        audio: AudioBatch | None,
        audio_attention: AudioBatch | None = None,
        audio_lengths: AudioBatch | None = None,
        padding_side: Literal["left", "right"] = "right",
        return_batch: bool = True,
    ) -> tuple[Any, Any, Any]:
        """Text and audio of a batch as embeddings.

        Ids are one tensor (length_i,) for each item; ``audio`` and its masks and lengths are by encoder name, as
        ``prepare_audio`` gives them; None: text only.

        Returns:
            Embeddings (batch, length, llm_dim), labels (batch, length) with -100 where nothing is predicted (None
            without ``outputs``), and the attention mask (batch, length). Without ``return_batch`` lists of
            (length_i, llm_dim), (length_i,) and (length_i,).
        """
        turns = [
            TokenizedTurn(
                [*([] if inputs_system is None else inputs_system[place].tolist()), *start.tolist()],
                main.tolist(),
                None if outputs is None else outputs[place].tolist(),
            )
            for place, (start, main) in enumerate(zip(inputs_start, inputs_main, strict=True))
        ]
        embedded = None
        if audio is not None:
            assert audio_attention is not None and audio_lengths is not None
            embedded = self.get_audio_embeddings(audio, audio_attention, audio_lengths)
        separators = None if embedded is None else self.audio_embedder.separators()
        limit = self.tokenizer_model_max_length
        if return_batch:
            batch = splice_batch(self._embed, turns, embedded, separators, padding_side, limit)
            return batch.inputs_embeds, batch.labels, batch.attention_mask
        items, labels = splice_items(self._embed, turns, embedded, separators, limit)
        masks = [torch.ones(len(item), dtype=torch.int64, device=item.device) for item in items]
        return items, None if outputs is None else [torch.tensor(label) for label in labels], masks

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_system: Ids | None = None,
        inputs_start: Ids | None = None,
        inputs_main: Ids | None = None,
        outputs: Ids | None = None,
        audio: AudioBatch | None = None,
        audio_attention: AudioBatch | None = None,
        audio_lengths: AudioBatch | None = None,
        return_labels_and_loss_mask: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The language model's output for ids, embeddings, or turns with audio (with its ``loss`` for ``outputs``).

        With ``return_labels_and_loss_mask`` also the labels and where they count.
        """
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self._embed(input_ids)
        elif inputs_embeds is None:
            inputs_embeds, labels, attention_mask = self.prepare_multimodal_inputs(
                inputs_system, inputs_start or [], inputs_main or [], outputs, audio, audio_attention, audio_lengths
            )
        result = self.llm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, labels=labels, **kwargs)
        if not return_labels_and_loss_mask:
            return result
        return result, labels, None if labels is None else labels != IGNORE

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        inputs_system: Ids | None = None,
        inputs_start: Ids | None = None,
        inputs_main: Ids | None = None,
        outputs: Ids | None = None,
        audio: AudioBatch | None = None,
        audio_attention: AudioBatch | None = None,
        audio_lengths: AudioBatch | None = None,
        return_inputs_length: bool = False,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Token ids (batch, new tokens) that the language model writes; ``outputs`` are not shown to it.

        With ``return_inputs_length`` also the positions of the padded input.
        """
        mask = kwargs.pop("attention_mask", None)
        if inputs_start is not None:
            # padding on the left: every item must end where generation goes on
            embeds, _, mask = self.prepare_multimodal_inputs(
                inputs_system, inputs_start, inputs_main or [], None, audio, audio_attention, audio_lengths, "left"
            )
        else:
            assert inputs is not None
            embeds = self._embed(inputs)
            mask = torch.ones(inputs.shape, dtype=torch.int64, device=embeds.device) if mask is None else mask
        result = self.llm.generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)
        return (result, embeds.shape[1]) if return_inputs_length else result

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embed_tokens(ids.to(self.device))
