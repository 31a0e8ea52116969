"""The tiny language model and data root of the generation tests."""

from tests.generation.conftest import data_root, llm

__all__ = ["data_root", "llm"]
