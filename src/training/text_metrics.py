"""BLEU, ROUGE, METEOR and BERTScore of generated texts against their targets.

The whole texts are compared, reasoning and answer together, as training uses them. BLEU and ROUGE always work. METEOR
needs WordNet, which nltk loads from its data folders; BERTScore needs the package bert-score and a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common.errors import ConfigError, UserError, error_text
from src.common.log import get_logger
from src.common.modules import ModuleRegistry

log = get_logger(__name__)
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")
Metric = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]
METRICS = ModuleRegistry(
    "metric", None, {name: f"src.training.text_metrics:{name}" for name in ("bleu", "rouge", "meteor")}
)
"""Functions from answers and targets to scores by name."""


def check_bertscore(model: str | None) -> None:
    """Raise :class:`ConfigError` if BERTScore cannot use ``model``; nothing is loaded."""
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
    """Scores answers against targets; models and word lists are loaded once.

    ``metrics`` are short names or import paths of functions (:data:`METRICS`). ``bertscore_model`` is a local model
    folder or a Hub id. Its layer is the one that bert-score recommends for the name (also as the name of a folder),
    else the last. Raises :class:`UserError` if the model cannot be loaded, and :class:`ConfigError` for an unknown
    metric. Scores that are left out are logged, one line each.
    """

    def __init__(
        self, bertscore_model: str | None = None, device: Any = "cpu", metrics: Sequence[str] = METRICS.names
    ) -> None:
        check_bertscore(bertscore_model)
        self._bert = None if bertscore_model is None else _load_bert(bertscore_model, device)
        if self._bert is None:
            log.info("BERTScore is left out: name a model, bertscore_model=roberta-large or a local folder")
        if "meteor" in metrics and _wordnet() is None:
            log.info("METEOR is left out: it needs WordNet, python -m nltk.downloader wordnet")
            metrics = [name for name in metrics if name != "meteor"]
        self._metrics: list[Metric] = [METRICS.load(name, "sample_metrics") for name in metrics]

    def __call__(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Scores of all answers together by name; nothing for no answers.

        ``bertscore`` (F1, no rescaling) is the mean over the answers (0 to 1).
        """
        if not answers:
            return {}
        scores = {name: value for metric in self._metrics for name, value in metric(answers, targets).items()}
        if self._bert is not None:
            pairs = zip(answers, targets, strict=True)
            # An empty answer counts as 0: bert-score 0.3.13 cannot encode one with transformers 5.
            filled = [pair for pair in pairs if pair[0].strip() and pair[1].strip()]
            f1 = self._bert.score(*map(list, zip(*filled, strict=True)))[2] if filled else None
            scores["bertscore"] = 0.0 if f1 is None else float(f1.sum()) / len(answers)
        return scores


def bleu(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """``bleu``: the corpus score, 0 to 100, with sacrebleu's defaults."""
    from sacrebleu import corpus_bleu

    return {"bleu": float(corpus_bleu(list(answers), [list(targets)]).score)}


def rouge(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """``rouge1``, ``rouge2`` and ``rougeL``: F without stemming, 0 to 1, the mean over the answers."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_KINDS))
    # rouge_score takes the target first, in contrast to sacrebleu
    found = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {kind: sum(one[kind].fmeasure for one in found) / len(found) for kind in ROUGE_KINDS}


def meteor(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """``meteor``: 0 to 1, the mean over the answers."""
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    # wordpunct_tokenize is a regular expression; nltk's word_tokenize needs the data package punkt.
    wordnet = _wordnet()
    words = [
        (wordpunct_tokenize(target), wordpunct_tokenize(answer))
        for answer, target in zip(answers, targets, strict=True)
    ]
    return {"meteor": sum(float(single_meteor_score(*pair, wordnet=wordnet)) for pair in words) / len(words)}


def _wordnet() -> Any:
    """nltk's WordNet reader; ``None`` if none of nltk's data folders has its files."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):  # no files, or not all of them
        return None
    return wordnet


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
        reason = error_text(error).rstrip(".")
        raise UserError(f"bertscore_model={name} cannot be loaded: {reason}; name another or none") from error
    # A tokenizer without a limit has model_max_length=1e30, which its own truncation refuses. RoBERTa reserves two
    # positions for padding.
    limit = config.max_position_embeddings - 2
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer
