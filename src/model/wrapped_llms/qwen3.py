"""The front end of a checkpoint as scripts for the published system make it: see the README's Python example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.audio.waveform import load_waveform
from src.common.errors import UserError
from src.model.checkpoints import Checkpoint, LoadedFrontEnd, load_front_end, open_checkpoint
from src.model.llm import llm_width
from src.model.precision import torch_dtype


class Qwen3AudioWrappedFeatureExtractor(nn.Module):
    """Turns audio into embeddings for the language model; text stays text, vLLM embeds it.

    Nothing of the language model is loaded. What the audio passes through is read from the checkpoint, whichever
    language model that was trained for.

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
        self.checkpoint: Checkpoint = open_checkpoint(checkpoint_name)
        precision = model_config.get("front_end_dtype") or "float32"
        encoders = model_config.get("encoder_dtype") or precision
        loaded = load_front_end(checkpoint_name, dtype=torch_dtype(precision), encoder_dtype=torch_dtype(encoders))
        llm = model_config.get("llm") or loaded.config.llm
        width = llm_width(llm, model_config.get("llm_revision"))
        if width != loaded.front_end.llm_dim:
            raise UserError(
                f"checkpoint {checkpoint_name!r} was trained for {loaded.config.llm} and gives embeddings "
                f"{loaded.front_end.llm_dim} wide, {llm} takes {width}: set model_config.llm to its own"
            )
        self.front_end = loaded.front_end
        self._extractor, self._config, self._name = loaded.feature_extractor, loaded.config, loaded.name

    @property
    def loaded(self) -> LoadedFrontEnd:
        """Front end, feature extractor and configuration."""
        return LoadedFrontEnd(self.front_end, self._extractor, self._config, self._name)

    def to(self, *args: Any, **kwargs: Any) -> Qwen3AudioWrappedFeatureExtractor:
        """As of any module; features are computed there too."""
        super().to(*args, **kwargs)
        self._extractor.to(self.front_end.device)
        return self

    @torch.inference_mode()
    def forward(self, audio: Sequence[Any]) -> list[Tensor]:
        """Embeddings ``(frames, llm_dim)`` of each clip, learned separators included.

        ``audio`` in any form that :func:`src.audio.waveform.load_waveform` takes.
        """
        features = self._extractor([load_waveform(clip) for clip in audio])
        return [self.front_end.enclosed(frames) for frames in self.front_end(features)]
