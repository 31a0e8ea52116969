"""Scores: saved answers joined with their questions, right or wrong, with intervals. No torch, no vLLM."""
