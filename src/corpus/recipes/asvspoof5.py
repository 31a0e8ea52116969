"""ASVspoof 5: genuine and synthesised speech, training partition."""

from __future__ import annotations

from collections.abc import Iterator

from src.common.errors import UserError
from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import lines

GENUINE = "bonafide"
SYSTEMS = {
    "A01": "Text-To-Speech using GlowTTS",
    "A02": "Text-To-Speech using GlowTTS",
    "A03": "Text-To-Speech using GlowTTS",
    "A04": "Text-To-Speech using GradTTS",
    "A05": "Text-To-Speech using GradTTS",
    "A06": "Text-To-Speech using GradTTS",
    "A07": "Text-To-Speech using FastPitch",
    "A08": "Text-To-Speech using VITS",
    GENUINE: "None because this is a real audio",
}
REPO = "https://huggingface.co/datasets/jungjee/asvspoof5/resolve"
REVISION = "37a01fa724b6329c2232d26842313abdf935bebc"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each line of the protocol. The published rows call genuine speech ``spoof``, too."""
    protocol, audio = inputs.path("ASVspoof5.train.tsv"), inputs.path("flac_T")

    def draft(line: str) -> Iterator[Draft]:
        # columns: https://huggingface.co/datasets/jungjee/asvspoof5/blob/main/README.txt
        speaker, name, _, _, _, _, _, system, *_ = line.split()
        if system not in SYSTEMS:
            raise UserError(f"{protocol}: {name} is of the unknown system {system!r}; known: {', '.join(SYSTEMS)}")
        genuine = system == GENUINE and not inputs.options.as_published
        fields = {
            "is bona fide or spoof": "bona fide" if genuine else "spoof",
            "spoof algorithm description": SYSTEMS[system],
            "f_id": name,
            "speaker_id": speaker,
        }
        yield Draft(name, speaker, "Speech", fields, audio / f"{name}.flac")

    listed = lines(protocol, without_last=inputs.options.as_published)
    yield from each_row(listed, lambda line: ("".join(line.split()[1:2]), line.split()[0]), draft)


RECIPE = Recipe(
    name="asvspoof5",
    title="ASVspoof 5",
    sources=(
        *(web(f"{REPO}/{REVISION}/flac_T_a{part}.tar", "flac_T") for part in "abcde"),
        web(f"{REPO}/main/ASVspoof5_protocols.tar", "ASVspoof5.train.tsv"),
    ),
    work=file_rows(drafts),
    text_type="caption",
    description=("is bona fide or spoof", "spoof algorithm description"),
    columns=columns(
        "audio_description | duration | text | is bona fide or spoof | spoof algorithm description | audio | "
        "f_id | unique_id_1 | speaker_id | unique_id_2 | dataset_index"
    ),
    rows=182356,
    hours=603.96,
    gb_per_hour=0.063,
    repairs=(
        "genuine speech is called `bona fide` (published: every row says `spoof`)",
        "the last line of the protocol is kept (1 row more)",
    ),
)
