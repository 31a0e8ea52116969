"""Adapters: from a stack of encoder layers to frames of the LLM's width."""

from src.model.adapters.adapter import AudioAdapter

__all__ = ["AudioAdapter"]
