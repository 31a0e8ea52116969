"""A trained model inside vLLM: the audio embedder in the worker, and vLLM's own language model.

The entry point ``vllm.general_plugins`` registers it (:func:`src.hf.register_vllm`), so that ``vllm serve FOLDER``
and ``vllm.LLM(FOLDER)`` need no option for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.hf.configuration import AUDIO_TOKEN, AlarmConfig
from src.hf.vllm_inputs import AlarmDummyInputs, AlarmProcessingInfo, AlarmVllmProcessor
from src.inference.ensemble import EmbedderEnsemble
from src.model import published
from src.model.checkpoints import ENSEMBLE_FOLDER, open_checkpoint
from src.model.precision import torch_dtype


@MULTIMODAL_REGISTRY.register_processor(AlarmVllmProcessor, info=AlarmProcessingInfo, dummy_inputs=AlarmDummyInputs)
class AlarmForVllm(nn.Module, SupportsMultiModal, SupportsPP):
    """Audio embedder and language model of a checkpoint.

    The language model has the dtype, quantisation and parallelism that vLLM is started with. The audio embedder is in
    ``config.audio_dtype`` on each worker, as it is read from its own files, so that no option of vLLM changes it.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model = vllm_config.model_config
        self.config: AlarmConfig = model.hf_config
        assert self.config.audio_token_id is not None
        self._placeholder = self.config.audio_token_id
        self._name, self._revision = model.model, model.revision
        # by this mark vLLM finds the language model, and leaves it out where it runs encoders only
        mark: Any = self._mark_language_model
        with mark(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=self.config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        self._ensemble: EmbedderEnsemble | None = None
        if model.get_multimodal_config().get_limit_per_prompt("audio") > 0:
            device = vllm_config.device_config.device
            dtype = torch_dtype(self.config.audio_dtype)
            with _plain_torch():
                self._ensemble = EmbedderEnsemble.load(self._checkpoints(), device, dtype, dtype, self._revision)
        embedders = [] if self._ensemble is None else [each.audio_embedder for each in self._ensemble.loaded]
        self.audio_embedders = nn.ModuleList(embedders)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Placeholder of a clip, for chat templates that do not write it themselves."""
        return AUDIO_TOKEN if modality == "audio" else None

    @torch.inference_mode()
    def embed_multimodal(
        self, input_values: Sequence[Tensor] | Tensor = (), input_rates: Sequence[int] | Tensor = (), **_: Any
    ) -> list[Tensor]:
        """Embeddings ``(embeddings of the clip, llm_dim)`` of each clip, learned separators included.

        ``input_values`` are mono samples ``(n,)`` of each clip at ``input_rates`` samples per second.
        """
        if self._ensemble is None or not len(input_values):
            return []
        clips = [
            Waveform(samples.reshape(1, -1), int(rate))
            for samples, rate in zip(input_values, input_rates, strict=True)
        ]
        return [torch.cat(parts) for parts in self._ensemble.encode(clips, to_cpu=False)]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of a prompt; the placeholder, for which the language model may have no row, is not looked up."""
        ids = input_ids.masked_fill(input_ids.eq(self._placeholder), 0)
        given = multimodal_embeddings
        if given is not None and len(given):
            # vLLM puts them between those of the tokens, and converts nothing
            dtype = self.language_model.embed_input_ids(ids[:1]).dtype
            given = [each.to(dtype) for each in given]
        embedded: Tensor = super().embed_input_ids(ids, given, is_multimodal=is_multimodal)
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Hidden states of the language model."""
        if intermediate_tensors is not None:  # a later stage of a pipeline: it continues the hidden states
            inputs_embeds = None
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits of the language model."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the language model; returns the names of all parameters that have their values."""
        language = ((name, value) for name, value in weights if not name.startswith(published.AUDIO_PREFIX))
        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(language)}
        return loaded | {f"audio_embedders.{name}" for name, _ in self.audio_embedders.named_parameters()}

    def _checkpoints(self) -> list[str]:
        """Names of the checkpoints with the audio embedders: the model itself, or folders in that of an ensemble.

        Raises :class:`UserError` for a folder of train.py, which has the trained part only.
        """
        if len(self.config.models) == 1:
            if not open_checkpoint(self._name, self._revision).is_full_model:
                raise UserError(
                    f"{self._name}: without its language model; write a folder for vLLM with "
                    f"scripts/convert_checkpoint.py {self._name} OUT --to transformers"
                )
            return [self._name]
        folder = Path(self._name)
        if not folder.is_dir():
            pattern = f"{ENSEMBLE_FOLDER}/*"
            folder = Path(snapshot_download(self._name, revision=self._revision, allow_patterns=pattern))
        return [str(folder / ENSEMBLE_FOLDER / str(number)) for number in range(len(self.config.models))]


@contextmanager
def _plain_torch() -> Iterator[None]:
    """PyTorch's own defaults; vLLM builds models with the language model's dtype and device as defaults."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
