"""The published system's ``src.dataset.HFDataset``, for users' notebooks and scripts.

``train.py`` does not use it: :mod:`src.dataset.mixture` opens the rows, :mod:`src.dataset.examples` tokenises them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from src.audio.roots import StoredCell, inside
from src.common.errors import ConfigError
from src.common.paths import use_data_dir
from src.dataset.mixture import MixtureConfig, open_mixture
from src.dataset.published import read_rows
from src.dataset.response_rows import ResponseRow
from src.prompts import load_prompts
from src.prompts.chat import split_turn

DATA_DIR = "data"


class HFDataset:
    """Rows of response sets with their text rendered by the chat template and their audio as features.

    Args:
        dataset_names: ``[[RESPONSE_SET, "WithContext" or "NoContext", SHARE, RANDOM], ...]``.
        split: ``train`` or ``validation``.
        tokenizer: of the language model.
        feature_extractor: called with each clip (a torchcodec ``AudioDecoder``); what it returns is added to the row.
            ``Qwen3AudioWrappedFeatureExtractor.feature_extractor`` is one. None adds the decoder as ``audio``.
        limit: rows at most; None: all.
        return_audio: false for text only; then the description of the clip follows the prompt.
        name: of the set, kept as an attribute.
        use_explicit_audio_tokens: whether tags in the text enclose the place of the audio.
        data_dir: folder that takes the place of ``data``; another one counts for the whole process.

    Raises:
        ConfigError: rows of another form.
        UserError: a set is missing, or its parts do not fit together.
    """

    def __init__(
        self,
        dataset_names: Sequence[Sequence[Any]],
        split: str,
        tokenizer: Any,
        feature_extractor: Callable[[Any], dict[str, Any]] | None,
        limit: int | None = None,
        return_audio: bool = True,
        name: str = "",
        use_explicit_audio_tokens: bool = False,
        data_dir: str = DATA_DIR,
    ) -> None:
        if data_dir != DATA_DIR:
            use_data_dir(data_dir)
        problems: list[str] = []
        rows = read_rows(dataset_names, "dataset_names", problems)
        if problems:
            raise ConfigError("; ".join(problems))
        try:
            mixture = MixtureConfig(rows, split, limit, return_audio)
        except ValueError as error:
            raise ConfigError(f"dataset_names: {error}") from error
        self.dataset = open_mixture(mixture)
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.return_audio = return_audio
        self.name = name
        self.use_explicit_audio_tokens = use_explicit_audio_tokens

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row.

        ``inputs_start``, ``inputs_main`` and ``outputs`` are texts: the user turn before the audio, the rest up to
        the assistant's header, and the target. ``llm_answer``, ``context``, ``audio_description`` and ``reference``
        are those of the row. With audio, the feature extractor's ``audio``, ``audio_attention`` and ``audio_lengths``
        by encoder are added.
        """
        row = self.dataset[index]
        opened, closed = "", ""
        if self.use_explicit_audio_tokens:
            prompts = load_prompts("full")
            opened, closed = prompts.description_open, prompts.description_close
        context = row.context
        if not self.return_audio:
            described = f"{opened}{row.audio_description}{closed}"
            context = f"{context}\n{described}" if context else described
        start, main = split_turn(self.tokenizer, context)
        if self.return_audio:
            start, main = start + opened, closed + main
        result = {
            "inputs_start": start,
            "inputs_main": main,
            "outputs": row.target,
            "llm_answer": row.target,
            "context": context,
            "audio_description": row.audio_description,
            "reference": "",
        }
        if self.return_audio:
            clip = _decoder(row)
            result |= {"audio": clip} if self.feature_extractor is None else self.feature_extractor(clip)
        return result


def _decoder(row: ResponseRow) -> Any:
    """Decoder of a row's clip; a path must be inside the allowed folders (:mod:`src.audio.roots`)."""
    from datasets import Audio

    cell = dict(row.audio or {})
    if cell.get("bytes") is None and isinstance(row.audio, StoredCell):
        cell["path"] = str(inside(str(cell.get("path")), row.audio.roots))
    return Audio().decode_example(cell)
