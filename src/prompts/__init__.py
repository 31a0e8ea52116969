"""Prompt texts as data, and how they meet the chat template and the answers."""
