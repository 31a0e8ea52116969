"""Fusions: several adapted streams to one sequence."""

from src.model.fusion.stage import AudioFusion

__all__ = ["AudioFusion"]
