"""ALARM: audio-language alignment for reasoning models."""
