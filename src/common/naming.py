"""Folder names of the published system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from src.common.errors import UserError

# only the name of the set may have underscores of its own: the model's has none, which tells where it begins
_RESPONSE = re.compile(
    r"^(?P<base>.+?)(?P<rephrased>_rephrased(?:_(?P<thinking>\d+))?)?(?P<checked>_filtered)?"
    r"_(?P<model>[^_]+)_(?P<tokens>\d+)$"
)


def model_short_name(llm: str) -> str:
    """Last part of a model id or path: ``Qwen/Qwen3-4B-Thinking-2507`` -> ``Qwen3-4B-Thinking-2507``."""
    return llm.rstrip("/").split("/")[-1]


@dataclass(frozen=True)
class ResponseName:
    """Name of a response folder: ``NAME[_rephrased[_MAXTHINKING]][_filtered]_MODEL_MAXTOKENS``.

    ``checked`` is the ``_filtered`` part: checked responses, or of an instruction set a filtered raw set.
    """

    base: str
    model: str
    max_tokens: int = 512
    rephrased: bool = False
    max_thinking_tokens: int = -1
    checked: bool = False

    def format(self) -> str:
        """The folder name. Raises :class:`UserError` if the model's name holds an underscore."""
        if "_" in self.model:
            raise UserError(
                f"model name {self.model!r} holds an underscore, which response folder names cannot carry"
            )
        parts = [self.base]
        if self.rephrased:
            parts.append("rephrased")
            if self.max_thinking_tokens >= 0:
                parts.append(str(self.max_thinking_tokens))
        if self.checked:
            parts.append("filtered")
        return "_".join([*parts, self.model, str(self.max_tokens)])

    @classmethod
    def parse(cls, name: str) -> ResponseName:
        """Read a folder name. Raises :class:`UserError` naming the expected form."""
        match = _RESPONSE.match(name)
        if match is None:
            raise UserError(
                f"{name!r} is not a response folder name; expected NAME[_rephrased[_N]][_filtered]_MODEL_MAXTOKENS, "
                "e.g. cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512"
            )
        return cls(
            base=match["base"],
            model=match["model"],
            max_tokens=int(match["tokens"]),
            rephrased=match["rephrased"] is not None,
            max_thinking_tokens=int(match["thinking"]) if match["thinking"] else -1,
            checked=match["checked"] is not None,
        )


def generated_name(
    benchmark: str,
    checkpoint: str | Sequence[str],
    max_tokens: int,
    max_thinking_tokens: int,
    seed: int | None = None,
) -> str:
    """Name of a run's output folder.

    ``{benchmark}_{checkpoint}[_seed_{seed}]_{max_tokens}_{max_thinking_tokens}``; ``/`` becomes ``_``; several
    checkpoints are joined with ``_``; seed 0 counts as a seed. As published, names are not normalised (outer slashes
    and blanks stay), and different checkpoints can share a name (``a/b_c`` and ``a_b/c``).
    """
    names = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    joined = "_".join(name.replace("/", "_") for name in names)
    seed_part = "" if seed is None else f"_seed_{seed}"
    return f"{benchmark.replace('/', '_')}_{joined}{seed_part}_{max_tokens}_{max_thinking_tokens}"
