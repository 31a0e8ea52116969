"""ASVspoof 2019, logical access: genuine and synthesised speech."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows

GENUINE = "-"
SYSTEMS = {
    "A01": "Text-To-Speech using WaveNet",
    "A02": "Text-To-Speech using WORLD",
    "A03": "Text-To-Speech using WORLD",
    "A04": "Text-To-Speech using Waveform Concatenation based on MaryTTS",
    "A05": "Voice Conversion using VAE and WORLD",
    "A06": "Transfer-function based Voice Conversion using Spectral Filtering and Overlap-and-Add",
    GENUINE: "None because this is a real audio",
}


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one upstream row."""
    system = record["system_id"]
    fields = {
        "is bona fide or spoof": "bona fide" if system == GENUINE else "spoof",
        "spoof algorithm description": SYSTEMS[system],
        **{name: record[name] for name in ("system_id", "speaker_id", "audio_file_name")},
    }
    return Draft(str(record["speaker_id"]), str(record["audio_file_name"]), "Speech", fields)


RECIPE = Recipe(
    name="asvspoof19",
    title="ASVspoof 2019 LA",
    sources=(HubRows("Bisher/ASVspoof_2019_LA", "aea92dd83a9c56e070c0b1e9f02e7c0d96216a4c"),),
    work=hub_rows(draft),
    text_type="caption",
    description=("is bona fide or spoof", "spoof algorithm description"),
    columns=columns(
        "system_id | speaker_id | audio_file_name | audio | audio_description | text | duration | "
        "is bona fide or spoof | spoof algorithm description | unique_id_1 | unique_id_2 | dataset_index"
    ),
    rows=25380,
    hours=24.15,
    licence="ODC-By 1.0",
)
