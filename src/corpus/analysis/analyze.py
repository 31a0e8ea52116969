"""All numbers and examples of some corpora, for the HTML page over corpora."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import data_root, prompts_dir, responses_dir
from src.corpus.analysis.pairs import draw_samples, phrase_examples
from src.corpus.analysis.raw_set import measure_prompts, measure_raw
from src.corpus.analysis.response_sets import TextLeak, measure_checker, measure_responses, response_folders
from src.corpus.recipes import load_recipe
from src.dataset.corpus_names import all_corpora, group_of, groups, resolve_names

_log = get_logger(__name__)


@dataclass(frozen=True)
class AnalysisSettings:
    """``responses``: only these response folders (all of a corpus where none is its own); ``limit``: texts read of
    each set, in blocks spread over it (None: all); ``samples`` to listen to of each corpus; their ``seed``."""

    responses: tuple[str, ...] = ()
    limit: int | None = None
    samples: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("samples", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}, expected at least {least}")


def analyze_corpora(names: Sequence[str], settings: AnalysisSettings) -> dict[str, Any]:
    """Numbers of every corpus (``corpora``), with samples whose ``audio`` is as it is stored.

    Raises :class:`UserError` for a name that is no collected corpus, or a response folder of none of them.
    """
    chosen = choose_names(names)
    for folder in settings.responses:
        name = ResponseName.parse(folder)
        if name.base not in chosen:
            raise UserError(f"responses {folder} are of {name.base!r}, which is not among {', '.join(chosen)}")
        if not (responses_dir(name.model, folder) / "dataset_dict.json").is_file():
            known = ", ".join(response_folders(name.base)) or "none"
            raise UserError(
                f"no response set {responses_dir(name.model, folder)}; response sets of {name.base}: {known}"
            )
    return {
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "limit": settings.limit,
        "seed": settings.seed,
        "corpora": [_corpus(name, settings) for name in chosen],
    }


def without_audio(findings: dict[str, Any]) -> dict[str, Any]:
    """The findings without what JSON cannot hold."""
    corpora = [
        {**corpus, "samples": [{key: value for key, value in sample.items() if key != "audio"}
                               for sample in corpus["samples"]]}
        for corpus in findings["corpora"]
    ]  # fmt: skip
    return {**findings, "corpora": corpora}


def choose_names(names: Sequence[str]) -> list[str]:
    """Corpora from names, groups and ``all`` (those that are here), and names of other sets in ``raw``, each once."""
    here = sorted(folder.parent.name for folder in (data_root() / "raw").glob("*/dataset_dict.json"))
    collected = [name for name in all_corpora() if name in here]
    for name in names:
        if name not in {*here, *groups(), "all"}:
            close = difflib.get_close_matches(name, here, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"here are: {', '.join(here) or 'none'}"
            raise UserError(f"no raw set {name!r} in {data_root() / 'raw'}; {hint}")
    return resolve_names(names, collected, here.__contains__, f"is collected in {data_root() / 'raw'}")


def _corpus(name: str, settings: AnalysisSettings) -> dict[str, Any]:
    known = name in all_corpora()
    folders = [each for each in settings.responses if ResponseName.parse(each).base == name]
    if folders:  # what a set was made from belongs to it
        plain = [_plain_of(each) for each in folders]
        folders = list(dict.fromkeys([each for each in plain if each in response_folders(name)] + folders))
    _log.info("%s", name)
    sets = [measure_responses(each, settings.limit, settings.seed) for each in folders or response_folders(name)]
    for numbers, leak in sets:
        numbers["checker"] = measure_checker(numbers["folder"], leak.prompts)
    pair = _pair(sets)
    sampled = [_path(numbers) for numbers, _ in (pair or sets[:1])]
    prompts = prompts_dir(name) if prompts_dir(name).is_dir() else None
    return {
        "name": name,
        "title": load_recipe(name).title if known else name,
        "group": group_of(name),
        "raw": measure_raw(name, settings.limit),
        "prompts": measure_prompts(name, settings.limit),
        "responses": [numbers for numbers, _ in sets],
        "pair": [numbers["folder"] for numbers, _ in pair] if pair else None,
        "examples": phrase_examples(*((_path(numbers), found, numbers) for numbers, found in pair)) if pair else None,
        "samples": draw_samples(name, sampled, prompts, settings.samples, settings.seed),
    }  # fmt: skip


def _plain_of(folder_name: str) -> str:
    """The set that was not rephrased nor checked, of the same corpus, model and length."""
    plain = replace(ResponseName.parse(folder_name), rephrased=False, max_thinking_tokens=-1, checked=False)
    return plain.format()


def _pair(sets: Sequence[tuple[dict[str, Any], TextLeak]]) -> list[tuple[dict[str, Any], TextLeak]] | None:
    """A plain set and its rephrased one, the checked one if there are several; None without both."""
    by_name = {numbers["folder"]: (numbers, leak) for numbers, leak in sets}
    finals = [each for each in sets if each[0]["rephrased"] and _plain_of(each[0]["folder"]) in by_name]
    if not finals:
        return None
    final = max(finals, key=lambda each: bool(each[0]["checked"]))
    return [by_name[_plain_of(final[0]["folder"])], final]


def _path(numbers: dict[str, Any]) -> Path:
    return responses_dir(numbers["model"], numbers["folder"])
