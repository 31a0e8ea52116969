"""Prompt texts as data, and how they meet the chat template and the answers."""

from src.prompts.texts import Prompts, load_prompts

__all__ = ["Prompts", "load_prompts"]
