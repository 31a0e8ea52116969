"""NISQA: speech degraded in known ways, rated by people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import MISSING, filled, number, table

PARTS = ("NISQA_TRAIN_LIVE", "NISQA_TRAIN_SIM")
EXPLANATION = (  # worded as published
    "[Noisiness (the smaller the level the better): the presence of the background, circuit, or coding noise; "
    "Coloration (the smaller the level the better): frequency response distortions, low-bitrate codecs, or "
    "packet-loss concealment; Discontinuity (the smaller the level the better): isolated or non-stationary "
    "distortions, e.g. introduced by packet-loss or clipping; Loudness (the higher the better): if small, the "
    "loudness is not ideal, either too loud or too quit signals or loudness variation]"
)
NEEDS = ("db", "filename_deg", "mos", "noi", "col", "dis", "loud", "con_description")


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """Rows of the two training parts. Noise, coloration and discontinuity are reversed: upstream, 5 is best."""
    root = inputs.path("NISQA_Corpus")
    rows = [row for row in table(root / "NISQA_corpus_file.csv", needs=NEEDS) if row["db"] in PARTS]
    missing = math.nan if inputs.options.as_published else None

    def draft(row: dict[str, str]) -> Iterator[Draft]:
        name, kind = filled(row["filename_deg"], "filename_deg"), row["con_description"]
        score = {key: number(row[key], key, missing) for key in ("mos", "noi", "col", "dis", "loud")}
        fields = {
            "mos": round(score["mos"], 3),
            "noise level": f"{round(5 - score['noi'], 3)}/5",
            "coloration level": f"{round(5 - score['col'], 3)}/5",
            "discontinuity": f"{round(5 - score['dis'], 3)}/5",
            "loudness": f"{round(score['loud'], 3)}/5",
            "degradation type": "nan" if kind in MISSING else kind,
            "degradation explanation": EXPLANATION,
            "filename": name,
            "db": row["db"],
        }
        yield Draft(name, row["db"], "Speech", fields, root / row["db"] / "deg" / name)

    ordered = sorted(rows, key=lambda row: PARTS.index(row["db"]))
    yield from each_row(ordered, lambda row: (row["filename_deg"], row["db"]), draft)


RECIPE = Recipe(
    name="nisqa",
    title="NISQA Corpus",
    sources=(web("https://depositonce.tu-berlin.de/bitstream/11303/13012.5/9/NISQA_Corpus.zip", "NISQA_Corpus"),),
    work=file_rows(drafts),
    text_type="caption",
    description=columns(
        "mos | noise level | coloration level | discontinuity | loudness | degradation type | degradation explanation"
    ),
    columns=columns(
        "audio_description | duration | text | mos | noise level | coloration level | discontinuity | "
        "loudness | degradation type | degradation explanation | audio | filename | unique_id_1 | db | "
        "unique_id_2 | dataset_index"
    ),
    types={"mos": "float64"},
    rows=11020,
    hours=27.2,
    repairs=("a recording without a score is left out (published: `nan/5`)",),
)
