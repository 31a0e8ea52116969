"""Prompt texts as data, and how they meet the chat template and the answers."""

from src.prompts.prompt_sets import choose_prompts
from src.prompts.texts import Prompts, load_prompts

__all__ = ["Prompts", "choose_prompts", "load_prompts"]
