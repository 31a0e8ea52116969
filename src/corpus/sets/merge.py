"""The published responses, joined with corpora that were collected here, as sets that training reads.

The released corpus (``Blinorot/ALARM-Corpora``) has texts and ids; the audio is collected from its sources. Rows
belong together by ``(unique_id_1, unique_id_2, dataset_name)``; the published row numbers do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import indexes_filtered_dir, raw_dir, responses_dir
from src.common.run_record import write_run_record
from src.corpus.collect.shards import write_set
from src.corpus.recipe import IDS
from src.corpus.recipes import INSTRUCTION, group_of, instruction_base
from src.corpus.sets.subset import rows_of
from src.dataset.splits import write_indexes
from src.dataset.tables import KEY, first_of, native_splits, open_split, read_keys

_log = get_logger(__name__)
HUB_ID = "Blinorot/ALARM-Corpora"
SPLITS = ("train", "validation")
ANSWERS = ("llm_answer_with_context", "llm_answer_no_context")
NEEDED = ("dataset_name", "context", "audio_description", *ANSWERS, *IDS)
_BATCH = 5000


@dataclass(frozen=True)
class MergeSettings:
    """Parts of the response folders' names, and whether sets that are there are written anew."""

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
        """``splits`` are data sets; raises :class:`UserError` if one lacks a column."""
        self.splits = {split: splits[split] for split in SPLITS if split in splits}
        self._places: dict[str, dict[str, np.ndarray]] = {}
        for split, rows in self.splits.items():
            missing = [name for name in NEEDED if name not in rows.column_names]
            if missing:
                raise UserError(f"published split {split!r} has no column {', '.join(missing)}")
            names = rows.select_columns(["dataset_name"]).with_format("arrow")[:].column("dataset_name")
            codes = names.combine_chunks().dictionary_encode()
            numbers = np.asarray(codes.indices)
            for code, name in enumerate(codes.dictionary.to_pylist()):
                # the uploader called filtered instruction sets by the filtered folder's name
                corpus = name.removesuffix("_filtered")
                self._places.setdefault(corpus, {})[split] = np.flatnonzero(numbers == code)
        if not self.splits:
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
    from datasets import load_dataset, load_from_disk

    try:
        if (Path(source) / "dataset_dict.json").is_file():
            return Published(load_from_disk(source))
        return Published(load_dataset(source, revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} cannot be loaded ({' '.join(str(error).split())[:300]})") from error


def merge_corpus(name: str, published: Published, settings: MergeSettings) -> dict[str, int]:
    """Write responses and filtered indexes of one corpus from the published rows; returns counts.

    Counted are ``published`` rows, those ``joined`` with rows here, those ``not_here``, and joined rows whose
    ``descriptions_differ`` (built with repairs: collect with --as-published to have none). Raises :class:`UserError`
    if the corpus is not collected, or pairs of ids are not unique.
    """
    counts = dict.fromkeys(("published", "joined", "not_here", "descriptions_differ"), 0)
    if group_of(name) == INSTRUCTION:
        return _merge_instructions(name, published, settings, counts)
    folder = settings.folder(name, rephrased=True)
    target = responses_dir(settings.llm, folder)
    _refuse_overwriting(settings, target, indexes_filtered_dir(name))
    raw = open_split(raw_dir(name), "train", f"raw set {name}")
    keys = read_keys(raw, f"raw set {name}")
    found = {split: _join(name, raw, rows, published.rows(name, split), counts)
             for split, rows in published.splits.items()}  # fmt: skip
    _refuse_overlap(name, keys, found)
    tables = _in_key_order(raw, keys, published, found, ("audio_description", "prompt"), counts)
    write_set(target, {"train": (_features("audio_description", "prompt"), tables)})
    for split, (here, _) in found.items():
        write_indexes(indexes_filtered_dir(name), split, np.sort(keys[here]))
    _record(target, name, settings, counts)
    return counts


def _merge_instructions(
    name: str, published: Published, settings: MergeSettings, counts: dict[str, int]
) -> dict[str, int]:
    """Instruction sets keep their splits; the published rows are also the filtered raw set, numbers unchanged."""
    base = instruction_base(name)
    target = responses_dir(settings.llm, settings.folder(base, rephrased=False))
    _refuse_overwriting(settings, target, raw_dir(base) if base != name else None)
    responses, kept = {}, {}
    for split in native_splits(raw_dir(name)):
        if split not in published.splits:
            continue
        raw = open_split(raw_dir(name), split, f"raw set {name}")
        keys = read_keys(raw, f"raw set {name}")
        found = {split: _join(name, raw, published.splits[split], published.rows(name, split), counts)}
        tables = _in_key_order(raw, keys, published, found, ("question", "context"), counts)
        responses[split] = (_features("question", "context"), tables)
        kept[split] = (raw.features, rows_of(raw, np.sort(found[split][0])))
    write_set(target, responses)
    if base != name:
        write_set(raw_dir(base), kept)
    _record(target, name, settings, counts)
    return counts


def _refuse_overwriting(settings: MergeSettings, target: Path, other: Path | None) -> None:
    there = [folder for folder in (target, other) if folder is not None and folder.is_dir()]
    if there and not settings.overwrite:
        raise UserError(f"{' and '.join(map(str, there))} exist; --overwrite writes anew")


def _join(
    name: str, raw: Any, rows: Any, places: np.ndarray, counts: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the raw set and in the published split of the rows that both have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def ids(table: Any, chosen: np.ndarray | None, place: str) -> Any:
        part = table.select_columns(list(IDS)).with_format("arrow")
        found = part[:] if chosen is None else part[chosen]
        columns = [found.column(column).cast(pa.string()) for column in IDS]
        return pa.table([*columns, pa.array(np.arange(len(found)))], names=[*IDS, place])

    here = ids(raw, None, "here")
    there = ids(rows, places, "there") if places.size else ids(rows, np.zeros(0, np.int64), "there")
    for table, what in ((here, f"raw set {name}"), (there, f"published rows of {name}")):
        repeated = table.group_by(list(IDS)).aggregate([([], "count_all")])
        again = repeated.filter(pc.greater(repeated["count_all"], 1))
        if again.num_rows:
            pairs = [f"({row[IDS[0]]}, {row[IDS[1]]})" for row in again.slice(0, 5).to_pylist()]
            raise UserError(f"{what}: {again.num_rows} pairs of ids are not unique: {first_of(pairs)}")
    both = there.join(here, keys=list(IDS), join_type="inner")
    counts["published"] += int(places.size)
    counts["joined"] += both.num_rows
    counts["not_here"] += int(places.size) - both.num_rows
    return np.asarray(both["here"]), places[np.asarray(both["there"])]


def _refuse_overlap(name: str, keys: np.ndarray, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    everything = np.concatenate([here for here, _ in found.values()])
    if np.unique(everything).size < everything.size:
        raise UserError(f"published rows of {name}: a row is in train and in validation")


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
    tell of the same rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    splits = list(found)
    here = np.concatenate([found[split][0] for split in splits])
    there = np.concatenate([found[split][1] for split in splits])
    source = np.concatenate([np.full(found[split][0].size, number) for number, split in enumerate(splits)])
    order = np.argsort(keys[here], kind="stable")
    local = raw.select_columns([texts[0]]).with_format("arrow")
    for start in range(0, order.size, _BATCH):
        part = order[start : start + _BATCH]
        pieces, back = [], []
        for number, split in enumerate(splits):
            mine = np.flatnonzero(source[part] == number)
            if mine.size:
                rows = published.splits[split].select_columns(["audio_description", "context", *ANSWERS])
                pieces.append(rows.with_format("arrow")[there[part[mine]]])
                back.append(mine)
        table = pa.concat_tables(pieces).take(np.argsort(np.concatenate(back)))
        about = local[here[part]].column(texts[0]).cast(pa.string())
        differs = pc.not_equal(about, table["audio_description"].cast(pa.string()))
        counts["descriptions_differ"] += pc.sum(differs).as_py() or 0
        yield pa.table(
            {KEY: keys[here[part]], texts[0]: about, texts[1]: table["context"], **{n: table[n] for n in ANSWERS}}
        )


def _features(*texts: str) -> Any:
    from datasets import Features, Value

    return Features({KEY: Value("int64"), **{name: Value("string") for name in (*texts, *ANSWERS)}})


def _record(target: Path, name: str, settings: MergeSettings, counts: dict[str, int]) -> None:
    write_run_record(target, {"corpus": name, "llm": settings.llm, "source": "published responses"}, counts=counts)
    if counts["descriptions_differ"]:
        _log.warning("%s: %d of %d joined rows have another description here; collect it with --as-published to have "
                     "the published ones", name, counts["descriptions_differ"], counts["joined"])  # fmt: skip
