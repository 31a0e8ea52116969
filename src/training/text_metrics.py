"""How near generated texts are to their targets: BLEU, ROUGE, METEOR, BERTScore.

Compared are whole texts, thoughts and answer together, as the targets of training are. BLEU and ROUGE always work.
METEOR needs WordNet, which nltk loads from its data folders; BERTScore needs the package bert-score and a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from src.common.errors import ConfigError, UserError
from src.common.log import get_logger

log = get_logger(__name__)
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


def check_bertscore(model: str | None) -> None:
    """Whether ``model`` can be used at all. Raises :class:`ConfigError` without loading anything."""
    if model is None:
        return
    if importlib.util.find_spec("bert_score") is None:
        raise ConfigError(
            f"bertscore_model={model}: the package bert-score is not installed; pip install bert-score==0.3.13, "
            "or leave bertscore_model out"
        )
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    folder = Path(model).expanduser()
    if (looks_local or folder.is_dir()) and not (folder / "config.json").is_file():
        raise ConfigError(f"bertscore_model={model}: no model folder, config.json is missing there")


class TextScorer:
    """Scores answers against targets; what each score needs is loaded once.

    ``bertscore_model`` is a local model folder or a Hub id. Its layer is the one recommended by bert-score where the
    name is among those that it knows (also as the name of a folder), else the last. Raises :class:`UserError` if the
    model cannot be loaded. What is left out is logged, in one line each.
    """

    def __init__(self, bertscore_model: str | None = None, device: Any = "cpu") -> None:
        check_bertscore(bertscore_model)
        self._bert = None if bertscore_model is None else _load_bert(bertscore_model, device)
        if self._bert is None:
            log.info("BERTScore is left out: name a model, bertscore_model=roberta-large or a local folder")
        if self._wordnet is None:
            log.info("METEOR is left out: it needs WordNet, python -m nltk.downloader wordnet")

    def __call__(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Scores of all answers together; nothing for no answers.

        ``bleu`` is the corpus score (0 to 100, sacrebleu's defaults); ``rouge1``, ``rouge2``, ``rougeL`` (F, no
        stemming), ``meteor`` and ``bertscore`` (F1, no rescaling) are means over the answers (0 to 1).
        """
        if not answers:
            return {}
        from sacrebleu import corpus_bleu

        scores = {"bleu": float(corpus_bleu(list(answers), [list(targets)]).score)} | self._rouge(answers, targets)
        if self._wordnet is not None:
            scores["meteor"] = _mean([self._meteor(*pair) for pair in zip(answers, targets, strict=True)])
        if self._bert is not None:
            scores["bertscore"] = self._bertscore(answers, targets)
        return scores

    def _rouge(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(ROUGE_KINDS))
        found = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
        return {kind: _mean([scores[kind].fmeasure for scores in found]) for kind in ROUGE_KINDS}

    @cached_property
    def _wordnet(self) -> Any:
        """nltk's WordNet reader; None if its files are in none of nltk's data folders."""
        from nltk.corpus import wordnet

        try:
            wordnet.ensure_loaded()
        except (LookupError, OSError):  # no files, or not all of them
            return None
        return wordnet

    def _meteor(self, answer: str, target: str) -> float:
        from nltk.tokenize import wordpunct_tokenize
        from nltk.translate.meteor_score import single_meteor_score

        return float(
            single_meteor_score(wordpunct_tokenize(target), wordpunct_tokenize(answer), wordnet=self._wordnet)
        )

    def _bertscore(self, answers: Sequence[str], targets: Sequence[str]) -> float:
        """Mean F1; an empty answer counts as 0, since bert-score cannot encode one with this transformers."""
        assert self._bert is not None
        pairs = [pair for pair in zip(answers, targets, strict=True) if pair[0].strip() and pair[1].strip()]
        if not pairs:
            return 0.0
        _, _, f1 = self._bert.score([answer for answer, _ in pairs], [target for _, target in pairs])
        return float(f1.sum()) / len(answers)


def _load_bert(name: str, device: Any) -> Any:
    from bert_score import BERTScorer
    from bert_score.utils import model2layers
    from transformers import AutoConfig

    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        config = AutoConfig.from_pretrained(path)
        layers = model2layers.get(name, model2layers.get(Path(name).name, config.num_hidden_layers))
        scorer = BERTScorer(model_type=path, num_layers=layers, device=str(device))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(f"bertscore_model={name} cannot be loaded: {reason}; name another or none") from error
    # A tokenizer that names no limit says 1e30, which its own truncation refuses; two positions may be reserved.
    limit = config.max_position_embeddings - 2
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
