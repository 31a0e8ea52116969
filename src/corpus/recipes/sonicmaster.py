"""SonicMaster: music that was made worse in known ways."""

from __future__ import annotations

import json
from typing import Any

from src.corpus.recipe import WAV_16, Draft, Dropped, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows

EFFECTS_KEY = "degradataion description"  # spelt as published, here and in the texts below
EFFECTS = {
    "Reverb_big": "the audio is convolved with a simulated big room impulse response",
    "Reverb_small": "the audio is convolved with a simulated small room impulse response",
    "EQ_boom": "the audio boominess is reduced by a low-shelf filter at 120 Hz by 10-20 dB",
    "Amplitude_volume": "the audio gain is adjusted to a maximum amplitude within the set {0.001, 0.003, 0.01, 0.05}",
    "Dynamics_comp": "the audio dynamics are modified by applying a feedforward compressor with attack 3-80 ms, "
    "release 80-250 ms, threshold -45 to -38 dB, ratio 6-45, and make-up gain 16-25 dB",
    "EQ_mud": "the audio muddiness is increased with a second-order Chebyshev Type II bandpass (200-500 Hz) by "
    "6-15 dB",
    "EQ_dark": "the audio perceived brightness is increased with a high-shelf filter at 6 kHz by 6-15 dB",
    "Amplitude_clip": "the audio level is modified to a maximum amplitude within the {2, 3, 5} set and clipped",
    "EQ_airy": "the audio airness is reduced via a high-shelf filter at 10 kHz by 10-20 dB",
    "Stereo_stereo": "the left and right channels of the audio are combined to erase the spatial image",
    "EQ_warm": "the audio warmth is reduced by a low-shelf filter at 400 Hz by 6-20 dB",
    "EQ_vocal": "the vocal-range frequencies are attenuated using a second-order Chebyshev Type II bandpass "
    "(350-3500 Hz) by 6-20 dB",
    "Reverb_real": "the audio is convolved with a real room impulse response",
    "Reverb_mix": "the audio is convolved with a simulated mixed material room impulse response",
    "EQ_xband": "the audio is degraded by applying 8 to 12 band parameteric EQ with -6 to +6 range for each band",
    "EQ_mic": "the audio is degraded by convolving the signal with a microphone transfer function",
    "EQ_bright": "the audio brightness is reduced using a high-shelf filter at 6 kHz by 6-15 dB",
    "Dynamics_punch": "the audio dynamics are modified by appling a feedforward transient shaper with attack 3 ms, "
    "release 150 ms, adaptive threshold, and reduction of 8-15 dB",
    "EQ_clarity": "the audio clarity is degraded using a Butterworth low-pass filter (order 3-5) with cutoff at "
    "2 kHz",
}


def draft(record: UpstreamRecord, options: Options) -> Draft | Dropped:
    """Texts of one upstream row; rows of other splits than ``train`` inside ``meta`` are left out."""
    meta: dict[str, Any] = json.loads(record["meta"])
    ids = str(record["id"]), str(meta["name"])
    if meta["split"] != "train":
        return Dropped(*ids, f"split {meta['split']}", error=False)
    sung = meta["vocalinstrumental"] == "vocal"
    effects = [f"{key}_{used[0]}" for key, used in meta["degradation_tracking"].items() if used]
    fields = {
        "song name": meta["name"],
        "genres": "/".join(meta["genres"]),
        "instrumental or with vocals": meta["vocalinstrumental"],
        "singer gender": meta["gender"].title() if sung else "",
        "tags": "/".join(meta["vartags"]),
        "degraded using": " and ".join(meta["degradations"]),
        EFFECTS_KEY: f"[{' / '.join(f'{name.lower()} - {EFFECTS[name]}' for name in effects)}]",
        "id": record["id"],
    }
    return Draft(*ids, "Music", fields, hidden=frozenset() if sung else frozenset({"singer gender"}))


RECIPE = Recipe(
    name="sonicmaster",
    title="SonicMaster (degraded)",
    sources=(HubRows("amaai-lab/SonicMasterDataset", "8191774834e49b6661bf764361ae160bfd1f9fb4", verify=False),),
    work=hub_rows(draft, encode=True, block=50, per_batch=4),
    text_type="caption",
    description=columns(
        f"song name | genres | instrumental or with vocals | singer gender | tags | degraded using | {EFFECTS_KEY}"
    ),
    columns=columns(
        "audio_description | text | song name | genres | instrumental or with vocals | singer gender | "
        "tags | degraded using | degradataion description | duration | id | unique_id_1 | unique_id_2 | "
        "audio | dataset_index"
    ),
    rows=164500,
    hours=1370.83,
    gb_per_hour=WAV_16,
    audio="input_flac",
)
