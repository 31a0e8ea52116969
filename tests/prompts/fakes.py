"""A tokenizer of whole characters with a Qwen3-Thinking chat template, for tests that need no model."""

from __future__ import annotations

from typing import Any


class CharTokenizer:
    """Ids are code points; the template is that of Qwen3 Thinking unless ``header`` says otherwise."""

    def __init__(self, header: str = "<|im_start|>assistant\n<think>\n") -> None:
        self.header = header
        self.eos_token_id = 3
        self.all_special_ids = [3]

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        """Render the conversation."""
        turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation)
        return turns + (self.header if options.get("add_generation_prompt") else "")

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        """Ids of ``text``; special tokens must not be asked for."""
        assert options.get("add_special_tokens") is False
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: list[int], **options: Any) -> str:
        """Text of ``ids``."""
        return "".join(chr(token) for token in ids)
