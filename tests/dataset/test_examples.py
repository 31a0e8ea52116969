"""Examples: tokens of the turn, decoded audio, and rows that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.common.errors import UserError
from src.dataset.examples import ExampleDataset, collate
from src.dataset.mixture import MixtureConfig, open_mixture
from tests.support.tiny_corpus import RATE, RESPONSES, make_rows, save_raw, save_responses
from tests.support.tiny_llm import save_tiny_llm

ROW = [[RESPONSES, "WithContext", 1.0, False]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(save_tiny_llm(tmp_path_factory.mktemp("models") / "llm")))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(8)


def open_rows(rows: list[dict], return_audio: bool = True):  # noqa: ANN201
    save_raw(rows)
    save_responses(rows)
    return open_mixture(MixtureConfig(ROW, return_audio=return_audio))


def test_turn_audio_and_target(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    example = ExampleDataset(open_rows(rows), tokenizer)[2]
    assert tokenizer.decode(example.start) == "<|im_start|>user\n"
    assert tokenizer.decode(example.main) == f"{rows[2]['prompt']}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert tokenizer.decode(example.outputs) == rows[2]["llm_answer_with_context"]
    assert example.waveform is not None and example.waveform.sample_rate == RATE
    assert example.waveform.duration == pytest.approx(rows[2]["duration"], abs=1e-3)


def test_explicit_tags_stand_around_the_audio(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    example = ExampleDataset(open_rows(rows), tokenizer, ("<a>", "</a>"))[0]
    assert tokenizer.decode(example.start).endswith("user\n<a>")
    assert tokenizer.decode(example.main).startswith(f"</a>{rows[0]['prompt']}")


def test_text_only_reads_the_description(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    examples = ExampleDataset(open_rows(rows, return_audio=False), tokenizer, audio=False)
    text = tokenizer.decode(examples[1].main)
    assert text.startswith(f"{rows[1]['prompt']}\n{rows[1]['audio_description']}<|im_end|>")
    batch = collate([examples[0], examples[1]])
    assert batch.waveforms is None


def test_broken_audio_and_empty_targets_are_replaced_and_counted(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    broken = [dict(row) for row in rows]
    broken[3]["audio"] = {"bytes": b"not audio", "path": "3.wav"}
    broken[5]["llm_answer_with_context"] = ""
    examples = ExampleDataset(open_rows(broken), tokenizer)
    batch = collate([examples[index] for index in range(8)])
    assert batch.num_replaced >= 2 and len(batch) == 8
    assert not {"mini/3", "mini/5"} & set(batch.keys)
    assert examples[3].replaced[0] == "mini/3" and examples[3].key == examples[3].key
    assert batch.num_targets == sum(len(ids) for ids in batch.outputs)


def test_nothing_usable_stops(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    broken = [row | {"audio": {"bytes": b"", "path": "x.wav"}} for row in rows]
    with pytest.raises(UserError, match="20 rows tried in place of mini/0"):
        ExampleDataset(open_rows(broken), tokenizer)[0]


def test_known_clips_are_not_decoded(rows: list[dict], tokenizer) -> None:  # noqa: ANN001
    examples = ExampleDataset(open_rows(rows), tokenizer)
    assert examples[0].clip == ""
    examples.known_clips = set()
    clip = examples[0].clip
    assert clip and clip != examples[1].clip
    examples.known_clips = {clip}
    batch = collate([examples[0], examples[1]])
    assert batch.waveforms is not None and batch.waveforms[0] is None and batch.waveforms[1] is not None


def test_unreadable_folder_is_no_surprise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a response folder name"):
        open_mixture(MixtureConfig([["nonsense", "WithContext", 1.0, False]]))
