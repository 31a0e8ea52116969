"""Rows of a raw set whose own text is the target: transcription, captions, supervised fine-tuning."""

from __future__ import annotations

import numpy as np

from src.audio.roots import roots_of, stored_cell
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import raw_dir
from src.dataset.response_rows import ResponseRow, durations, estimated_tokens, rows_of_split, undecoded_audio
from src.dataset.splits import find_split_indexes
from src.dataset.tables import join_rows, open_split, read_keys, text_sizes

_log = get_logger(__name__)
TEXT_MODE = "Text"
"""Mode of a mixture's row whose first entry is a raw set, not a response folder."""


class GivenRows:
    """Examples of one raw set and split with the column ``text`` as target, read row by row.

    The user's text is ``prompt`` if it is given, else the row's own (column ``prompt``), the system text the row's
    own (column ``system``). Rows without a text are left out.
    """

    mode = TEXT_MODE

    def __init__(
        self,
        name: str,
        fraction: float = 1.0,
        random: bool = False,
        split: str = "train",
        return_audio: bool = True,
        prompt: str | None = None,
    ) -> None:
        """``name`` is a raw set; the others as in :class:`src.dataset.response_rows.ResponseRows`.

        Raises :class:`UserError` for a set without texts or prompts.
        """
        self.name, self.split, self.return_audio, self.prompt = name, split, return_audio, prompt
        indexes = find_split_indexes(name, ResponseName(name, "given"), split)
        stored = split if indexes is None else "train"
        self._raw = open_split(raw_dir(name), stored, f"raw set {name}")
        columns = self._raw.column_names
        if "text" not in columns:
            raise UserError(f"raw set {name} has no column 'text', the target; it has {', '.join(columns)}")
        if prompt is None and "prompt" not in columns:
            raise UserError(f"raw set {name} has no column 'prompt'; give the text for all rows by dataset.prompt=…")
        raw_keys = read_keys(self._raw, f"raw set {name}")
        keys = raw_keys if indexes is None else indexes.keys
        rows = join_rows(raw_keys, keys, f"raw set {name}", f"split {split!r}")
        filled = text_sizes(self._raw, rows, "text") > 0 if rows.size else np.zeros(0, bool)
        if keys.size and not filled.all():
            _log.info("%s, %s: %d of %d rows have no text", name, split, int((~filled).sum()), keys.size)
        self.keys = rows_of_split(keys[filled], fraction, random)
        if keys.size and not self.keys.size:
            raise UserError(f"raw set {name}: no row of split {split!r} has a text to be trained on")
        self._rows = join_rows(raw_keys, self.keys, f"raw set {name}", f"split {split!r}")
        chosen = ("text", "prompt", "system", "audio_description")
        self._texts = self._raw.select_columns([each for each in chosen if each in columns])
        self._audio = undecoded_audio(self._raw, name) if return_audio else None
        self._roots = roots_of(self._raw)

    def __len__(self) -> int:
        return int(self.keys.size)

    def __getitem__(self, index: int) -> ResponseRow:
        row = int(self._rows[index])
        texts = self._texts[row]
        return ResponseRow(
            key=f"{self.name}/{int(self.keys[index])}",
            audio=None if self._audio is None else stored_cell(self._audio[row]["audio"], self._roots),
            context=(texts.get("prompt") or "") if self.prompt is None else self.prompt,
            audio_description=texts.get("audio_description") or "",
            target=texts["text"],
            system=texts.get("system") or "",
            given=True,
        )

    def without_description(self) -> int:
        """Number of rows whose clip has no description in words."""
        if "audio_description" not in self._raw.column_names:
            return len(self)
        return int((text_sizes(self._raw, self._rows, "audio_description") == 0).sum())

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every example, float32 ``(rows,)``, from durations and text sizes."""
        raw = self._raw if self.return_audio else None
        return estimated_tokens(self._raw, self._rows, "text", raw, self._rows)

    def seconds(self) -> np.ndarray | None:
        """Length of every clip in seconds, float32 ``(rows,)``; None without audio, or if the raw set lacks it."""
        return durations(self._raw, self._rows) if self.return_audio else None
