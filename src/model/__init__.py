"""Encoders, adapters, fusion, splicing into text, the frozen LLM, and checkpoints."""
