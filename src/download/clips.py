"""Clips on disk: found below a download, and rewritten in one form."""

from __future__ import annotations

import errno
import filecmp
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from src.common.errors import UserError, say_where

_MARGIN_SECONDS = 0.1
"""Kept past the end before resampling, so that the last samples are those of the whole clip."""


def find_below(roots: Sequence[Path], path: str) -> Path:
    """The file ``path`` below one of the roots or one of their folders (archives may bring their own folder).

    Names written with composed characters are those with decomposed ones (macOS) and the other way round.

    Raises :class:`UserError` if there is none, if several of the folders have different ones, or if the path leaves
    the root.
    """
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise UserError(f"the path {path} leaves the folder of the data; it is refused")
    # macOS's HFS+ stored decomposed names, and archives made there have them
    forms = dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))])
    for form in forms:
        for root in roots:
            if _is_file(root / form):
                return root / form
        folders = [child for root in roots for child in sorted(root.iterdir()) if child.is_dir()]
        found = [folder / form for folder in folders if _is_file(folder / form)]
        for other in found[1:]:
            if not filecmp.cmp(found[0], other, shallow=False):
                raise UserError(f"{found[0]} and {other} are different files; give a folder with one of them")
        if found:
            return found[0]
    raise UserError(f"there is no {path} in {', '.join(map(str, roots))}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def rewrite_clip(source: Path, target: Path, rate: int = 16_000, max_seconds: int | None = None) -> None:
    """Write the clip as mono 16-bit WAV of ``rate`` Hz, cut after ``max_seconds``; a target that exists is kept.

    Raises :class:`UserError` if the source cannot be decoded.
    """
    if target.is_file():
        return
    import soundfile
    import torch

    from src.audio.resample import resample
    from src.audio.waveform import load_waveform

    waveform = load_waveform(source)
    samples = waveform.mono
    if max_seconds is not None:
        samples = samples[: int((max_seconds + _MARGIN_SECONDS) * waveform.sample_rate)]
    samples = resample(samples[None], torch.tensor([samples.shape[0]]), waveform.sample_rate, rate)[0][0]
    if max_seconds is not None:
        samples = samples[: max_seconds * rate]
    # Encoded in memory: libsndfile's errors do not say that the disk is full.
    data = io.BytesIO()
    soundfile.write(data, samples.numpy(), rate, format="WAV", subtype="PCM_16")
    fresh = target.with_name(f".{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(data.getvalue())
        fresh.replace(target)
    except OSError as error:
        say_where(error, target.parent)
        raise
