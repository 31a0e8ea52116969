"""Helpers that recipes are written with: tables, audio, rows of the Hub, conversations."""
