"""Sends answers to the Hugging Face Hub: Parquet files of each split, the run record and a card."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from src.common.errors import UserError, error_text
from src.common.existing import RECORD, read_record
from src.common.files import write_json
from src.common.hub_upload import markdown_table, send_folder
from src.common.log import get_logger
from src.common.run_record import public_record
from src.generation.config import RunConfig
from src.prompts.prompt_sets import origin_of_run

log = get_logger(__name__)
PARQUET_BYTES = 500 * 10**6  # the size of datasets' own push_to_hub (datasets.config.MAX_SHARD_SIZE)
INTRODUCTION = """Answers of an audio language model (ALARM) to the questions of a data set: one row a question.
`llm_answer` is the published system's reading of the reply, `response` all that was written, thoughts included;
`status` and `error` tell which rows have no answer and why.
"""


def repo_name(config: RunConfig, api: HfApi | None = None) -> str:
    """``OWNER/NAME`` of the repository, as configured; the owner is who is logged in where none is given.

    Raises :class:`UserError` when nobody is.
    """
    name = config.hf_repo_name or config.output_name()
    if "/" in name:
        return name
    owner = config.hf_username
    if owner is None:
        try:
            owner = str((api or HfApi()).whoami()["name"])
        except Exception as error:  # whatever the HTTP library raises
            reason = error_text(error, 200)
            raise UserError(
                f"push_to_hub: hf_username is not given, and the Hub does not say who is logged in ({reason}); do "
                "`hf auth login`, or give hf_username=NAME"
            ) from error
    return f"{owner}/{name}"


def push(directory: Path, config: RunConfig, api: HfApi | None = None) -> str:
    """Send the finished data set in ``directory``, private unless ``hf_public``; returns the repository.

    Raises :class:`UserError` when the Hub refuses, and when it already has a public data set of this name that was to
    be private.
    """
    api = api or HfApi()
    repo = repo_name(config, api)
    with tempfile.TemporaryDirectory() as folder:
        stage(directory, Path(folder), repo)
        where = (
            str(directory).replace("{", "{{").replace("}", "}}")
        )  # `failure` is a template, filled with the reason
        send_folder(
            Path(folder),
            repo,
            "dataset",
            private=not config.hf_public,
            failure=f"the Hub did not take the answers ({{reason}}); they are in {where}, and the same command sends "
            "them again",
            public_refused="is public on the Hub; give hf_public=true, or another hf_repo_name",
            api=api,
            commit_message="Answers of an ALARM run",
            delete_patterns=["data/*"],  # of a push before, which may have had more files
        )
    log.info("answers are on the Hub: %s", repo)
    return repo


def stage(directory: Path, folder: Path, repo: str) -> None:
    """Lay out in ``folder`` what is to be sent. Answers of another program have no record of their run."""
    from datasets import load_from_disk

    record = read_record(directory)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = load_from_disk(str(directory))
    for split, rows in data.items():
        count = max(1, math.ceil((rows.data.nbytes or 0) / PARQUET_BYTES))
        for number in range(count):
            part = rows.shard(count, number, contiguous=True)
            part.to_parquet(folder / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet")
    if record:
        write_json(folder / RECORD, public_record(directory / RECORD))
    card(repo, record, list(data)).save(folder / "README.md")


def card(repo: str, record: Mapping[str, Any], splits: list[str]) -> DatasetCard:
    """The card: what was asked, what answered, with which settings, and how many rows have no answer."""
    # https://huggingface.co/docs/hub/datasets-manual-configuration
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    metadata = DatasetCardData(
        tags=["alarm", "audio", "reasoning", "generated"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    parts = [f"---\n{metadata.to_yaml()}\n---\n", f"# {repo.split('/')[-1]}\n", INTRODUCTION]
    if record:
        parts += ["## Run\n", markdown_table(("setting", "value"), _settings(record))]
        rows = [
            (split, str(counts["rows"]), _listed(counts["outcomes"]), _listed(counts["statuses"]))
            for split, counts in record["splits"].items()
        ]
        parts += ["## Rows\n", markdown_table(("split", "rows", "outcomes", "replies"), rows)]
    return DatasetCard("\n".join(parts))


def _settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, settings = record["config"], record["settings"]
    names = config["checkpoint_name"]
    checkpoints = names if isinstance(names, list) else [names] if names else []
    return [
        ("data set", _public(config["dataset"]["name"])),
        ("checkpoints", ", ".join(map(_public, checkpoints)) or "none"),
        ("language model", " at ".join(filter(None, [_public(settings["llm"][0]), settings["llm"][1]]))),
        ("task", record["task"]),
        ("heard", settings["audio_input"]),
        ("tokens, thinking budget", ", ".join(map(str, settings["max_tokens"]))),
        ("sampling", "greedy" if settings["greedy"] else "the language model's own"),
        ("seed", str(settings["seed"])),
        ("prompt texts", str(origin_of_run(record))),
        ("git commit", str(record["git"]["commit"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _public(name: str) -> str:
    """A Hub id as it is; of a path of the author's machine the last part."""
    return name.rstrip("/").split("/")[-1] if name.startswith(("/", ".", "~")) else name
