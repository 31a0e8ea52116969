"""Builds the training data, from the sources of the corpora to response sets.

Imports go one way: ``recipe`` <- ``recipes`` <- ``collect`` <- ``targets`` <- ``postprocess`` <- ``analysis``.
"""
