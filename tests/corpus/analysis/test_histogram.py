"""Histograms by batches, prompts' variety, and which rows are read."""

from __future__ import annotations

import numpy as np
import pytest

from src.corpus.analysis.histogram import BATCH, BINS, RunningHistogram, spread
from src.corpus.analysis.raw_set import PromptVariety, opening, split_words


def test_a_histogram_does_not_depend_on_batches() -> None:
    values = np.random.default_rng(0).gamma(2.0, 40.0, 5000).round()
    whole, parts = RunningHistogram(1, 4096), RunningHistogram(1, 4096)
    whole.add(values)
    for part in np.array_split(values, 17):
        parts.add(part)
    found = whole.result()
    assert found == parts.result() and found is not None
    assert found["n"] == 5000 and found["mean"] == pytest.approx(values.mean(), abs=1e-3)
    assert found["median"] == np.quantile(values, 0.5, method="inverted_cdf")
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert len(found["counts"]) <= BINS and len(found["edges"]) == len(found["counts"]) + 1
    assert sum(found["counts"]) + found["beyond"] == 5000 and 0 < found["beyond"] <= 25
    expected, _ = np.histogram(values, found["edges"])
    expected[-1] -= (values == found["edges"][-1]).sum()  # numpy closes its last bin
    assert found["counts"] == expected.tolist()
    assert whole.between(100, 612) == ((values >= 100) & (values <= 612)).sum()


def test_a_histogram_of_little_and_of_much() -> None:
    assert RunningHistogram(1, 10).result() is None
    few = RunningHistogram(0.1, 10)
    few.add([0.3, 2.5, float("nan"), -1.0])
    found = few.result()
    assert found is not None and found["n"] == 2 and found["counts"][3] == 1 and found["beyond"] == 0
    long = RunningHistogram(1, 10)
    long.add([1.0] * 1000 + [5000.0])
    found = long.result()
    assert found is not None and found["max"] == 5000 and found["beyond"] == 1 and long.quantile(1.0) == 10


@pytest.mark.parametrize(("rows", "limit"), [(0, None), (7, None), (7, 7), (12_345, 12_345), (100_000, 1700), (9, 4)])
def test_rows_that_are_read_are_distinct_and_spread(rows: int, limit: int | None) -> None:
    ranges = spread(rows, limit)
    read = [row for start, stop in ranges for row in range(start, stop)]
    assert len(read) == len(set(read)) == min(rows, rows if limit is None else limit)
    assert read == sorted(read) and all(0 <= row < rows for row in read)
    assert all(stop - start <= BATCH for start, stop in ranges)
    if limit == 1700:
        assert max(read) > 0.7 * rows and min(read) == 0


def test_variety_of_prompts() -> None:
    prompts = ["What is it?", "What is it? ", "what is it", "Name the dog's breed.", "", "Describe it."]
    variety = PromptVariety(len(prompts))
    for place in range(0, len(prompts), 4):
        variety.add(prompts[place : place + 4])
    found = variety.result(prompts.__getitem__)
    assert found is not None
    assert (found["rows"], found["distinct"], found["once"]) == (6, 5, 4)
    assert found["repeated"] == [{"text": "What is it?", "count": 2}]
    assert [(word["text"], word["count"]) for word in found["first_words"][:2]] == [("what", 3), ("name", 1)]
    assert found["first_words"][0]["openings"] == [{"text": "what is it", "count": 3}]
    unigrams, bigrams = found["ngrams"][:2]
    assert (unigrams["distinct"], unigrams["all"]) == (8, 15) and (bigrams["distinct"], bigrams["all"]) == (6, 10)
    assert PromptVariety(0).result(prompts.__getitem__) is None


def test_ngrams_are_of_a_sample_spread_over_all_prompts() -> None:
    variety = PromptVariety(30_000)
    for start in range(0, 30_000, 7000):
        variety.add([f"word{number} again" for number in range(start, min(start + 7000, 30_000))])
    found = variety.result(lambda number: f"word{number} again")
    assert found is not None and found["ngrams_of"] == 10_000 and found["distinct"] == 30_000
    assert found["ngrams"][0] == {"n": 1, "distinct": 10_001, "all": 20_000, "share": 10_001 / 20_000}


def test_words() -> None:
    assert split_words("The dog's <b>bark</b>, I'm 3-ly sure… 你好") == [
        "the", "dog's", "b", "bark", "b", "i'm", "3", "ly", "sure", "你好",
    ]  # fmt: skip
    assert opening(["a", "b"], 3) == "a b"
