"""ESC-50 (https://github.com/karolpiczak/ESC-50): fifty kinds of environmental sounds."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_44, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import filled, table

URL = "https://github.com/karoldvl/ESC-50/archive/master.zip"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each clip of all five folds; labels keep their underscores."""
    root = inputs.path("ESC-50-master")

    def draft(row: dict[str, str]) -> Iterator[Draft]:
        fields = {"filename": row["filename"], "src_file": int(row["src_file"])}
        ids = row["filename"], str(fields["src_file"])
        yield Draft(*ids, filled(row["category"], "category").strip(), fields, root / "audio" / row["filename"])

    rows = table(root / "meta" / "esc50.csv", needs=("filename", "category", "src_file"))
    yield from each_row(rows, lambda row: (row["filename"], row["src_file"]), draft)


RECIPE = Recipe(
    name="esc50",
    title="ESC-50",
    sources=(web(URL, "ESC-50-master/audio", name="ESC-50-master.zip"),),
    work=file_rows(drafts),
    text_type="caption",
    columns=columns(
        "audio_description | duration | text | audio | filename | unique_id_1 | src_file | unique_id_2 | "
        "dataset_index"
    ),
    types={"src_file": "int64"},
    rows=2000,
    hours=2.78,
    gb_per_hour=WAV_44,
    licence="CC BY-NC 3.0",
)
