"""vLLM as a backend: in this process on a CPU, in a process of its own on a GPU.

Audio enters as mixed prompts: token ids where there is text, embedding rows where there is audio, and a mask that
says which is which.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.common.errors import UserError, error_text
from src.common.log import get_logger
from src.inference.config import EngineConfig, LlmSource
from src.inference.sampling_defaults import sampling_defaults
from src.inference.scheduler import StepOutput
from src.inference.types import Sampling, Segment, prompt_length
from src.inference.vllm_lora import lora_options, lora_request
from src.model.llm import llm_config, resolve_source

log = get_logger(__name__)
GIB = 1024**3
CPU_BLOCK = 32
"""Tokens of a cache block on a CPU: of vLLM's 128, most prompts and continuations could reuse none."""


def prepare_environment() -> None:
    """Set defaults that vLLM reads from the environment on import, where the user has set none."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not torch.cuda.is_available():
        # in this process: starts in seconds; a second process would only compete for the same cores
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class VllmBackend:
    """vLLM's engine, reduced to submit, step and abort.

    ``llm`` is a ready ``vllm.LLM``, with prompt embeddings enabled. ``params`` (``vllm.SamplingParams``) replaces the
    settings of :class:`Sampling` except the bounds on tokens. ``lora``, a folder in PEFT's format, goes with every
    request; ``llm`` must have room for it.
    """

    shares_cores = True

    def __init__(self, llm: Any, end_of_turn: int | None, params: Any = None, lora: Path | None = None) -> None:
        self._llm = llm
        self._given = params
        self._scored: dict[str, tuple[Any, int]] = {}
        """Prompts whose last tokens are scored, and the number of these tokens."""
        self._lora = None if lora is None else lora_request(lora)
        model = llm.llm_engine.model_config
        self.width = int(model.get_inputs_embeds_size())
        self.vocabulary = int(model.get_vocab_size())
        self.context = int(model.max_model_len)
        self._dtype: torch.dtype = model.dtype
        ends = model.try_get_generation_config().get("eos_token_id")
        listed = [ends] if isinstance(ends, int) else list(ends or ())
        self._stops = sorted({*listed, *([] if end_of_turn is None else [end_of_turn])})
        self._defaults = {} if params is not None else sampling_defaults(_stated_sampling(model), str(model.model))

    @classmethod
    def start(cls, source: LlmSource, config: EngineConfig, end_of_turn: int | None) -> VllmBackend:
        """Load a language model, with LoRA by request. Raises :class:`UserError` if that fails."""
        prepare_environment()
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"vLLM does not load ({error}); install requirements.txt (GPU) or requirements-cpu.txt"
            ) from error
        llm, lora = resolve_source(source.name), source.lora
        options = _llm_options(llm, source.revision, config) | ({} if lora is None else lora_options(lora))
        try:
            backend = cls(LLM(**options), end_of_turn, lora=lora)
        except (OSError, ValueError) as error:
            reason = error_text(error, 400)
            hint = "" if lora is None else " (with LoRA; engine.lora=merge adds LoRA to its weights first)"
            raise UserError(f"vLLM cannot load the language model {llm!r}{hint}: {reason}") from error
        log.info("vLLM ready: %s, %s, context %d", llm, str(backend._dtype).removeprefix("torch."), backend.context)
        return backend

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Submit a prompt; raises vLLM's exception for a prompt that it refuses."""
        prompt = engine_input(segments, self.width, self._dtype)
        params = self._params(sampling, max_tokens, seed)
        self._llm.llm_engine.add_request(key, prompt, params, lora_request=self._lora)

    def score(self, key: str, segments: Sequence[Segment], target_ids: Sequence[int]) -> None:
        """Submit a prompt and a response to be scored."""
        self._submit_scored(key, engine_input([*segments, target_ids], self.width, self._dtype), len(target_ids))

    def _submit_scored(self, key: str, prompt: Any, last: int, cached: bool = True) -> None:
        """Ask for the log-probabilities of the ``last`` tokens of a prompt, which must be token ids."""
        from vllm import SamplingParams

        # vLLM gives them for mixed prompts too, but only for positions that are not in its prefix cache, which it
        # does not read for such requests unless told to (https://github.com/vllm-project/vllm/pull/28194). Without
        # the cache every option would cost the whole prompt again, and logits over the vocabulary at each position.
        params = SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, skip_reading_prefix_cache=not cached
        )
        self._scored[key] = (prompt, last)
        self._llm.llm_engine.add_request(key, prompt, params, lora_request=self._lora)

    def _read_scored(self, output: Any) -> StepOutput | None:
        """Scores of a finished prompt; ``None`` after submitting it again because they were in the prefix cache."""
        prompt, last = self._scored.pop(output.request_id)
        ids = output.prompt_token_ids
        # the score of a token comes from the position before it
        if (output.num_cached_tokens or 0) > len(ids) - last - 1:
            self._submit_scored(output.request_id, prompt, last, cached=False)
            return None
        given = zip(output.prompt_logprobs[-last:], ids[-last:], strict=True)
        return StepOutput(output.request_id, [], "stop", logprobs=tuple(at[token].logprob for at, token in given))

    def step(self) -> list[StepOutput]:
        """One engine step."""
        written = []
        for output in self._llm.llm_engine.step():
            if output.request_id in self._scored:
                if output.finished and (scored := self._read_scored(output)) is not None:
                    written.append(scored)
                continue
            done = output.outputs[0]
            reason: Any = None
            if output.finished:
                reason = "length" if done.finish_reason == "length" else "stop"
            written.append(StepOutput(output.request_id, list(done.token_ids), reason))
        return written

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        for key in keys:
            self._scored.pop(key, None)
        self._llm.llm_engine.abort_request(list(keys))

    def close(self) -> None:
        """Free the model and its cache."""
        del self._llm

    def _params(self, sampling: Sampling, max_tokens: int, seed: int | None) -> Any:
        """vLLM's ``SamplingParams``: the caller's own, or the model's defaults with those of ``sampling``."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self._given is not None:
            params = self._given.clone()
            # the scheduler relies on its own bounds, one response, reported at its end, and the end of the turn
            params.max_tokens, params.seed, params.n = max_tokens, seed, 1
            params.output_kind = RequestOutputKind.FINAL_ONLY
            params.min_tokens = min(params.min_tokens, max_tokens)
            if not params.ignore_eos:
                params.stop_token_ids = sorted({*(params.stop_token_ids or ()), *self._stops})
            params.detokenize = bool(params.stop)  # stop strings are looked for in the text
            return params
        defaults = {} if sampling.greedy else self._defaults
        return SamplingParams(
            **{**defaults, **sampling.overrides(), "max_tokens": max_tokens},
            seed=seed,
            stop_token_ids=self._stops,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if sampling.streamed else RequestOutputKind.FINAL_ONLY,
        )


def _stated_sampling(model: Any) -> dict[str, Any]:
    """Sampling settings of the generation config, with overrides that the engine was started with."""
    stated = {} if model.generation_config == "vllm" else model.try_get_generation_config()
    return {**stated, **model.override_generation_config}


def engine_input(segments: Sequence[Segment], width: int, dtype: torch.dtype) -> Any:
    """vLLM's form of a prompt: only tokens, or tokens, embeddings ``(tokens, width)`` and the mask."""
    from vllm.inputs.engine import embeds_input, tokens_input

    length = prompt_length(segments)
    ids: list[int] = []
    is_text: list[bool] = []
    embeddings: Tensor | None = None
    for segment in segments:
        if isinstance(segment, Tensor):
            if embeddings is None:
                # rows of text are zeros, not uninitialised: the prefix cache compares their bytes too
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


def _llm_options(llm: str, revision: str | None, config: EngineConfig) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    longest = getattr(llm_config(llm, revision), "max_position_embeddings", None) or 16384
    context = min(config.max_model_len, int(longest))
    options: dict[str, Any] = {
        "model": llm,
        "revision": revision,
        "tokenizer_revision": revision,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # tokens are decoded here: the start is faster by seconds
        "max_model_len": context,
        "max_num_seqs": config.max_num_seqs,
        # vLLM refuses a smaller number where it does not prefill in chunks
        "max_num_batched_tokens": max(config.max_num_batched_tokens, context),
        "dtype": config.dtype or ("auto" if on_gpu else "float32"),
        "enforce_eager": config.enforce_eager if config.enforce_eager is not None else not on_gpu,
        "seed": config.seed,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "src.inference.vllm_prefix_cache.WorkerExtension",
    }
    if on_gpu:
        options["gpu_memory_utilization"] = config.gpu_memory_utilization
    else:
        options["block_size"] = CPU_BLOCK
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            options["kv_cache_memory_bytes"] = int(config.kv_cache_gib * GIB)
    return options
