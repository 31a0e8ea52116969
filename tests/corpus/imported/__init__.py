"""Tests of src/corpus/imported."""
