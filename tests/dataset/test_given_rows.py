"""Given answers as targets: which rows, which prompt, and the reasoning that a given answer does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.common.errors import ConfigError, UserError
from src.common.paths import indexes_dir, raw_dir
from src.dataset.corpus_names import expand_mixture
from src.dataset.examples import ExampleDataset, collate
from src.dataset.mixture import MixtureConfig, open_mixture
from src.dataset.splits import write_indexes
from src.inference.scheduler import Scheduler
from src.inference.types import Request, Sampling
from src.prompts.chat import turn_ids
from src.prompts.given_answers import AnswerFrame
from tests.prompts.fakes import CharTokenizer
from tests.support.tiny_corpus import RAW_COLUMNS, RESPONSES, make_rows, save_raw, save_responses, save_split

CLOSING = "time is up.\n</think>\n\n"
END = [ord(each) for each in "<|im_end|>"]
TEXT = [["mine", "Text", 1.0, False]]


def save_given(*texts: str, system: str = "") -> None:
    rows = make_rows(len(texts))
    for row, text in zip(rows, texts, strict=True):
        row |= {"text": text, "prompt": "what is it?", "system": system}
    save_split(raw_dir("mine"), rows, (*RAW_COLUMNS, "text", "prompt", "system"))


def examples(config: MixtureConfig, tokenizer: Any, end: list[int] = END) -> ExampleDataset:
    frame = AnswerFrame(tokenizer, CLOSING, end)
    return ExampleDataset(open_mixture(config), tokenizer, audio=config.return_audio, answers=frame)


def test_answer_is_the_target_behind_closed_reasoning() -> None:
    save_given("a bell", system="be brief")
    tokenizer = CharTokenizer()
    example = examples(MixtureConfig(TEXT), tokenizer)[0]
    assert tokenizer.decode(example.start) == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n"
    assert tokenizer.decode(example.main) == (f"what is it?<|im_end|>\n<|im_start|>assistant\n<think>\n{CLOSING}")
    assert tokenizer.decode(example.outputs) == "a bell<|im_end|>"
    assert example.waveform is not None
    assert collate([example]).num_targets == len("a bell<|im_end|>")


def test_model_that_does_not_reason_answers_at_once() -> None:
    save_given("a bell")
    tokenizer = CharTokenizer("<|im_start|>assistant\n")
    example = examples(MixtureConfig(TEXT), tokenizer, end=[])[0]
    assert tokenizer.decode(example.main) == "what is it?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(example.outputs) == "a bell"


@pytest.mark.parametrize("header", ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n"])
def test_answers_with_reasoning_of_their_own_keep_it_once(header: str) -> None:
    save_given("<think>\nit rings\n</think>\n\na bell")
    tokenizer = CharTokenizer(header)
    example = examples(MixtureConfig(TEXT), tokenizer)[0]
    whole = tokenizer.decode(example.main + example.outputs)
    assert whole.endswith("assistant\n<think>\nit rings\n</think>\n\na bell<|im_end|>")
    assert tokenizer.decode(example.outputs).endswith("it rings\n</think>\n\na bell<|im_end|>")


class RecordingBackend:
    """Keeps what is submitted."""

    width, vocabulary, context = 8, 2**21, 4096

    def __init__(self) -> None:
        self.segments: list[int] = []

    def add(self, key: str, segments: Any, sampling: Sampling, max_tokens: int, seed: int | None) -> None:
        """Record the prompt."""
        self.segments = [token for segment in segments for token in segment]


@pytest.mark.parametrize("header", ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n"])
def test_prompt_is_that_of_generation_without_a_thinking_budget(header: str) -> None:
    save_given("a bell")
    tokenizer, backend = CharTokenizer(header), RecordingBackend()
    example = examples(MixtureConfig(TEXT), tokenizer)[0]
    asked = turn_ids(tokenizer, "what is it?")
    request = Request("row", (asked.prefix_ids + asked.suffix_ids,))
    sampling = Sampling(max_tokens=5, max_thinking_tokens=0, greedy=True, budget_closing=CLOSING)
    assert Scheduler(backend, tokenizer).submit(request, sampling) is None  # type: ignore[arg-type]
    assert backend.segments == example.start + example.main


def test_rows_without_a_text_are_left_out_and_splits_followed() -> None:
    save_given("zero", "", "two", "three")
    write_indexes(indexes_dir("mine"), "train", np.array([0, 1, 3]))
    write_indexes(indexes_dir("mine"), "validation", np.array([2]))
    rows = open_mixture(MixtureConfig(TEXT))
    assert [rows[place].target for place in range(len(rows))] == ["zero", "three"]
    assert rows.lengths().shape == (2,) and rows.first_rows("Text", 5) == [0, 1]
    assert open_mixture(MixtureConfig(TEXT, split="validation"))[0].key == "mine/2"


def test_a_row_without_a_duration_has_a_length() -> None:
    rows = make_rows(3)
    for row in rows:
        row |= {"text": "a bell", "prompt": "what is it?"}
    rows[1]["duration"] = None
    save_split(raw_dir("mine"), rows, (*RAW_COLUMNS, "text", "prompt"))
    lengths = open_mixture(MixtureConfig(TEXT)).lengths()
    assert np.isfinite(lengths).all() and lengths[1] == pytest.approx(len("a bell") / 4)


def test_one_prompt_for_all_rows_and_sets_without_prompts_or_texts() -> None:
    rows = make_rows(2)
    save_raw(rows, "mine")
    with pytest.raises(UserError, match="no column 'text', the target"):
        open_mixture(MixtureConfig(TEXT))
    save_split(raw_dir("other"), [row | {"text": "x"} for row in rows], (*RAW_COLUMNS, "text"))
    other = [["other", "Text", 1.0, False]]
    with pytest.raises(UserError, match="dataset.prompt="):
        open_mixture(MixtureConfig(other))
    assert open_mixture(MixtureConfig(other, prompt="transcribe"))[1].context == "transcribe"


def test_given_and_generated_answers_share_a_batch() -> None:
    save_given("a bell", "a horn")
    rows = make_rows(2)
    save_raw(rows)
    save_responses(rows)
    both = examples(MixtureConfig([*TEXT, [RESPONSES, "WithContext", 1.0, False]]), CharTokenizer())
    batch = collate([both[place] for place in range(4)])
    texts = ["".join(map(chr, ids)) for ids in batch.outputs]
    assert texts[:2] == ["a bell<|im_end|>", "a horn<|im_end|>"]
    assert texts[2:] == [row["llm_answer_with_context"] for row in rows]  # no end of turn, as published


def test_own_sets_of_a_configuration() -> None:
    own = {"name": "own", "sets": ["a", "b"], "llm": "LLM", "fractions": {"b": 0.5}}
    text = expand_mixture({**own, "prompt": "transcribe", "eval_sets": ["b"]})
    assert text["train"]["rows"] == [["a", "Text", 1.0, False], ["b", "Text", 0.5, False]]
    assert text["eval"]["b"]["rows"] == [["b", "Text", 0.5, False]]
    assert (text["eval"]["b"]["split"], text["eval"]["b"]["prompt"]) == ("validation", "transcribe")
    generated = expand_mixture({**own, "targets": "generated", "rephrased": True})
    assert generated["train"]["rows"][0] == ["a_rephrased_LLM_512", "WithContext", 1.0, False]
    assert set(generated["eval"]) == {"a", "b"}
    with pytest.raises(ConfigError, match="which raw sets"):
        expand_mixture({"name": "own", "sets": []})
    with pytest.raises(ConfigError, match="targets"):
        expand_mixture({**own, "targets": "txt"})


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    from src.dataset.mixture import TrainDatasetConfig, present_only

    with pytest.raises(UserError, match="raw/mine"):
        present_only(TrainDatasetConfig("own", MixtureConfig(TEXT)))
