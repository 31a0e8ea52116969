"""A scripted backend: a function decides the answer to each prompt; it decodes one token per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from src.inference.scheduler import StepOutput
from src.inference.types import Sampling, Segment
from tests.prompts.fakes import CharTokenizer

WIDTH = 8
END = CharTokenizer().eos_token_id


@dataclass
class Call:
    """One submitted pass."""

    key: str
    segments: tuple[Segment, ...]
    max_tokens: int
    seed: int | None


def shown(segments: Sequence[Segment]) -> str:
    """A prompt as text; embeddings appear as ``{frames}``."""
    parts = []
    for segment in segments:
        if isinstance(segment, Tensor):
            parts.append(f"{{{len(segment)}}}")
        else:
            parts.append("".join(map(chr, segment)))
    return "".join(parts)


class ScriptedBackend:
    """Answers ``script(prompt text)``, ended by the end-of-turn token, cut at ``max_tokens``."""

    shares_cores = False

    def __init__(
        self, script: Callable[[str], str], context: int = 4096, refuse: str | None = None, width: int = WIDTH
    ) -> None:
        self.width, self.vocabulary, self.context = width, 0x110000, context
        self.script = script
        self.refuse = refuse
        self.calls: list[Call] = []
        self.active: dict[str, tuple[int, StepOutput]] = {}
        self.streamed: set[str] = set()
        self.most_active = 0
        self.steps = 0
        self.closed = False
        self.scored: list[str] = []

    def score(self, key: str, segments: Sequence[Segment], target_ids: Sequence[int]) -> None:
        """Minus 1 for every letter e, minus 2 for any other."""
        self.scored.append(f"{shown(segments)}|{shown([target_ids])}")
        logprobs = tuple(-1.0 if token == ord("e") else -2.0 for token in target_ids)
        self.active[key] = (1, StepOutput(key, [], "stop", logprobs=logprobs))

    def add(
        self, key: str, segments: Sequence[Segment], sampling: Sampling, max_tokens: int, seed: int | None
    ) -> None:
        """Submit."""
        if self.refuse and self.refuse in shown(segments):
            raise ValueError("not this one")
        assert max_tokens >= 1 and key not in self.active
        self.calls.append(Call(key, tuple(segments), max_tokens, seed))
        ids = [*map(ord, self.script(shown(segments))), END]
        reason = "stop" if len(ids) <= max_tokens else "length"
        ids = ids[:max_tokens]
        self.active[key] = (len(ids), StepOutput(key, ids, reason))  # type: ignore[arg-type]
        if sampling.streamed:
            self.streamed.add(key)
        self.most_active = max(self.most_active, len(self.active))

    def step(self) -> list[StepOutput]:
        """One token of all."""
        self.steps += 1
        done = []
        for key, (left, finished) in list(self.active.items()):
            if finished.logprobs is not None:
                del self.active[key]
                done.append(finished)
                continue
            token = finished.token_ids[len(finished.token_ids) - left]
            if left > 1:
                self.active[key] = (left - 1, finished)
                if key in self.streamed:
                    done.append(StepOutput(key, [token], None))
            else:
                del self.active[key]
                streamed = key in self.streamed
                done.append(StepOutput(key, [token], finished.finish_reason) if streamed else finished)
        return done

    def abort(self, keys: Sequence[str]) -> None:
        """Drop."""
        for key in keys:
            self.active.pop(key, None)

    def close(self) -> None:
        """Remember."""
        self.closed = True
