"""Scores of texts: known values, what is left out and how that is said, a BERTScore model from a local folder."""

from __future__ import annotations

import importlib.util
import logging
import string
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.common.errors import ConfigError, UserError
from src.training.text_metrics import TextScorer, check_bertscore


class _NoWordNet:
    def ensure_loaded(self) -> None:
        raise LookupError("Resource wordnet not found")


class _Synonyms:
    """WordNet's reader as METEOR uses it, with one pair of synonyms."""

    def ensure_loaded(self) -> None:
        """Nothing to load."""

    def synsets(self, word: str) -> list[Any]:
        names = ("dog", "hound") if word in ("dog", "hound") else (word,)
        return [SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda name=name: name) for name in names])]


@pytest.fixture()
def without_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.corpus.wordnet", _NoWordNet())


def save_tiny_bert(folder: Path) -> Path:
    """A BERT of a few thousand weights whose words are letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=48, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def test_equal_texts_score_full_and_strangers_nothing(without_wordnet: None) -> None:
    scorer = TextScorer()
    texts = ["i hear a dog and then a bell", "nothing but wind is heard here"]
    full = {"bleu": 100.0, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert scorer(texts, texts) == pytest.approx(full)
    assert scorer(["x", ""], texts) == pytest.approx(dict.fromkeys(full, 0.0))
    assert scorer([], []) == {}


def test_scores_by_hand(without_wordnet: None) -> None:
    """Four of five words in order: unigrams 4/5, bigrams 2/4; ROUGE-L sees four in a row with a gap."""
    found = TextScorer()(["a dog barks very loudly"], ["a dog barks quite loudly"])
    assert found["rouge1"] == pytest.approx(0.8) and found["rouge2"] == pytest.approx(0.5)
    assert found["rougeL"] == pytest.approx(0.8)
    # precisions 4/5, 2/4, 1/3 and, smoothed, 1/4 (half of 1/2)
    assert found["bleu"] == pytest.approx(100 * (0.8 * 0.5 * (1 / 3) * 0.25) ** 0.25)


def test_what_is_left_out_is_said_once(
    without_wordnet: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "alarm"):
        scorer = TextScorer()
        scorer(["a"], ["a"])
        scorer(["b"], ["b"])
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 2
    assert "bertscore_model=" in said[0] and "nltk.downloader wordnet" in said[1]


def test_meteor_counts_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.corpus.wordnet", _Synonyms())
    scorer = TextScorer()
    same = scorer(["i hear a hound"], ["i hear a dog"])["meteor"]
    other = scorer(["i hear a bell"], ["i hear a dog"])["meteor"]
    assert same == pytest.approx(1 - 0.5 * (1 / 4) ** 3)  # one chunk of four matched words
    assert other < same


def longest_answer(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """A metric of one's own, found by its import path."""
    return {"longest": float(max(map(len, answers)))}


def test_own_metrics_by_import_path() -> None:
    scorer = TextScorer(metrics=["rouge", f"{__name__}:longest_answer"])
    assert scorer(["a dog", "cats"], ["a dog", "birds"]) == pytest.approx(
        {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5, "longest": 5.0}
    )
    with pytest.raises(ConfigError, match="sample_metrics: unknown metric 'wer'; known: bleu, meteor, rouge"):
        TextScorer(metrics=["wer"])


def test_bertscore_from_a_local_folder(without_wordnet: None, tmp_path: Path) -> None:
    scorer = TextScorer(str(save_tiny_bert(tmp_path / "bert")))
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4  # beyond the model's 48 positions
    assert scorer(["a b", long], ["a b", long])["bertscore"] == pytest.approx(1.0, abs=1e-5)
    assert scorer(["a b", ""], ["a b", "c"])["bertscore"] == pytest.approx(0.5, abs=1e-5)
    assert scorer(["x y z"], ["a b"])["bertscore"] < 0.999
    assert scorer(["", " "], ["a", "b"])["bertscore"] == 0.0


def test_bertscore_that_cannot_work_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"bertscore_model=/nowhere: no model folder, config.json is missing"):
        check_bertscore("/nowhere")
    (tmp_path / "config.json").write_text("{}")
    check_bertscore(str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded: .*; name another or none"):
        TextScorer(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="bert-score is not installed; pip install"):
        check_bertscore("roberta-large")
    check_bertscore(None)
