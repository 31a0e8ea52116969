"""Sets are joined by key on every row, whatever their order; what does not fit is named."""

from __future__ import annotations

import random

import numpy as np
import pytest

from src.common.errors import UserError
from src.common.paths import indexes_dir, prompts_dir, responses_dir
from src.dataset.examples import ExampleDataset
from src.dataset.response_rows import ResponseRows
from src.dataset.tables import check_same_text, find_rows, text_sizes
from src.model.llm import load_tokenizer
from src.prompts.chat import end_of_turn_ids
from tests.support.tiny_corpus import (
    RESPONSE_COLUMNS,
    RESPONSES,
    make_rows,
    save_indexes,
    save_raw,
    save_responses,
    save_split,
)

PLAIN = "mini_llm_512"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(12)


def test_find_rows_equals_search_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 5, 60):
        keys = rng.choice(200, size, replace=False)
        wanted = rng.integers(-3, 210, 100)
        places = {int(key): place for place, key in enumerate(keys)}
        assert find_rows(keys, wanted).tolist() == [places.get(int(key), -1) for key in wanted]
    assert find_rows(np.zeros(0, np.int64), np.arange(3)).tolist() == [-1, -1, -1]


def test_shuffled_rows_meet_their_own(rows: list[dict]) -> None:
    save_raw(rows)
    mixed = random.Random(3).sample(rows, len(rows))
    save_responses(mixed)
    data = ResponseRows(RESPONSES)
    assert len(data) == len(rows)
    for index, row in enumerate(rows):
        example = data[index]
        assert example.key == f"mini/{index}"
        assert example.audio is not None and example.audio["bytes"] == row["audio"]["bytes"]
        assert (example.context, example.target) == (row["prompt"], row["llm_answer_with_context"])
        assert example.audio_description == row["audio_description"]


def test_shuffled_raw_set(rows: list[dict]) -> None:
    mixed = random.Random(4).sample(rows, len(rows))
    save_raw(mixed)
    save_responses(rows)
    save_indexes(indexes_dir("mini"), train=[7, 2, 11])
    data = ResponseRows(RESPONSES)
    assert [data[index].key for index in range(3)] == ["mini/2", "mini/7", "mini/11"]
    assert [data[index].audio["bytes"] for index in range(3)] == [rows[key]["audio"]["bytes"] for key in (2, 7, 11)]
    expected = [len(rows[key]["llm_answer_with_context"]) / 4 + rows[key]["duration"] * 25 for key in (2, 7, 11)]
    assert data.lengths().tolist() == pytest.approx(expected, rel=1e-5)


def test_missing_responses_are_named(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses([row for row in rows if row["dataset_index"] not in (3, 8)])
    with pytest.raises(UserError, match=rf"responses {RESPONSES} lacks 2 of 12 rows.*dataset_index: 3, 8\."):
        ResponseRows(RESPONSES)


def test_indexes_beyond_the_raw_set_are_named(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses(rows)
    save_indexes(indexes_dir("mini"), train=[0, 5, 40, 41])
    with pytest.raises(UserError, match=r"raw set mini lacks 2 of 4 rows.*train_indexes\.npy.*40, 41"):
        ResponseRows(RESPONSES)


def test_repeated_keys_are_named(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses([*rows, rows[4], rows[9]])
    with pytest.raises(UserError, match=r"2 values of dataset_index occur more than once: 4, 9"):
        ResponseRows(RESPONSES)


def test_a_rebuilt_raw_set_is_noticed(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses(
        [row | {"audio_description": "another scene"} if row["dataset_index"] == 6 else row for row in rows]
    )
    with pytest.raises(UserError, match=r"'audio_description' differs .* first 6; one of the two was rebuilt"):
        ResponseRows(RESPONSES)


def test_missing_folders_and_columns(rows: list[dict]) -> None:
    with pytest.raises(UserError, match="raw set of mini_llm_512: no folder"):
        ResponseRows(PLAIN)
    save_raw(rows)
    with pytest.raises(UserError, match="responses mini_llm_512: no folder"):
        ResponseRows(PLAIN)
    responses_dir("llm", PLAIN).mkdir(parents=True)
    with pytest.raises(UserError, match="is not a saved data set"):
        ResponseRows(PLAIN)
    save_responses(rows, RESPONSES, ("dataset_index", "prompt"))
    with pytest.raises(UserError, match="have no column 'llm_answer_with_context'"):
        ResponseRows(RESPONSES)


def test_prompts_of_their_own_set_are_joined_too(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses(rows, RESPONSES, [name for name in RESPONSE_COLUMNS if name != "prompt"])
    save_split(prompts_dir("mini"), rows[::-1], ("dataset_index", "prompt"))
    data = ResponseRows(RESPONSES)
    assert [data[index].context for index in range(12)] == [row["prompt"] for row in rows]


def test_responses_that_were_cut_are_marked(rows: list[dict]) -> None:
    save_raw(rows)
    ends = ["length" if row["dataset_index"] % 3 == 0 else "stop" for row in rows]
    made = [row | {"finish_reason": end} for row, end in zip(rows, ends, strict=True)]
    save_responses(made, RESPONSES, [*RESPONSE_COLUMNS, "finish_reason"])
    data = ResponseRows(RESPONSES)
    assert [data[index].cut for index in range(12)] == [end == "length" for end in ends]
    tokenizer = load_tokenizer("assets/mini/llm")
    (end,) = end_of_turn_ids(tokenizer)
    assert tokenizer.decode([end]) == "<|im_end|>"
    lasts = [ExampleDataset(data, tokenizer, audio=False, targets_end=how)[place].outputs[-1]  # type: ignore[arg-type]
             for how in ("end_of_turn", "none") for place in (0, 1)]  # fmt: skip
    assert [last == end for last in lasts] == [ends[0] == "stop", ends[1] == "stop", False, False]


def test_no_context_and_text_only(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses([row | {"llm_answer_no_context": f"told {row['dataset_index']}"} for row in rows])
    without = ResponseRows(RESPONSES, "NoContext")
    assert (without[5].context, without[5].target) == ("", "told 5")
    assert ResponseRows(RESPONSES, return_audio=False)[0].audio is None
    with pytest.raises(UserError, match="context mode 'Both'"):
        ResponseRows(RESPONSES, "Both")


def test_instruction_set_brings_its_own_context(rows: list[dict]) -> None:
    folder = "heysquad_human_filtered_llm_512"
    questions = [row | {"question": f"q{row['dataset_index']}", "context": "ctx"} for row in rows]
    for split in ("train", "validation"):
        save_split(
            responses_dir("llm", folder),
            questions,
            ("dataset_index", "question", "context", "llm_answer_with_context", "llm_answer_no_context"),
            split,
        )
    save_raw(questions, "heysquad_human_filtered", "validation")
    data = ResponseRows(folder, split="validation")
    assert data.raw_name == "heysquad_human_filtered"
    assert (data[3].context, data[3].audio_description) == ("ctx", "q3")


def test_checked_answers_of_a_corpus_use_its_raw_set(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses(rows, "mini_rephrased_512_filtered_llm_512")
    assert ResponseRows("mini_rephrased_512_filtered_llm_512").raw_name == "mini"


def test_fraction_and_random_choice(rows: list[dict]) -> None:
    save_raw(rows)
    save_responses(rows)
    first = ResponseRows(RESPONSES, fraction=0.3)
    assert first.keys.tolist() == [0, 1, 2]
    drawn = ResponseRows(RESPONSES, fraction=0.5, random=True)
    np.random.seed(1)
    assert drawn.keys.tolist() == sorted(np.random.permutation(12)[:6].tolist())
    with pytest.raises(UserError, match="fraction 0"):
        ResponseRows(RESPONSES, fraction=0.0)


@pytest.mark.parametrize("step", [1, 3, 40])
def test_texts_of_rows_near_and_far(step: int) -> None:
    """Slices and gathered rows give the same sizes and find the same differences, in whatever order."""
    from datasets import Dataset

    texts = [f"row {index}" * (index % 5) for index in range(200)]
    one = Dataset.from_dict({"dataset_index": list(range(200)), "text": texts})
    other = Dataset.from_dict({"dataset_index": list(range(199, -1, -1)), "text": texts[::-1]})
    rows = np.arange(0, 200, step)[::-1].copy()
    assert text_sizes(one, rows, "text").tolist() == [len(texts[row]) for row in rows]
    check_same_text(one, rows, other, 199 - rows, "text", "one and other")
    texts[rows[1]] += "!"
    changed = Dataset.from_dict({"dataset_index": list(range(200)), "text": texts})
    with pytest.raises(UserError, match=rf"first {rows[1]};"):
        check_same_text(changed, rows, other, 199 - rows, "text", "one and other")
