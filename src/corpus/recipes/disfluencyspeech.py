"""DisfluencySpeech: one speaker, with fillers, restarts and asides annotated."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows

KEY = "special annotations"
LETTERS = {
    "F": "{F ...}: Filled pauses (e.g. 'uh', 'um')",
    "E": "{E ...}: Explicit editing terms (e.g. 'I mean', 'sorry')",
    "D": "{D ...}: Discourse markers (e.g. 'you know', 'well')",
    "C": "{C ...}: Coordinating conjuctions (e.g. 'and', 'but')",  # spelt as published
    "A": "{A ...}: Asides (comments that interrupt fluent flow)",
}


def kinds_of(text: str, opened: bool = True) -> str:
    """The kinds of annotation in a transcript. Without ``opened`` the bare letter counts, as published."""
    parts = [part for letter, part in LETTERS.items() if (f"{{{letter}" if opened else letter) in text]
    parts += ["[... + ...]: Restarts"] if "[" in text else []
    parts += ["¡...¿: non-speech sounds"] if "¡" in text or "¿" in text else []
    return "/".join(parts) or "No special annotations"


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one upstream row; the ids are the published ones in either way."""
    text = record["transcript_annotated"].strip()
    published = kinds_of(text, opened=False)
    found = published if options.as_published else kinds_of(text)
    return Draft(text, f"annotations: {published}", text, {KEY: found})


RECIPE = Recipe(
    name="disfluencyspeech",
    title="DisfluencySpeech",
    sources=(HubRows("amaai-lab/DisfluencySpeech", "b7da294fe3a70dd96df6640893f2a5dfc2c87638"),),
    work=hub_rows(draft),
    text_type="speech",
    description=(KEY,),
    columns=columns(
        "audio | audio_description | text | duration | special annotations | unique_id_1 | unique_id_2 | "
        "dataset_index"
    ),
    rows=4500,
    hours=8.55,
    repairs=("a kind of annotation counts where it is opened (`{C`), not wherever its capital letter occurs",),
)
