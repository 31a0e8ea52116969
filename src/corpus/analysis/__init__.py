"""Corpora in numbers and examples: rows, lengths, variety of prompts, responses."""
