"""A scripted text engine and a prompt set on disk, for tests of the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from datasets import Dataset, DatasetDict

from src.common.paths import prompts_dir
from src.inference.types import Request, Result, Sampling
from tests.prompts.fakes import CharTokenizer

Reply = Callable[[str, Request], str | Result]


class Killed(Exception):
    """The process ends here."""


class FakeEngine:
    """Answers by ``reply(prompt text, request)``; finishes out of order, never more than ``room`` in flight.

    After ``die_after`` results it raises :class:`Killed`.
    """

    def __init__(self, reply: Reply, room: int = 4, die_after: int | None = None) -> None:
        self.tokenizer = CharTokenizer()
        self.reply = reply
        self.room = room
        self.die_after = die_after
        self.seen: list[tuple[str, Request, Sampling]] = []
        self.closed = False
        self.most_waiting = 0

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results, the newest request first among those that are in flight."""
        waiting: list[Request] = []
        feed, ended = iter(requests), False
        while True:
            while len(waiting) < self.room and not ended:
                request = next(feed, None)
                ended = request is None
                if request is not None:
                    waiting.append(request)
            if not waiting:
                return
            yield self._answer(waiting.pop(), sampling)

    def _answer(self, request: Request, sampling: Sampling) -> Result:
        if self.die_after is not None and len(self.seen) >= self.die_after:
            raise Killed
        prompt = self.tokenizer.decode(list(request.segments[0]))  # type: ignore[arg-type]
        self.seen.append((prompt, request, sampling))
        reply = self.reply(prompt, request)
        return reply if isinstance(reply, Result) else Result(request.key, text=reply)

    def close(self) -> None:
        """Remember being closed."""
        self.closed = True


def is_rephrase(prompt: str) -> bool:
    """Whether this is the rewriter's prompt."""
    return "rewrite this response" in prompt


def response_in(prompt: str) -> str:
    """Text in the response tag of the rewriter (or the checker)."""
    return prompt.rpartition("<response>\n")[2].rpartition("\n</response>")[0]


def reader_and_listener(prompt: str, request: Request) -> str:
    """A well-behaved miniature LLM: answers as a reader, rewrites as a listener."""
    if is_rephrase(prompt):
        text = response_in(prompt).replace("the description mentions", "i hear")
        return f"easy.\n</think>\n\n<answer>\n{text}\n</answer>"
    description = prompt.partition("<start_audio>[")[2].partition("<end_audio>")[0]
    return f"the description mentions {description}.\n</think>\n\nit is that."


def save_prompts(name: str, rows: int, splits: tuple[str, ...] = ("train",)) -> None:
    """A prompt set of ``rows`` rows in every split."""
    table = Dataset.from_dict(
        {
            "dataset_index": list(range(rows)),
            "audio_description": [f"[00:00-00:01] |sound {row}| (duration: 1s)" for row in range(rows)],
            "prompt": [f"what is number {row}?" for row in range(rows)],
        }
    )
    DatasetDict(dict.fromkeys(splits, table)).save_to_disk(str(prompts_dir(name)))
