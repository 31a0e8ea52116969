"""transformers' ``generate`` as a backend: for single questions, because it starts in a fraction of vLLM's time."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from src.inference.sampling_defaults import sampling_defaults
from src.inference.scheduler import StepOutput
from src.inference.types import Sampling, Segment


class _AbortedError(Exception):
    """Ends ``generate`` of an aborted prompt."""


class _Submission(BaseStreamer):
    """A prompt, and the streamer to which ``generate`` gives its tokens."""

    def __init__(self, key: str, seed: int | None, options: dict[str, Any]) -> None:
        self.key, self.seed, self.options = key, seed, options
        self.outputs: queue.SimpleQueue[StepOutput | BaseException] = queue.SimpleQueue()
        self.token_ids: list[int] = []
        self.target_ids: Sequence[int] = ()
        """Response to be scored; empty: one is generated."""
        self.aborted = False
        self._at_prompt = True  # generate puts the prompt first, although it is of embeddings and has no ids

    def put(self, value: Tensor) -> None:
        """Called by ``generate``: first with the prompt's ids, then with each token ``(1,)``."""
        if self.aborted:
            raise _AbortedError
        if not self._at_prompt:
            self.token_ids += value.tolist()
            self.outputs.put(StepOutput(self.key, value.tolist(), None))
        self._at_prompt = False

    def end(self) -> None:
        """Called by ``generate`` after the last token."""


class TransformersBackend:
    """Decodes requests one after another with a loaded causal language model of transformers.

    Sampling defaults are those of :func:`sampling_defaults`, as with vLLM. An exception of ``generate`` is raised by
    :meth:`step`: with one request at a time there are no others to protect.
    """

    shares_cores = True

    def __init__(self, llm: Any) -> None:
        config = llm.config.get_text_config(decoder=True)
        table = llm.get_input_embeddings().weight
        self.width = int(table.shape[1])
        self.vocabulary = min(int(config.vocab_size), len(table))
        # generate has no bound: models with rotary positions go on, at less quality, beyond max_position_embeddings
        self.context = 2**31
        self._llm = llm
        ends = llm.generation_config.eos_token_id
        self._defaults = sampling_defaults(llm.generation_config.to_diff_dict(), str(llm.config.name_or_path))
        self._stops = {ends} if isinstance(ends, int) else set(ends or ())
        self._waiting: deque[_Submission] = deque()
        self._running: _Submission | None = None
        self._thread: threading.Thread | None = None

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Append a prompt to the waiting ones."""
        options = {**self._inputs(segments), "max_new_tokens": max_tokens}
        self._waiting.append(_Submission(key, seed, {**options, **_sampling_options(self._defaults, sampling)}))

    def score(self, key: str, segments: Sequence[Segment], target_ids: Sequence[int]) -> None:
        """Append a prompt and a response to be scored."""
        submission = _Submission(key, None, self._inputs([*segments, target_ids]))
        submission.target_ids = target_ids
        self._waiting.append(submission)

    def _inputs(self, segments: Sequence[Segment]) -> dict[str, Tensor]:
        """Embeddings ``(1, tokens, width)`` and mask of a prompt."""
        table = self._llm.get_input_embeddings()
        device = table.weight.device
        parts = [
            segment.to(table.weight)
            if isinstance(segment, Tensor)
            else table(torch.tensor(list(segment), dtype=torch.int64, device=device))
            for segment in segments
        ]
        embeddings = torch.cat(parts)[None]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=device)
        return {"inputs_embeds": embeddings, "attention_mask": mask}

    def step(self) -> list[StepOutput]:
        """Wait for the next token or the end of the running prompt, after starting the next one if none runs."""
        if self._running is None:
            if not self._waiting:
                return []
            if self._thread is not None:
                self._thread.join()  # of an aborted prompt, which goes on to its next token
            self._running = self._waiting.popleft()
            # generate returns only at its end: its tokens come through a thread
            self._thread = threading.Thread(target=self._generate, args=(self._llm, self._running), daemon=True)
            self._thread.start()
        output = self._running.outputs.get()
        if isinstance(output, BaseException) or output.finish_reason is not None:
            self._running = None
        if isinstance(output, BaseException):
            raise output
        return [output]

    def abort(self, keys: Sequence[str]) -> None:
        """Drop prompts. The running one stops at its next token, which is not waited for."""
        self._waiting = deque(each for each in self._waiting if each.key not in keys)
        if self._running is not None and self._running.key in keys:
            self._running.aborted = True
            self._running = None

    def close(self) -> None:
        """Drop all prompts and the model."""
        self.abort([each.key for each in (*self._waiting, self._running) if each is not None])
        del self._llm

    def _generate(self, llm: Any, running: _Submission) -> None:
        """Body of the thread: generate one response and report its end, or the exception."""
        device = running.options["inputs_embeds"].device
        devices = [device] if device.type == "cuda" else []
        try:
            if running.target_ids:
                running.outputs.put(_scored(llm, running))
                return
            # generate draws from the global generator; without a seed its state is the caller's affair
            with nullcontext() if running.seed is None else torch.random.fork_rng(devices):
                if running.seed is not None:
                    torch.manual_seed(running.seed)
                llm.generate(**running.options, streamer=running)
        except _AbortedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by step
            running.outputs.put(error)
            return
        ids = running.token_ids
        cut = len(ids) >= running.options["max_new_tokens"] and ids[-1] not in self._stops
        running.outputs.put(StepOutput(running.key, [], "length" if cut else "stop"))


@torch.no_grad()
def _scored(llm: Any, running: _Submission) -> StepOutput:
    """Log-probabilities of the tokens to be scored, the last of the prompt."""
    ids = torch.tensor(list(running.target_ids), device=running.options["inputs_embeds"].device)
    # the logits of a position are those of the next token
    logits = llm(**running.options, use_cache=False).logits[0, -len(ids) - 1 : -1].float()
    chosen = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    return StepOutput(running.key, [], "stop", logprobs=tuple(chosen.tolist()))


def _sampling_options(defaults: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """Options of ``generate`` for the model's ``defaults`` and what ``sampling`` replaces."""
    own = {} if sampling.greedy else defaults
    # of a prompt of embeddings, transformers' repetition penalty (it warns) counts only the new tokens of a pass
    found = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, **own, **sampling.overrides()}
    if found["temperature"] == 0:
        return {**found, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    # vLLM switches top-k off by -1, transformers by 0
    return {**found, "do_sample": True, "top_k": max(found["top_k"], 0)}
