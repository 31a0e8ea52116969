"""Publishing a checkpoint on the Hugging Face Hub, with a model card that says what made it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData

from src.common.errors import UserError, error_text
from src.common.existing import RECORD, read_record
from src.common.files import write_json
from src.common.hub_upload import markdown_table, send_folder
from src.common.paths import REPO_ROOT
from src.common.run_record import read_starts, without_paths
from src.model import published
from src.model.checkpoints import CONFIG_FILE, Checkpoint
from src.model.config import ModelConfig
from src.model.export import export_published, warn_of_local_sources
from src.model.lora_files import FILES as LORA_FILES
from src.model.tensor_files import WEIGHTS_FILE

CARD_FILE = "README.md"
TRAINED_PART = """An audio embedder for a frozen reasoning language model, trained with ALARM (Audio-Language
Alignment for Reasoning Models). This repository holds what was trained; the language model and the audio encoders are
frozen and come from their own repositories.
"""
WHOLE = """A frozen reasoning language model with an audio embedder, trained with ALARM (Audio-Language Alignment for
Reasoning Models): the whole model in one place.
"""
OURS = (WEIGHTS_FILE, CONFIG_FILE, published.CONFIG_FILE, *LORA_FILES)


@dataclass(frozen=True)
class Score:
    """One number of a ``results.json``: ``value`` with its 95 % interval over ``n`` items."""

    system: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def read_scores(path: Path, system: str | None = None) -> list[Score]:
    """The overall scores of a ``results.json``, of one system where ``system`` is given.

    Parts of a score (names with two slashes or more) are left out. Raises :class:`UserError` for a file of another
    form, and for a system that is not in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["rows"] if isinstance(content, Mapping) else content
        scores = [Score(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a table of results ({error!r}); expected rows of system, metric, value, low, high, n"
        ) from error
    known = sorted({score.system for score in scores})
    if system is not None and system not in known:
        raise UserError(f"{path}: has no system {system!r}; known: {', '.join(known)}")
    return [s for s in scores if (system is None or s.system == system) and s.metric.count("/") < 2]


def model_card(
    checkpoint: Checkpoint, repo: str, licence: str, scores: Sequence[Score] = (), whole: bool = False
) -> ModelCard:
    """The card of a checkpoint: what it is made of and trained on, how to use it, scores, licence."""
    config = checkpoint.config
    record = {} if checkpoint.folder is None else _record_of(checkpoint.folder)
    sources = [config.llm, *(spec.weights.source for spec in config.config.encoders.values() if spec.weights)]
    data = ModelCardData(
        license=licence,
        # a folder of this machine is no model of the Hub, to which these become links
        base_model=[source for source in sources if not (REPO_ROOT / source).exists()] or None,
        pipeline_tag="audio-text-to-text",
        tags=["alarm", "audio", "reasoning"],
        library_name="alarm",
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {repo.split('/')[-1]}\n",
        WHOLE if whole or checkpoint.is_full_model else TRAINED_PART,
        "## Use\n",
        f'```bash\npython ask.py FILE.wav "What do you hear?" checkpoint_name={repo}\n'
        f"python generate_vllm.py dataset.name=DATASET checkpoint_name={repo}\n```\n",
        "## Parts\n",
        _parts_table(config, checkpoint.extra.get("prompts")),
        "## Training\n",
        _training(record),
        "## Scores\n",
        _score_table(scores),
        "## Licence\n",
        f"{licence}. The frozen parts have licences of their own; see their repositories.\n",
    ]
    return ModelCard("\n".join(parts))


def _parts_table(config: ModelConfig, prompts: Any) -> str:
    rows = [("language model (frozen)", config.llm, config.llm_revision or "")]
    for name, spec in config.config.encoders.items():
        adapter = config.config.audio_adapter_config[name].adapter_name
        layers = ", ".join(map(str, config.config.layers(name)))
        weights = spec.weights
        source = (spec.module_name, "") if weights is None else (weights.source, weights.revision or "")
        rows.append((f"{name} (frozen), layers {layers}, adapter {adapter}", *source))
    if config.lora is not None:
        chosen = config.lora.target_modules
        layers = chosen if isinstance(chosen, str) else ", ".join(chosen)
        what = f"LoRA on the language model: r {config.lora.r}, alpha {config.lora.alpha}, layers {layers}"
        rows.append((what, "`lora/` in this repository, in PEFT's format", ""))
    rows.append((f"fusion: {config.config.audio_fusion_config.fusion_type}", "in this repository", ""))
    if isinstance(prompts, Mapping):  # what it is asked with unless prompts= names another set
        rows.append(
            (f"prompt set {prompts.get('name')}", str(prompts.get("source", "")), str(prompts.get("digest", "")))
        )
    return markdown_table(("part", "source", "revision"), rows)


def _record_of(folder: Path) -> dict[str, Any]:
    """Record of the run that trained a checkpoint: of its end, else of its last start.

    ``checkpoint-N`` lies in the folder of its run, whose end, if there was one, is not that of the checkpoint.
    """
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    starts = read_starts(run)
    return read_record(folder) or (starts[-1] if starts else {})


def _training(record: Mapping[str, Any]) -> str:
    if not record:
        return "There is no record of the training beside the weights.\n"
    config, counts = record.get("config", {}), record.get("counts", {})
    names = ("learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps",
             "max_steps", "num_train_epochs", "bf16")  # fmt: skip
    arguments, dataset = config.get("training_args", {}), config.get("dataset", {})
    sets = [str(row[0]) for row in dataset.get("train", {}).get("rows", []) if row]
    data = f"{dataset.get('name', 'not recorded')}: {', '.join(sets)}" if sets else "not recorded"
    rows = [("data", data), ("seed", str(record.get("seed")))]
    rows += [(name, str(arguments[name])) for name in names if name in arguments]
    rows += [(name, str(value)) for name, value in counts.items()]
    rows.append(("git commit", str(record.get("git", {}).get("commit"))))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())))
    return markdown_table(("setting", "value"), rows)


def _score_table(scores: Sequence[Score]) -> str:
    if not scores:
        return "Not evaluated yet.\n"
    rows = []
    for score in scores:
        interval = "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"
        rows.append(
            (score.system, score.metric, f"{score.value:.3f}", interval, "" if score.n is None else str(score.n))
        )
    return markdown_table(("system", "metric", "value", "95 % interval", "n"), rows)


def own_repo(username: str | None, name: str, offline: bool) -> str:
    """``OWNER/NAME``; without ``username`` the account that is logged in, which is not asked for when ``offline``.

    Raises :class:`UserError` when nobody is logged in.
    """
    if username or offline:  # a dry run must not depend on a login
        return f"{username or 'OWNER'}/{name}"
    try:
        return f"{HfApi().whoami()['name']}/{name}"
    except (OSError, ValueError) as error:  # LocalTokenNotFoundError is an OSError
        raise UserError(f"--username: missing, and no account is logged in ({error_text(error, 100)})") from error


def stage_upload(
    checkpoint: Checkpoint,
    folder: Path,
    repo: str,
    licence: str,
    scores: Sequence[Score] = (),
    whole: bool = False,
    tokenizer: str | None = None,
) -> Path:
    """Lay out in ``folder`` what is to be published: our form, or with ``whole`` the published one, and the card.

    ``tokenizer`` names the LLM whose tokenizer goes with the published form; none: the checkpoint's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if whole:
        export_published(checkpoint, folder, tokenizer=tokenizer)
    elif checkpoint.folder is None:
        raise UserError(f"checkpoint {checkpoint.name!r} is on the Hub already; give a local folder")
    else:
        for file in OURS:
            if (checkpoint.folder / file).is_file():
                (folder / file).parent.mkdir(exist_ok=True)
                shutil.copy2(checkpoint.folder / file, folder / file)
        if record := _record_of(checkpoint.folder):
            write_json(folder / RECORD, without_paths(record))
        warn_of_local_sources(checkpoint.config, repo)
    model_card(checkpoint, repo, licence, scores, whole).save(folder / CARD_FILE)
    return folder


def upload(
    checkpoint: Checkpoint,
    repo: str,
    licence: str,
    scores: Sequence[Score] = (),
    whole: bool = False,
    private: bool = True,
    tokenizer: str | None = None,
) -> CommitInfo:
    """Publish a checkpoint as ``repo`` (OWNER/NAME), which is made where it does not exist.

    Raises :class:`UserError` when the Hub refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage_upload(checkpoint, Path(folder), repo, licence, scores, whole, tokenizer)
        failure = "the Hub did not take the upload ({reason}); is `hf auth login` done?"
        return send_folder(Path(folder), repo, "model", private, failure, commit_message="Upload ALARM checkpoint")
