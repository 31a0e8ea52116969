"""Rows of a raw set whose own text is the target: transcription, captions, supervised fine-tuning."""

from __future__ import annotations

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import raw_dir
from src.dataset.response_rows import ResponseRow, StoredRows, rows_of_split
from src.dataset.splits import find_split_indexes
from src.dataset.tables import join_rows, open_split, read_keys, text_sizes

_log = get_logger(__name__)
TEXT_MODE = "Text"
"""Mode of a mixture's row whose first entry is a raw set, not a response folder."""


class GivenRows(StoredRows):
    """Examples of one raw set and split with the column ``text`` as target, read row by row.

    The user's text is ``prompt`` if it is given, else the row's own (column ``prompt``), the system text the row's
    own (column ``system``). Rows without a text are left out.
    """

    mode = TEXT_MODE
    _target = "text"

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
        where, asked_by = f"raw set {name}", f"split {split!r}"
        indexes = find_split_indexes(name, ResponseName(name, "given"), split)
        self._raw = open_split(raw_dir(name), split if indexes is None else "train", where)
        columns = self._raw.column_names
        if "text" not in columns:
            raise UserError(f"{where} has no column 'text', the target; it has {', '.join(columns)}")
        if prompt is None and "prompt" not in columns:
            raise UserError(f"{where} has no column 'prompt'; give the text for all rows by dataset.prompt=…")
        raw_keys = read_keys(self._raw, where)
        keys = raw_keys if indexes is None else indexes.keys
        filled = text_sizes(self._raw, join_rows(raw_keys, keys, where, asked_by), "text") > 0
        if keys.size and not filled.all():
            _log.info("%s, %s: %d of %d rows have no text", name, split, (~filled).sum(), keys.size)
        self.keys = rows_of_split(keys[filled], fraction, random)
        if keys.size and not self.keys.size:
            raise UserError(f"{where}: no row of {asked_by} has a text to be trained on")
        self._raw_rows = join_rows(raw_keys, self.keys, where, asked_by)
        self._source, self._source_rows = self._raw, self._raw_rows
        self._about = "audio_description" if "audio_description" in columns else None
        chosen = ("text", "prompt", "system", "audio_description")
        self._texts = self._raw.select_columns([each for each in chosen if each in columns])
        self._open_audio(name)

    def __getitem__(self, index: int) -> ResponseRow:
        texts = self._texts[int(self._raw_rows[index])]
        return ResponseRow(
            key=f"{self.name}/{int(self.keys[index])}",
            audio=self._clip(index),
            context=(texts.get("prompt") or "") if self.prompt is None else self.prompt,
            audio_description=texts.get("audio_description") or "",
            target=texts["text"],
            system=texts.get("system") or "",
            given=True,
        )
