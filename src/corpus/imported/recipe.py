"""The recipe of imported sets: decodes every clip once, keeps its bytes, and writes the row's texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.audio.errors import AudioError
from src.common.errors import UserError, check_host, error_text
from src.corpus.description import describe_audio
from src.corpus.imported.row import Columns, SourceRow, read_record
from src.corpus.recipe import CorpusRow, Dropped, Inputs, Recipe, Stored, Work, columns
from src.corpus.rows.audio import Cuts, encode_wav, mono, seconds_of, to_rate
from src.corpus.rows.make import cell_bytes

ImportJob = tuple[SourceRow, str]
"""A row and what its text is: ``speech`` or ``caption``."""


def make_row(job: ImportJob, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """The finished row, or why it is left out."""
    row, text_type = job
    try:
        if row.problem:
            raise UserError(row.problem)
        stored, seconds = _audio(row, inputs)
        if not seconds:
            raise AudioError("the clip has no samples")
    except Exception as error:  # a fault of one row must not stop the others
        check_host(error)
        kind = "undecodable: " if isinstance(error, AudioError) or not isinstance(error, UserError) else ""
        yield Dropped(row.where, row.clip, f"{kind}{error_text(error)}")
        return
    fields = {
        "audio_description": describe_audio(seconds, row.text, "caption" if text_type == "caption" else "speech"),
        "duration": seconds,
        "text": row.text,
        "prompt": row.prompt,
        "system": row.system,
        "split_group": row.group or row.clip,
        "source_split": row.split,
        "source_row": row.where,
        "unique_id_1": row.unique_id_1,
        "unique_id_2": row.unique_id_2,
    }
    yield CorpusRow(fields, stored)


def _audio(row: SourceRow, inputs: Inputs) -> tuple[Stored, float]:
    """The clip as it will be saved, and its length in seconds."""
    if row.cell is not None:
        split, number, column = row.cell
        cell = inputs.rows[split][number][column]
        data = cell_bytes(cell, inputs.allowed[split])
        name = Path(cell.get("path") or f"{split}_{number}").name
        return Stored(name, data=data, size=len(data)), seconds_of(data, name)
    path = Path(row.audio)
    if not path.is_file():
        raise UserError(f"missing file: {path} does not exist")
    if row.seconds is None and row.channel is None:
        return Stored(path.name, file=path, size=path.stat().st_size), seconds_of(path)
    cuts = Cuts(path)
    start = round(row.start * cuts.rate)
    # 2**62: to the end of the file, in samples, with room for the start
    length = 2**62 if row.seconds is None else round(row.seconds * cuts.rate)
    samples = cuts.read(start, start + length)
    if row.channel is not None:
        if row.channel >= samples.shape[0]:
            raise UserError(f"no audio: {path} has {samples.shape[0]} channels, and no number {row.channel}")
        samples = samples[row.channel : row.channel + 1]
    data = encode_wav(to_rate(mono(samples), cuts.rate)[0])
    return Stored(f"{path.stem}_{start}.wav", data=data, size=len(data)), seconds_of(data, row.clip)


def cell_rows(rows: Mapping[str, Any], given: Columns) -> Iterator[SourceRow]:
    """Rows of a saved set or of the Hub, split by split; their audio is undecoded.

    Raises :class:`ConfigError` if there is no audio column.
    """
    column = given.given.get("audio", "audio")
    for split, table in rows.items():
        Columns({**given.given, "audio": column}).check(table.column_names, f"split {split}")
        is_path = getattr(table.features[column], "dtype", "") == "string"
        texts = table if is_path else table.select_columns([name for name in table.column_names if name != column])
        for number, record in enumerate(texts):
            where = f"{split} row {number}"
            cell = None if is_path else (split, number, column)
            try:
                yield read_record({"split": split, **record}, given, where, "", cell)
            except UserError as error:
                yield SourceRow(where, problem=str(error))


RECIPE = Recipe(
    name="imported",
    title="imported data",
    sources=(),
    # workers load this recipe by its module; the importer sets its jobs to those of a source
    work=Work(lambda inputs: (), make_row, per_batch=200),
    text_type="caption",
    description=(),
    columns=columns(
        "audio_description | duration | text | audio | prompt | system | split_group | source_split | source_row | "
        "unique_id_1 | unique_id_2 | dataset_index"
    ),
    licence="yours",
    module=__name__,
)
