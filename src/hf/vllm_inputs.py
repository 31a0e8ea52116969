"""Prompts and clips for vLLM: clips keep their rates, and a placeholder becomes as many tokens as embeddings.

vLLM calls these classes in its front-end process. They only decode clips and count embeddings; the audio embedder
runs in the worker (:mod:`src.hf.vllm_model`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import AudioProcessorItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from src.audio.waveform import AudioError, Waveform, load_waveform
from src.hf.configuration import AUDIO_TOKEN, AlarmConfig
from src.hf.processing import AlarmFeatureExtractor, AlarmProcessor

DUMMY_SECONDS = 30.0
"""Length of the clip with which vLLM measures the memory that encoders take."""
EMBEDDING = -1
"""Stands for an embedding until its token id is set."""
Clip = tuple[Any, int]
"""Samples ``(n,)`` or ``(channels, n)``, and their rate."""


class ClipParser(MultiModalDataParser):
    """Clips with their rates. vLLM's own parser would resample them, to one rate for all encoders."""

    def __init__(self, sampling_rate: int, **options: Any) -> None:
        super().__init__(**options)
        self._sampling_rate = sampling_rate

    def _parse_audio_data(self, data: Any) -> AudioProcessorItems | None:
        """One clip or a list of them; a clip is an array, or a pair of array and rate.

        An array without a rate has the processor's. None in a list stands for a clip that vLLM has in its cache.
        """
        if data is None:
            return None
        several = isinstance(data, list) and not (data and isinstance(data[0], (int, float)))
        clips = data if several else [data]
        return AudioProcessorItems([None if clip is None else self._with_rate(clip) for clip in clips])

    def _with_rate(self, clip: Any) -> Clip:
        if isinstance(clip, tuple) and len(clip) == 2:
            samples, rate = clip
            return samples, int(rate or self._sampling_rate)
        if isinstance(clip, Waveform):
            return clip.samples.numpy(), clip.sample_rate
        return clip, self._sampling_rate


class AlarmProcessingInfo(BaseProcessingInfo):
    """Answers vLLM's questions about the model's inputs."""

    def get_hf_config(self) -> AlarmConfig:
        """The model's configuration."""
        return self.ctx.get_hf_config(AlarmConfig)

    def get_hf_processor(self, **kwargs: object) -> AlarmProcessor:
        """The model's processor."""
        return self.ctx.get_hf_processor(AlarmProcessor, **kwargs)

    def get_feature_extractor(self) -> AlarmFeatureExtractor:
        """It decodes clips and counts their embeddings."""
        extractor: AlarmFeatureExtractor = self.get_hf_processor().feature_extractor
        return extractor

    def get_data_parser(self) -> ClipParser:
        """A parser that leaves clips at their rates."""
        return ClipParser(
            self.get_feature_extractor().sampling_rate,
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_default_tok_params(self) -> Any:
        """No special tokens around prompts."""
        # chat templates write them, as everywhere in this project (src.prompts.chat)
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of clips."""
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """One clip may fill the context; nothing else limits its length."""
        return {"audio": seq_len}


class AlarmDummyInputs(BaseDummyInputsBuilder[AlarmProcessingInfo]):
    """Silent clips, with which vLLM measures memory at its start."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A placeholder for each clip."""
        return AUDIO_TOKEN * mm_counts.get("audio", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> Any:
        """Clips of :data:`DUMMY_SECONDS`, or as long as ``--limit-mm-per-prompt`` says (in samples)."""
        extractor = self.info.get_feature_extractor()
        stated = getattr(mm_options.get("audio"), "length", None)
        length = stated or int(DUMMY_SECONDS * extractor.sampling_rate)
        clip = (np.zeros(length, dtype=np.float32), extractor.sampling_rate)
        return {"audio": [clip] * mm_counts.get("audio", 0)}


class AlarmVllmProcessor(BaseMultiModalProcessor[AlarmProcessingInfo]):
    """Puts the clips' places into prompts, by the counts of the model's own feature extractor."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """Mono ``input_values`` of each clip, ``input_rates`` and ``num_audio_tokens`` (clips, checkpoints)."""
        # not vLLM's call of the processor, which rounds samples to the language model's dtype and pads clips
        extractor = self.info.get_feature_extractor()
        clips = [_load(clip) for clip in hf_data["audio"]]  # type: ignore[attr-defined]
        return BatchFeature(
            {
                "input_values": [clip.mono.float().contiguous() for clip in clips],
                "input_rates": torch.tensor([clip.sample_rate for clip in clips]),
                "num_audio_tokens": torch.tensor([extractor.count(clip) for clip in clips]),
            }
        )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        """Each of the outputs has an element for each clip."""
        return {
            "input_values": MultiModalFieldConfig.batched("audio"),
            "input_rates": MultiModalFieldConfig.batched("audio", keep_on_cpu=True),
            "num_audio_tokens": MultiModalFieldConfig.batched("audio", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        """The placeholder of a clip becomes a token for each of its embeddings, and the texts of an ensemble."""
        processor = self.info.get_hf_processor()
        config = self.info.get_hf_config()
        stand_in = embedding_token(config, processor.audio_token_id)
        counts: Sequence[Tensor] = out_mm_kwargs.get_data().get("num_audio_tokens", ())

        def replacement(item: int) -> PromptUpdateDetails:
            ids = processor.clip_ids(counts[item].tolist(), EMBEDDING)
            places = torch.tensor(ids) == EMBEDDING
            filled = [stand_in if each == EMBEDDING else each for each in ids]
            return PromptUpdateDetails(filled, lambda _: places)

        return [PromptReplacement("audio", target=[processor.audio_token_id], replacement=replacement)]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """As of any model, for a prompt with as many placeholders as clips.

        Raises ValueError otherwise: one that a user has written would move the clips behind it.
        """
        places = mm_res.prompt_ids.count(self.info.get_hf_processor().audio_token_id)
        clips = mm_items.get_all_counts().get("audio", 0)
        if places != clips:
            raise ValueError(
                f"prompt: got {places} placeholders {AUDIO_TOKEN} for {clips} clips; expected one for each clip"
            )
        return super()._maybe_apply_prompt_updates(mm_items, mm_res)


def embedding_token(config: AlarmConfig, audio_token_id: int) -> int:
    """Token id of positions with embeddings.

    It is that of the placeholder if the language model has a row for it, which is never read; penalties of sampling
    count the prompt's ids, and one beyond the vocabulary would be out of their range.
    """
    text: Any = config.text_config
    if audio_token_id < text.vocab_size:
        return audio_token_id
    return text.pad_token_id if text.pad_token_id is not None else 0


def _load(clip: Clip) -> Waveform:
    samples, rate = clip
    try:
        return load_waveform(samples, sample_rate=rate)
    except AudioError as error:
        raise ValueError(str(error)) from error  # which vLLM's server answers with status 400
