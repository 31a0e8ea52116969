"""Benchmark data: downloads that survive failures, and conversion to the common columns."""
