"""Arrays of samples -> float32 of full scale 1, by their type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.audio.errors import AudioError

LOUD = 32.0
"""Float samples beyond it (30 dB above full scale) are not at full scale 1."""
_FULL_SCALE = {"int8": 2.0**7, "int16": 2.0**15, "uint8": 2.0**7, "uint16": 2.0**15}


def scale_array(array: Any, name: str) -> NDArray[np.float32]:
    """Samples ``(n,)`` or ``(channels, n)`` as float32 ``(channels, n)`` of full scale 1.

    Args:
        array: an array, tensor or (nested) list; two-dimensional with more rows than columns is ``(n, channels)``.

    Integers are divided by the full scale of their type, unsigned ones about their middle. Lists have no type, and
    wide integers often carry narrow samples: integers of 32 or 64 bits that fit 16 bits are 16-bit samples, those of
    64 bits that fit 32 bits are 32-bit samples. Floats are taken as they are; whole numbers beyond :data:`LOUD` that
    fit 16 bits are 16-bit samples kept as floats.

    Raises:
        AudioError: another shape, a type that says nothing of a scale (bool, text, complex), or other floats beyond
            :data:`LOUD`.
    """
    values = _as_numpy(array, name)
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2:
        raise AudioError(f"{name}: got an array of shape {values.shape}, expected (n,) or (channels, n)")
    if values.shape[0] > values.shape[1] > 0:
        values = values.T
    if values.size == 0:
        return np.zeros(values.shape, np.float32)
    kind = values.dtype
    if kind.kind == "f":
        return _scale_floats(values, name)
    if kind.name in _FULL_SCALE:
        full = np.float32(_FULL_SCALE[kind.name])
        scaled: NDArray[np.float32] = (values.astype(np.float32) - (full if kind.kind == "u" else 0)) / full
        return scaled
    if kind.name in ("int32", "int64"):
        low, high = int(values.min()), int(values.max())
        bits = next((bits for bits in (15, 31) if -(1 << bits) <= low and high < 1 << bits), 63)
        return (values / 2.0**bits).astype(np.float32)
    raise AudioError(f"{name}: got samples of type {kind.name}, expected floats in -1 to 1 or signed integers")


def _as_numpy(array: Any, name: str) -> NDArray[Any]:
    try:
        if hasattr(array, "detach"):  # a tensor, bfloat16 included, which NumPy does not have
            array = array.detach().cpu()
            array = array.float().numpy() if array.is_floating_point() and array.element_size() < 4 else array.numpy()
        values = np.asarray(array)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of different lengths, sparse tensors
        raise AudioError(f"{name}: got {type(array).__name__}, expected an array of numbers ({error})") from error
    if values.size == 0 and values.dtype.kind not in "fiu":
        return values.astype(np.float32)
    return values


def _scale_floats(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):
        peak = float(np.abs(values).max())
        if not np.isfinite(peak) or peak <= LOUD:  # what is not finite is named by the check of all forms
            return np.ascontiguousarray(values, np.float32)
        whole = peak <= 2.0**15 and bool((values == np.rint(values)).all())
    if whole:
        return np.ascontiguousarray(values, np.float32) / np.float32(2.0**15)
    raise AudioError(
        f"{name}: got float samples up to {peak:.4g}, expected about -1 to 1; divide them by their full scale (32768 "
        "for 16 bits)"
    )
