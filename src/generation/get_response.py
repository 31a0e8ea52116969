"""Answers to a list of questions about clips from Python, with the caller's own ``vllm.LLM``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from src.common.errors import UserError
from src.common.log import get_logger, setup_logging
from src.generation.input_dataset import TEXT_COLUMNS
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.inference.prompt_builder import PromptBuilder, RowInput, audio_requests, in_batches
from src.inference.types import Result, Sampling
from src.inference.vllm_backend import VllmBackend, prepare_environment
from src.inference.vllm_lora import lora_options
from src.model.checkpoints import shared_lora
from src.model.wrapped_llms.qwen3 import Qwen3AudioWrappedFeatureExtractor
from src.prompts import Prompts, choose_prompts, load_prompts
from src.prompts.find_reasoning import find_reasoning
from src.prompts.multiple_choice import layout_question
from src.prompts.reasoning import reported_answer

log = get_logger(__name__)
BATCH_SIZE = 8


def prepare_script() -> None:
    """Set the environment variables that vLLM reads on import."""
    # A process of its own would be spawned, as forking fails once an audio embedder is on the GPU, and would run the
    # script again where it has no `if __name__ == "__main__"`.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    prepare_environment()
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; otherwise a share of all memory


def get_response(
    prompts: Sequence[str | Mapping[str, Any]],
    audio_list: Sequence[Any],
    llm: Any,
    feature_extractor: Qwen3AudioWrappedFeatureExtractor | Sequence[Qwen3AudioWrappedFeatureExtractor],
    sample: Any,
    tokenizer: Any,
    system_prompt: str,
    max_thinking_tokens: int = -1,
    debug: bool = False,
    prompt_set: str | None = None,
) -> Any:
    """Answer each prompt about its clip.

    Args:
        prompts: texts, or rows of a data set with a text column (``prompt``, ``content`` or ``context``).
        audio_list: a clip for each: torchcodec ``AudioDecoder`` or any form that ``load_waveform`` takes.
        llm: ``vllm.LLM`` with ``enable_prompt_embeds=True``.
        feature_extractor: the audio embedder of a checkpoint; several are an ensemble.
        sample: ``vllm.SamplingParams``; ``max_tokens`` bounds each of the two passes.
        tokenizer: of the language model.
        system_prompt: text of the system turn.
        max_thinking_tokens: thinking budget; negative: none.
        debug: log every response with its thoughts, and return the tokens of the last one as well.
        prompt_set: texts between the parts of an ensemble and at the end of a budget: ``full``, ``mini`` or a YAML
            file; those that the checkpoints were trained with unless given.

    Returns:
        One answer per prompt: the text in ``<answer>`` tags, without tags the whole response with its thoughts. With
        ``debug`` a pair: the answers, and the token ids of the last response.

    Raises:
        UserError: numbers of prompts and clips differ, a clip or prompt cannot be used (it is named by its place), or
            a checkpoint has LoRA and ``llm`` was made without room for it.
    """
    if len(prompts) != len(audio_list):
        raise UserError(f"get_response: got {len(prompts)} prompts and {len(audio_list)} clips, expected one each")
    extractors = _listed(feature_extractor)
    texts = _texts(extractors, prompt_set)
    engine = _engine_over(llm, tokenizer, sample, shared_lora([each.checkpoint for each in extractors]))
    ensemble = EmbedderEnsemble([each.loaded for each in extractors])
    builder = PromptBuilder(tokenizer, texts, system_prompt, ensemble.explicit_tags)
    rows = (
        RowInput(str(place), _text(prompt, place), audio, seed=sample.seed)
        for place, (prompt, audio) in enumerate(zip(prompts, audio_list, strict=True))
    )
    sampling = Sampling(
        max_tokens=sample.max_tokens or engine.backend.context,
        max_thinking_tokens=max_thinking_tokens,
        budget_closing=texts.budget_closing,
    )
    requests = audio_requests(in_batches(rows, BATCH_SIZE), ensemble, builder)
    found: dict[int, Result] = {}
    with closing(engine.run(requests, sampling)) as finishing:  # after a bad clip the engine drops all other requests
        for result in finishing:
            if result.error is not None:
                raise UserError(f"get_response: clip {result.key}: {result.error}")
            found[int(result.key)] = result
    results = [found[place] for place in range(len(prompts))]
    reasoning = find_reasoning(tokenizer)
    answers = [reported_answer(result.text, reasoning) for result in results]
    if not debug:
        return answers
    setup_logging()
    for result in results:
        log.info("response %s, %d tokens:\n%s", result.key, result.num_tokens, result.text)
    return answers, list(results[-1].token_ids) if results else []


def get_choice_response(
    questions: Sequence[str],
    choices_list: Sequence[Sequence[Any]],
    audio_list: Sequence[Any],
    llm: Any,
    feature_extractor: Qwen3AudioWrappedFeatureExtractor | Sequence[Qwen3AudioWrappedFeatureExtractor],
    sample: Any,
    tokenizer: Any,
    system_prompt: str,
    max_thinking_tokens: int = -1,
    debug: bool = False,
    prompt_set: str | None = None,
) -> Any:
    """Answer each multiple-choice question about its clip; ``generate_vllm_mcqa.get_response``.

    ``questions`` and ``choices_list`` are the texts and the options of each; everything else is as in
    :func:`get_response`. An answer is the text in the ``<answer>`` tags: the number of an option, counted from 0.
    """
    if len(questions) != len(choices_list):
        raise UserError(
            f"get_response: got {len(questions)} questions and {len(choices_list)} lists of choices, "
            "expected one each"
        )
    texts = _texts(_listed(feature_extractor), prompt_set)
    prompts = [
        layout_question(question, [str(choice) for choice in choices], texts)
        for question, choices in zip(questions, choices_list, strict=True)
    ]
    return get_response(
        prompts, audio_list, llm, feature_extractor, sample, tokenizer, system_prompt, max_thinking_tokens, debug,
        prompt_set,
    )  # fmt: skip


def get_system_prompt() -> str:
    """The system text of free questions, of the full prompt set."""
    return load_prompts("full").generation_system


def get_main_prompt(elem: str | Mapping[str, Any]) -> Any:
    """The user's text of a row (or the texts of a batch of rows): its column ``prompt``, ``content`` or ``context``.

    A text stays as it is. Raises :class:`UserError` for a row without any of them.
    """
    if isinstance(elem, str) or not hasattr(elem, "keys"):
        return elem
    name = next((name for name in TEXT_COLUMNS if name in list(elem.keys())), None)
    if name is None:
        raise UserError(f"get_main_prompt: the row has no column {', '.join(TEXT_COLUMNS)}")
    return elem[name]


def get_choice_system_prompt() -> str:
    """The system text of multiple-choice questions, of the full prompt set."""
    return load_prompts("full").mcqa_system


def get_choice_main_prompt(question: str, choices: Sequence[Any]) -> str:
    """The user's text of a multiple-choice question, as the full prompt set lays it out."""
    return layout_question(question, [str(choice) for choice in choices], load_prompts("full"))


def _listed(given: Any) -> list[Qwen3AudioWrappedFeatureExtractor]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _texts(extractors: Sequence[Qwen3AudioWrappedFeatureExtractor], prompt_set: str | None) -> Prompts:
    return choose_prompts(
        None if prompt_set is None else {"name": prompt_set},
        [(each.checkpoint.name, each.checkpoint.extra) for each in extractors],
        extractors[0].checkpoint.config.llm if extractors else None,
    )


def _engine_over(llm: Any, tokenizer: Any, sample: Any, lora: Path | None) -> Engine:
    config = llm.llm_engine.vllm_config
    if lora is not None and config.lora_config is None:
        wanted = ", ".join(f"{name}={value!r}" for name, value in lora_options(lora).items())
        raise UserError(
            f"get_response: the checkpoint was trained with LoRA: make the language model by LLM({wanted})"
        )
    at_once = int(config.scheduler_config.max_num_seqs)
    backend = VllmBackend(llm, tokenizer.eos_token_id, sample, lora)
    return Engine(backend, tokenizer, 2 * at_once, at_once)


def _text(prompt: str | Mapping[str, Any], place: int) -> str:
    """The user's text; published scripts also pass whole rows."""
    found: Any = prompt
    if isinstance(prompt, Mapping):
        found = next((prompt[name] for name in TEXT_COLUMNS if name in prompt), None)
    if not isinstance(found, str):
        raise UserError(f"get_response: prompt {place} is not a text; expected a text or a row with a column prompt")
    return found
