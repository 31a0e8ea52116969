"""vLLM as the core of the step loop: in this process on a CPU, beside it on a GPU.

Audio enters as mixed prompts: token ids where there is text, embedding rows where there is audio, and a mask that
tells them apart. Unused embedding rows are zeros always, because the prefix cache compares their bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.log import get_logger
from src.generation.config import EngineConfig
from src.generation.engine import Engine
from src.generation.flight import Pass
from src.generation.requests import Sampling, Segment, prompt_length
from src.generation.vllm_lora import lora_options, lora_request
from src.model.llm import resolve_source

log = get_logger(__name__)
GIB = 1024**3
CPU_BLOCK = 32
"""Tokens of a cache block on a CPU: of vLLM's 128, most prompts and continuations could reuse none."""


class VllmEngine(Engine):
    """An engine over a vLLM of its own; ``lora`` is a folder in PEFT's format.

    Raises :class:`UserError` if vLLM is not installed or the model cannot be loaded.
    """

    def __init__(
        self, llm: str, config: EngineConfig | None = None, revision: str | None = None, lora: Path | None = None
    ) -> None:
        from transformers import AutoTokenizer

        config, llm = config or EngineConfig(), resolve_source(llm)
        tokenizer = AutoTokenizer.from_pretrained(llm, revision=revision)
        core = VllmCore.start(llm, config, revision, tokenizer.eos_token_id, lora)
        super().__init__(core, tokenizer, 2 * config.max_num_seqs, config.max_num_seqs)


def prepare_environment() -> None:
    """Defaults that vLLM reads from the environment on import; what the user has set is left alone."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not torch.cuda.is_available():
        # in this process: starts in seconds; a second process would only compete for the same cores
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class VllmCore:
    """vLLM's engine, reduced to submit, step and abort.

    ``llm`` is a ready ``vllm.LLM``, with prompt embeddings enabled. ``params`` (``vllm.SamplingParams``) replaces the
    settings of :class:`Sampling` but for the bounds on tokens. ``lora``, a folder in PEFT's format, goes with every
    request; ``llm`` must have room for it.
    """

    def __init__(self, llm: Any, end_of_turn: int | None, params: Any = None, lora: Path | None = None) -> None:
        self._llm = llm
        self._given = params
        self._lora = None if lora is None else lora_request(lora)
        model = llm.llm_engine.model_config
        self.width = int(model.get_inputs_embeds_size())
        self.vocabulary = int(model.get_vocab_size())
        self.context = int(model.max_model_len)
        self._dtype: torch.dtype = model.dtype
        generation = model.try_get_generation_config()
        ends = generation.get("eos_token_id")
        listed = [ends] if isinstance(ends, int) else list(ends or ())
        self._stops = sorted({*listed, *([] if end_of_turn is None else [end_of_turn])})
        self._defaults = model.get_diff_sampling_param()

    @classmethod
    def start(
        cls,
        llm: str,
        config: EngineConfig,
        revision: str | None,
        end_of_turn: int | None,
        lora: Path | None = None,
    ) -> VllmCore:
        """Load a language model. Raises :class:`UserError` if that fails."""
        prepare_environment()
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"vLLM does not load ({error}); install requirements.txt (GPU) or requirements-cpu.txt"
            ) from error
        options = _llm_options(llm, config, revision) | ({} if lora is None else lora_options(lora))
        try:
            core = cls(LLM(**options), end_of_turn, lora=lora)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:400]
            hint = "" if lora is None else " (with LoRA beside it; engine.lora=merge adds LoRA to its weights first)"
            raise UserError(f"vLLM cannot load the language model {llm!r}{hint}: {reason}") from error
        log.info("vLLM ready: %s, %s, context %d", llm, str(core._dtype).removeprefix("torch."), core.context)
        return core

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Submit a prompt; raises what vLLM raises for a prompt it refuses."""
        prompt = engine_input(segments, self.width, self._dtype)
        params = self._params(sampling, max_tokens, seed)
        self._llm.llm_engine.add_request(key, prompt, params, lora_request=self._lora)

    def step(self) -> list[Pass]:
        """One engine step."""
        written = []
        for output in self._llm.llm_engine.step():
            done = output.outputs[0]
            reason: Any = None
            if output.finished:
                reason = "length" if done.finish_reason == "length" else "stop"
            written.append(Pass(output.request_id, list(done.token_ids), reason))
        return written

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        self._llm.llm_engine.abort_request(list(keys))

    def close(self) -> None:
        """Free the model and its cache."""
        del self._llm

    def _params(self, sampling: Sampling, max_tokens: int, seed: int | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self._given is not None:
            return self._as_given(max_tokens, seed, RequestOutputKind.FINAL_ONLY)
        own = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        drawn: dict[str, Any] = {
            **self._defaults,
            **{name: value for name, value in own.items() if value is not None},
        }
        if sampling.greedy:
            drawn = {"temperature": 0.0}
        drawn["max_tokens"] = max_tokens
        return SamplingParams(
            **drawn,
            seed=seed,
            stop_token_ids=self._stops,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if sampling.streamed else RequestOutputKind.FINAL_ONLY,
        )

    def _as_given(self, max_tokens: int, seed: int | None, output_kind: Any) -> Any:
        """The caller's own settings for one pass."""
        params = self._given.clone()
        params.max_tokens, params.seed, params.output_kind, params.n = max_tokens, seed, output_kind, 1
        params.min_tokens = min(params.min_tokens, max_tokens)
        if not params.ignore_eos:
            params.stop_token_ids = sorted({*(params.stop_token_ids or ()), *self._stops})
        params.detokenize = bool(params.stop)  # stop strings are looked for in the text
        return params


def engine_input(segments: Sequence[Segment], width: int, dtype: torch.dtype) -> Any:
    """vLLM's form of a prompt: tokens alone, or tokens, embeddings ``(tokens, width)`` and the mask."""
    from vllm.inputs.engine import embeds_input, tokens_input

    length = prompt_length(segments)
    ids: list[int] = []
    is_text: list[bool] = []
    embeddings: Tensor | None = None
    for segment in segments:
        if isinstance(segment, Tensor):
            if embeddings is None:
                embeddings = torch.zeros(length, width, dtype=dtype)
            embeddings[len(ids) : len(ids) + len(segment)] = segment.detach().to("cpu", dtype)
            is_text += [False] * len(segment)
            ids += [0] * len(segment)
        else:
            is_text += [True] * len(segment)
            ids += list(segment)
    if embeddings is None:
        return tokens_input(ids)
    return embeds_input(embeddings, prompt_token_ids=ids, is_token_ids=is_text)


def _llm_options(llm: str, config: EngineConfig, revision: str | None) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    context = min(config.max_model_len, _longest_context(llm, revision))
    options: dict[str, Any] = {
        "model": llm,
        "revision": revision,
        "tokenizer_revision": revision,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # tokens are decoded here: the start is faster by seconds
        "max_model_len": context,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_num_batched_tokens, context),
        "dtype": config.dtype or ("auto" if on_gpu else "float32"),
        "enforce_eager": config.enforce_eager if config.enforce_eager is not None else not on_gpu,
        "seed": config.seed,
        "use_tqdm_on_load": False,
    }
    if on_gpu:
        options["gpu_memory_utilization"] = config.gpu_memory_utilization
    else:
        options["block_size"] = CPU_BLOCK
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            options["kv_cache_memory_bytes"] = int(config.kv_cache_gib * GIB)
    return options


def _longest_context(llm: str, revision: str | None) -> int:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(llm, revision=revision)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(llm).exists() else "folder or Hub id"
        raise UserError(
            f"model.llm: {llm!r} is not a {kind} of a language model ({str(error).splitlines()[0]})"
        ) from error
    return int(getattr(config, "max_position_embeddings", None) or 16384)
