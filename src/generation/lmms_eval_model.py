"""The model ``alarm`` of lmms-eval: ``python -m lmms_eval --model alarm --model_args pretrained=CHECKPOINT …``.

lmms-eval finds it by the entry point ``lmms_eval.models`` of the installed package. Tasks with ``doc_to_visual`` and
``doc_to_text`` are answered, which all audio tasks of lmms-eval have but XModBench (pictures among its options).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from torch import Tensor
from tqdm import tqdm

from src.audio.each_clip import each_clip
from src.audio.waveform import Waveform
from src.common.errors import UserError, error_text
from src.common.log import get_logger, setup_logging
from src.common.seeds import row_seed
from src.generation.config import ENGINE_KEYS
from src.inference.config import EngineConfig, ModelSettings, bind_with_model, checkpoint_names
from src.inference.load import choose_model, load_ensemble, load_vllm
from src.inference.prompt_builder import PromptBuilder, RowInput, decode_row, in_batches
from src.inference.types import Request, RequestError, Result, Sampling
from src.prompts.chat import Placeholders
from src.prompts.find_reasoning import find_reasoning
from src.prompts.reasoning import CLOSE_THOUGHTS, OPEN_THOUGHTS, split_response

log = get_logger(__name__)


def manifest() -> ModelManifest:
    """Model ``alarm`` for lmms-eval's registry; the entry point names this function."""
    return ModelManifest("alarm", simple_class_path=f"{__name__}.LmmsEvalModel")


@dataclass(frozen=True)
class LmmsSettings:
    """Settings of ``--model_args``.

    ``pretrained`` is a checkpoint, or a list for an ensemble; ``prompts`` the prompt set whose system text and
    ensemble texts are used; None: that of the checkpoint's training. With ``thoughts`` the responses contain the
    reasoning between ``<think>`` and ``</think>``, which lmms-eval's command removes before it scores.
    """

    pretrained: str | list[str]
    model: ModelSettings = field(default_factory=ModelSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    prompts: dict[str, Any] | None = None
    batch_size: int = 1
    thoughts: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.engine.workers not in (None, 1) or self.engine.cluster is not None:
            raise ValueError("engine.workers and engine.cluster: lmms_eval runs one engine")


def read_settings(given: Mapping[str, Any]) -> LmmsSettings:
    """Settings of the keys and values that lmms-eval splits ``--model_args`` into, such as ``engine.threads=2``.

    Raises :class:`ConfigError` with all wrong keys.
    """
    raw: dict[str, Any] = {"model": {}, "engine": {}}
    for name, value in given.items():
        # lmms-eval makes -1 a float, and leaves lists, null and its own --batch_size as texts
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(plain, str) and (plain.startswith("[") or plain == "null" or plain.isdecimal()):
            plain = yaml.safe_load(plain)
        group, _, key = name.partition(".")
        if key and isinstance(raw.get(group), dict):
            raw[group][key] = plain
        elif name == "prompts" and plain is not None:
            raw[name] = {"name": plain}
        else:
            raw[name] = plain
    limits = {to: raw["model"][name] for name, to in ENGINE_KEYS.items() if name in raw["model"]}
    return bind_with_model(LmmsSettings, {**raw, "engine": {**limits, **raw["engine"]}})


def read_sampling(given: Mapping[str, Any], settings: ModelSettings, closing: str) -> Sampling:
    """Sampling of a task's ``generation_kwargs``; greedy unless they ask for sampling, as elsewhere in lmms-eval.

    The thinking budget comes on top of the task's ``max_new_tokens``, which are meant for the answer. Raises
    :class:`UserError` for beam search.
    """
    if (given.get("num_beams") or 1) > 1:
        raise UserError(f"lmms_eval: num_beams={given['num_beams']}, expected 1; use --gen_kwargs num_beams=1")
    temperature = given.get("temperature")
    samples = bool(given.get("do_sample", (temperature or 0) > 0)) and temperature != 0
    top_k = given.get("top_k")
    return Sampling(
        max_tokens=int(given.get("max_new_tokens") or settings.max_tokens),
        max_thinking_tokens=settings.max_thinking_tokens,
        temperature=None if temperature is None else float(temperature),
        top_p=given.get("top_p"),
        top_k=None if top_k is None else int(top_k),
        greedy=not samples,
        budget_closing=closing,
    )


class LmmsEvalModel(lmms):
    """Answers tasks of lmms-eval with this project's engine: vLLM with audio as prompt embeddings.

    ``settings`` are those of :class:`LmmsSettings`, with a point between group and key (``model.seed=1``).
    ``batch_size`` is the number of questions whose clips are encoded together. ``system_prompt``, a text or the path
    of a file, replaces the prompt set's system text; empty: no system turn. Raises :class:`UserError` for unusable
    settings and checkpoints.
    """

    is_simple = True  # requests are (context, gen_kwargs, doc_to_visual, doc_id, task, split), not chat messages

    def __init__(
        self,
        pretrained: str,
        batch_size: str | int = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        system_prompt: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        setup_logging()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(
                "lmms_eval: started in several processes, --model alarm runs in one: start python -m lmms_eval"
            )
        if device is not None:
            log.warning("--device %s has no effect: the first visible GPU is used, else the CPU", device)
        del max_batch_size  # only for --batch_size auto, which is refused below
        chosen = read_settings({**settings, "pretrained": pretrained, "batch_size": batch_size})
        self._settings = chosen
        names = checkpoint_names(chosen.pretrained)
        source, self._prompts = choose_model(names, chosen.model, chosen.prompts)
        self._ensemble = load_ensemble(names, chosen.model)
        self._engine = load_vllm(source, chosen.engine)
        self._system = self._prompts.generation_system
        if system_prompt is not None:
            self._system = self._resolve_system_prompt(str(system_prompt))
        tags = self._ensemble.explicit_tags
        self._builder = PromptBuilder(self._engine.tokenizer, self._prompts, self._system, tags)
        self._longest = self._ensemble.max_clip_seconds(self._engine.backend.context)
        log.info("prompts: %s (%s)", self._prompts.name, self._prompts.source)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Responses in the order of the requests; one that cannot be answered is empty, with a warning."""
        groups: dict[str, list[int]] = {}  # an engine runs with one sampling at a time
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        found: dict[int, GenerationResult] = {}
        failed: list[str] = []
        with tqdm(total=len(requests), desc="alarm", unit="row") as bar:
            for members in groups.values():
                options = requests[members[0]].args[1] or {}
                sampling = read_sampling(options, self._settings.model, self._prompts.budget_closing)
                for result in self._engine.run(self._prepare(requests, members), sampling):
                    number = int(result.key)
                    if result.error is not None:
                        failed.append(f"{requests[number].task_name} {requests[number].doc_id}: {result.error}")
                    text = self._text(result, options.get("until"))
                    found[number] = GenerationResult(text, TokenCounts(output_tokens=result.num_tokens))
                    bar.update()
        if failed:
            log.warning("%d of %d rows have no answer, the first: %s", len(failed), len(requests), failed[0])
        return [found[number] for number in range(len(requests))]

    def _prepare(self, requests: Sequence[Instance], members: Sequence[int]) -> Iterator[Request]:
        """The requests of these numbers, their clips encoded batch by batch."""
        seed = self._settings.model.seed
        for batch in in_batches(members, self._settings.batch_size):
            clips = {number: self._decode(requests[number]) for number in batch}
            pairs = [
                ((number, place), clip)
                for number, own in clips.items()
                if not isinstance(own, RequestError)
                for place, clip in enumerate(own)
            ]
            encoded: dict[tuple[int, int], list[Tensor] | Exception] = dict(each_clip(self._ensemble.encode, pairs))
            for number in batch:
                key, own = str(number), clips[number]
                if isinstance(own, RequestError):
                    yield Request(key, error=own)
                    continue
                found = [encoded[number, place] for place in range(len(own))]
                made = [each for each in found if not isinstance(each, Exception)]
                if len(made) < len(found):
                    broken = next(each for each in found if isinstance(each, Exception))
                    reason = f"audio cannot be encoded: {error_text(broken)}"
                    yield Request(key, error=RequestError("unencodable_audio", reason))
                    continue
                marks = Placeholders()
                text = "".join(marks.next() for _ in made) + requests[number].args[0]
                turns = [{"role": "system", "content": self._system}] if self._system else []
                segments = self._builder.conversation([*turns, {"role": "user", "content": text}], marks, made)
                yield Request(key, segments, None if seed is None else row_seed(seed, key))

    def _decode(self, request: Instance) -> list[Waveform] | RequestError:
        """The clips of a request. Raises :class:`UserError` for a task with pictures or video."""
        _, _, find_media, doc_id, task, split = request.args
        clips = []
        for medium in find_media(self.task_dict[task][split][doc_id]) or ():
            # torchcodec's decoders, cells of data sets, paths, and the {"type", "url"} of some tasks
            source = medium.get("url", medium) if isinstance(medium, Mapping) else medium
            kind = medium.get("type", "audio") if isinstance(medium, Mapping) else "audio"
            if kind != "audio" or hasattr(source, "get_frames_in_range") or hasattr(source, "thumbnail"):
                found = kind if kind != "audio" else "pictures"
                raise UserError(
                    f"lmms_eval: task {task} has {found} in row {doc_id}; expected a task with audio and text only"
                )
            clip = decode_row(RowInput(str(doc_id), audio=source), self._longest)
            if isinstance(clip, RequestError):
                return clip
            clips.append(clip)
        return clips

    def _text(self, result: Result, until: str | Sequence[str] | None) -> str:
        """The answer up to the first stop text; with ``thoughts`` behind the reasoning."""
        if result.error is not None:
            return ""
        thoughts, answer = split_response(result.text, find_reasoning(self._engine.tokenizer))
        for stop in [until] if isinstance(until, str) else until or ():
            answer = answer.split(stop)[0] if stop else answer
        if not (self._settings.thoughts and thoughts):
            return answer
        return f"{OPEN_THOUGHTS}\n{thoughts}\n{CLOSE_THOUGHTS}\n\n{answer}"

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused: the likelihood of a text depends on the reasoning before it. Raises :class:`UserError`."""
        raise _refused(requests, "likelihoods of given texts")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refused: tasks with rounds have pictures. Raises :class:`UserError`."""
        raise _refused(requests, "several rounds")

    def clean(self) -> None:
        """Free the models; lmms-eval calls it before it scores."""
        self._engine.close()
        del self._engine, self._ensemble
        super().clean()


def _refused(requests: Sequence[Instance], what: str) -> UserError:
    task = requests[0].task_name if requests else "?"
    return UserError(f"lmms_eval: task {task} asks for {what}; --model alarm answers tasks of type generate_until")
