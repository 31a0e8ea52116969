"""Sampling settings of a language model where a request gives none: its generation config, or shared defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.common.log import get_logger

log = get_logger(__name__)
FALLBACK: dict[str, Any] = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
"""For models whose generation config names no sampling; those of Qwen3-Thinking, the published system's model."""
_CHOICE = ("temperature", "top_p", "top_k")
_KEYS = (*_CHOICE, "min_p", "repetition_penalty")


def sampling_defaults(stated: Mapping[str, Any], llm: str) -> dict[str, Any]:
    """Sampling settings of ``llm`` by the names of vLLM's ``SamplingParams``; logged.

    Args:
        stated: the keys that its generation config gives; libraries' own defaults must not be among them. With
            ``do_sample=true`` alone it asks for plain sampling (temperature 1), with ``do_sample=false`` for none.
        llm: its name, for the log.
    """
    found = {key: stated[key] for key in _KEYS if stated.get(key) is not None}
    chosen = any(key in found for key in _CHOICE)
    if stated.get("do_sample") is False:
        found, origin = {**found, "temperature": 0.0}, "its generation config says do_sample=false"
    elif chosen or stated.get("do_sample"):
        origin = "its generation config"
    else:
        # libraries differ here: vLLM would sample at temperature 1, transformers would decode greedily
        found, origin = {**found, **FALLBACK}, "its generation config names none; these are the defaults"
    listed = ", ".join(f"{key} {value}" for key, value in found.items()) or "temperature 1"
    log.info("sampling of %s, where none is given: %s (%s)", llm, listed, origin)
    return found
