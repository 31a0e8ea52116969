"""The published responses, joined with corpora that were collected here, as sets that training reads.

The released corpus (``Blinorot/ALARM-Corpora``) has texts and ids; the audio is collected from its sources. Rows
belong together by ``(unique_id_1, unique_id_2, dataset_name)``; the published row numbers do not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError, error_text
from src.common.existing import LISTING, is_empty, load_saved, next_step, read_record, set_problem
from src.common.files import json_lines, write_text
from src.common.lock import locked_folders, may_discard
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import indexes_filtered_dir, prompts_dir, raw_dir, responses_dir
from src.common.retry import load_hub_dataset
from src.common.run_record import write_run_record
from src.corpus.recipe import IDS
from src.corpus.targets.llm_settings import DROPPED_FILE, work_dir
from src.dataset.corpus_names import INSTRUCTION, group_of, instruction_base
from src.dataset.splits import index_problem, read_indexes, write_indexes
from src.dataset.tables import KEY, first_of, native_splits, open_keyed
from src.dataset.writer import rows_of, write_set

_log = get_logger(__name__)
HUB_ID = "Blinorot/ALARM-Corpora"
SPLITS, RAW_SPLITS = ("train", "validation"), ("raw_train", "raw_validation")
SOURCE = "published responses"
ANSWERS = ("llm_answer_with_context", "llm_answer_no_context")
NEEDED = ("dataset_name", "context", "audio_description", *ANSWERS, *IDS)
NOT_PUBLISHED = "not_published"
_COUNTS = ("published", "joined", "not_here", "descriptions_differ")
_BATCH = 5000


@dataclass(frozen=True)
class MergeSettings:
    """Parts of the response folders' names, and whether existing sets are written again."""

    llm: str = "Qwen3-4B-Thinking-2507"
    max_tokens: int = 512
    max_thinking_tokens: int = 1536
    overwrite: bool = False

    def folder(self, base: str, rephrased: bool) -> str:
        """Name of a corpus's response folder."""
        thinking = self.max_thinking_tokens if rephrased else -1
        return ResponseName(base, self.llm, self.max_tokens, rephrased, thinking).format()


class Published:
    """The released texts by split, and where each corpus's rows are."""

    def __init__(self, splits: Mapping[str, Any]) -> None:
        """``splits`` are data sets; raises :class:`UserError` if one lacks a column, or if there is none."""
        self.all = {split: splits[split] for split in (*SPLITS, *RAW_SPLITS) if split in splits}
        self.splits = {split: rows for split, rows in self.all.items() if split in SPLITS}
        self._places: dict[str, dict[str, np.ndarray]] = {}
        for split, rows in self.all.items():
            missing = [name for name in NEEDED if name not in rows.column_names]
            if missing:
                raise UserError(f"published split {split!r} has no column {', '.join(missing)}")
            names = rows.select_columns(["dataset_name"]).with_format("arrow")[:].column("dataset_name")
            # numbers instead of texts: the release has millions of rows of some dozens of names
            codes = names.combine_chunks().dictionary_encode()
            numbers = np.asarray(codes.indices)
            for code, name in enumerate(codes.dictionary.to_pylist()):
                # the uploader called filtered instruction sets by the filtered folder's name
                corpus = name.removesuffix("_filtered")
                self._places.setdefault(corpus, {})[split] = np.flatnonzero(numbers == code)
        if not self.all:
            raise UserError(f"the published corpus has no split {' or '.join(SPLITS)}; it has {', '.join(splits)}")

    @property
    def names(self) -> list[str]:
        """Corpora that have rows."""
        return list(self._places)

    def rows(self, name: str, split: str) -> np.ndarray:
        """Positions of a corpus's rows in a split."""
        return self._places.get(name, {}).get(split, np.zeros(0, np.int64))


def open_published(source: str = HUB_ID, revision: str | None = None) -> Published:
    """The released corpus: a Hub id, a copy of its repository, or a folder written by ``save_to_disk``."""
    try:
        if (Path(source) / LISTING).is_file():
            return Published(load_saved(Path(source)))
        return Published(load_hub_dataset(source, revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} cannot be loaded ({error_text(error)})") from error


def merge_corpus(name: str, published: Published, settings: MergeSettings) -> dict[str, int]:
    """Write responses, filtered indexes and prompts of one corpus from the published rows; returns counts.

    What is complete is skipped. Prompts are written only where the corpus has none. Counted are ``published`` rows,
    those ``joined`` with rows here, those ``not_here``, and joined rows whose ``descriptions_differ`` (built with
    repairs: collect with --as-published to have none).

    Raises :class:`UserError` if the corpus is not collected, pairs of ids are not unique, or something else is where
    the sets belong.
    """
    if not published.splits:
        raise UserError(
            f"the published corpus has no split {' or '.join(SPLITS)} but {', '.join(published.all)}, which "
            "--save-name joins to one set"
        )
    spoken = group_of(name) == INSTRUCTION
    base = instruction_base(name) if spoken else name
    target = responses_dir(settings.llm, settings.folder(base, rephrased=not spoken))
    # the sets are exchanged as folders; the first of these stays, so that two merges of a corpus exclude each other
    folders = [indexes_filtered_dir(name), work_dir(name), target]
    with locked_folders(folders) as changed:
        settings = replace(settings, overwrite=may_discard(settings.overwrite, changed, target))
        merge = _merge_instructions if spoken else _merge_audio
        return merge(name, target, published, settings)


def _merge_audio(name: str, target: Path, published: Published, settings: MergeSettings) -> dict[str, int]:
    """The single split of an audio corpus: responses, the published split as filtered indexes, prompts."""
    counts = dict.fromkeys(_COUNTS, 0)
    raw, keys = open_keyed(raw_dir(name), "train", f"raw set {name}")
    found = _join(name, raw, published, published.splits, counts)
    chosen = {split: np.sort(keys[here]) for split, (here, _) in found.items()}
    texts = ("audio_description", "prompt")
    wanted = _is_wanted(target, (KEY, *texts, *ANSWERS), {"train": np.concatenate(list(chosen.values()))}, settings)
    split_wanted = _is_split_wanted(name, chosen, settings)  # asked before anything is written
    tables = _in_key_order(raw, keys, published, found, texts, counts)
    if wanted:
        write_set(target, {"train": (_features(*texts, *ANSWERS), tables)})
        _record(target, name, settings, counts)
    else:
        deque(tables, maxlen=0)  # counts the descriptions that differ
    for split, rows in chosen.items() if split_wanted else ():
        write_indexes(indexes_filtered_dir(name), split, rows)
    _keep_prompts(name, raw, keys, published, settings)
    return counts


def _is_wanted(
    target: Path, columns: tuple[str, ...], keys: Mapping[str, np.ndarray], settings: MergeSettings
) -> bool:
    """Whether a set is to be written: not if it has all these rows."""
    ours = read_record(target).get("config", {}).get("source") == SOURCE
    problem = set_problem(target, columns, keys)
    return next_step(f"set {target.name}", target, problem, ours=ours, overwrite=settings.overwrite) != "skip"


def _is_split_wanted(name: str, chosen: Mapping[str, np.ndarray], settings: MergeSettings) -> bool:
    """Whether the published split is to be written as the corpus's filtered indexes."""
    folder = indexes_filtered_dir(name)
    if not any(folder.glob("*_indexes.npy")):
        return True  # the folder also contains indexes filtered by answer
    problem = index_problem(folder, chosen)
    if problem is None:
        there = read_indexes(folder)
        other = [split for split, rows in chosen.items() if not np.array_equal(there[split], rows)]
        problem = f"another {other[0]} split than the published one" if other else None
    step = next_step(f"filtered split of {name}", folder, problem, ours=False, overwrite=settings.overwrite)
    return step != "skip"


def _keep_prompts(name: str, raw: Any, keys: np.ndarray, published: Published, settings: MergeSettings) -> None:
    """The published prompts as the corpus's prompt set, so that another language model can answer them.

    Those of the unfiltered rows, where they are published.
    """
    folder = prompts_dir(name)
    if not is_empty(folder) and not settings.overwrite:
        _log.info("prompts of %s: %s exists; left as it is (--overwrite replaces it)", name, folder)
        return
    for sources in (RAW_SPLITS, SPLITS):
        counts = dict.fromkeys(_COUNTS, 0)
        found = _join(name, raw, published, [split for split in sources if split in published.all], counts)
        if counts["joined"]:
            break
    else:
        return
    texts = ("audio_description", "prompt")
    tables = _in_key_order(raw, keys, published, found, texts, counts)
    write_set(folder, {"train": (_features(*texts), tables)})
    without = np.setdiff1d(keys, keys[np.concatenate([here for here, _ in found.values()])])
    dropped = ({"split": "train", KEY: int(key), "reason": NOT_PUBLISHED} for key in without)
    write_text(folder / DROPPED_FILE, json_lines(dropped))
    write_run_record(folder, {"corpus": name, "source": "published prompts"}, counts=counts)


def _merge_instructions(name: str, target: Path, published: Published, settings: MergeSettings) -> dict[str, int]:
    """Instruction sets keep their splits; the published rows are also the filtered raw set, numbers unchanged."""
    base, counts = instruction_base(name), dict.fromkeys(_COUNTS, 0)
    responses, kept, chosen, columns = {}, {}, {}, ["audio"]
    for split in native_splits(raw_dir(name)):
        if split not in published.splits:
            continue
        raw, keys = open_keyed(raw_dir(name), split, f"raw set {name}")
        found = _join(name, raw, published, [split], counts)
        tables = _in_key_order(raw, keys, published, found, ("question", "context"), counts)
        responses[split] = (_features("question", "context", *ANSWERS), tables)
        kept[split] = (raw.features, rows_of(raw, np.sort(found[split][0])))
        chosen[split], columns = keys[found[split][0]], list(raw.column_names)
    wanted = _is_wanted(target, (KEY, "question", "context", *ANSWERS), chosen, settings)
    filtered_wanted = base != name and _is_wanted(raw_dir(base), tuple(columns), chosen, settings)
    if wanted:
        write_set(target, responses)
        _record(target, name, settings, counts)
    else:
        for _, tables in responses.values():
            deque(tables, maxlen=0)  # counts the questions that differ
    if filtered_wanted:
        write_set(raw_dir(base), kept)
    return counts


def _join(
    name: str, raw: Any, published: Published, splits: Iterable[str], counts: dict[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """:func:`join_ids` for some published splits, counted. Raises :class:`UserError` for a row in two of them."""
    found = {}
    for split in splits:
        places = published.rows(name, split)
        here, _ = found[split] = join_ids(name, raw, published.all[split], places)
        counts["published"] += int(places.size)
        counts["joined"] += int(here.size)
        counts["not_here"] += int(places.size - here.size)
    joined = np.concatenate([np.zeros(0, np.int64), *(here for here, _ in found.values())])
    if np.unique(joined).size < joined.size:
        raise UserError(f"published rows of {name}: a row is in train and in validation")
    return found


def join_ids(name: str, raw: Any, rows: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the raw set and in the published split of the rows that both have, of those at ``places`` there.

    Raises :class:`UserError` if pairs of ids are not unique.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def ids(table: Any, chosen: np.ndarray | None, place: str) -> Any:
        part = table.select_columns(list(IDS)).with_format("arrow")
        found = part[:] if chosen is None else part[chosen]
        columns = [found.column(column).cast(pa.string()) for column in IDS]
        return pa.table([*columns, pa.array(np.arange(len(found)))], names=[*IDS, place])

    here, there = ids(raw, None, "here"), ids(rows, places, "there")
    for table, what in ((here, f"raw set {name}"), (there, f"published rows of {name}")):
        repeated = table.group_by(list(IDS)).aggregate([([], "count_all")])
        again = repeated.filter(pc.greater(repeated["count_all"], 1))
        if again.num_rows:
            pairs = [f"({row[IDS[0]]}, {row[IDS[1]]})" for row in again.slice(0, 5).to_pylist()]
            raise UserError(f"{what}: {again.num_rows} pairs of ids are not unique: {first_of(pairs)}")
    # the hash join keeps no order, so both tables carry their positions along
    both = there.join(here, keys=list(IDS), join_type="inner")
    return np.asarray(both["here"]), places[np.asarray(both["there"])]


def _in_key_order(
    raw: Any,
    keys: np.ndarray,
    published: Published,
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
    texts: tuple[str, str],
    counts: dict[str, int],
) -> Iterator[Any]:
    """Tables of responses, rows of all splits in the order of their keys here.

    The first of ``texts`` (description, question) is that of the raw set here, by which training sees that both sets
    describe the same rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import concatenate_datasets

    columns = ["audio_description", "context", *ANSWERS]
    pieces = [published.all[split].select_columns(columns).select(there) for split, (_, there) in found.items()]
    here = np.concatenate([here for here, _ in found.values()])
    order = np.argsort(keys[here], kind="stable")
    here, there = here[order], concatenate_datasets(pieces).select(order).with_format("arrow")
    local = raw.select_columns([texts[0]]).with_format("arrow")
    for start in range(0, here.size, _BATCH):
        part = here[start : start + _BATCH]
        table = there[start : start + _BATCH]
        about = local[part].column(texts[0]).cast(pa.string())
        differs = pc.not_equal(about, table["audio_description"].cast(pa.string()))
        counts["descriptions_differ"] += pc.sum(differs).as_py() or 0
        yield pa.table(
            {KEY: keys[part], texts[0]: about, texts[1]: table["context"], **{n: table[n] for n in ANSWERS}}
        )


def _features(*texts: str) -> Any:
    from datasets import Features, Value

    return Features({KEY: Value("int64"), **{name: Value("string") for name in texts}})


def _record(target: Path, name: str, settings: MergeSettings, counts: dict[str, int]) -> None:
    write_run_record(target, {"corpus": name, "llm": settings.llm, "source": SOURCE}, counts=counts)
    if counts["descriptions_differ"]:
        _log.warning("%s: %d of %d joined rows have another description here; collect it with --as-published to have "
                     "the published ones", name, counts["descriptions_differ"], counts["joined"])  # fmt: skip
