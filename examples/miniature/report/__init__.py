"""Scores the runs of the main job: ``results.json`` and a self-contained ``report.html``."""
