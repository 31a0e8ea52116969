"""Rows whose clip does not say its text: decisions with a scripted ear, the whole way with a tiny Whisper."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk

from src.audio.waveform import Waveform
from src.common.errors import ConfigError, UserError
from src.common.paths import indexes_dir, indexes_filtered_dir, raw_dir, responses_dir, transcripts_dir
from src.corpus.postprocess import asr_command, asr_filter
from src.corpus.postprocess.asr_filter import AnswerChoice, AsrLimits, filter_by_asr, score
from src.corpus.postprocess.asr_score import error_rates, find_normalisation, letters, unicode_words
from src.corpus.postprocess.transcribe import AsrSettings, RowTranscriber, Transcript
from src.corpus.targets.instructions import generate_instruction_responses
from src.corpus.targets.llm_settings import AnswerSettings
from src.dataset.response_rows import ResponseRows
from src.dataset.splits import read_indexes
from src.generation.input_dataset import RowRef
from tests.corpus.targets.fakes import FakeEngine
from tests.support.tiny_corpus import make_rows, save_indexes, save_raw
from tests.support.tiny_instructions import make_questions, save_questions

pytestmark = pytest.mark.usefixtures("data_root")
SETTINGS = AsrSettings(model="org/ear")
NAME, FILTERED = "heysquad_human", "heysquad_human_filtered"


class Ear:
    """Hears the texts that are given by split, then fails after so many rows."""

    def __init__(self, texts: dict[str, list[str | None]], die_after: int | None = None) -> None:
        self.texts, self.die_after = texts, die_after
        self.rows: list[RowRef] = []

    def __call__(self, name: str, rows: Sequence[RowRef]) -> Iterator[Transcript]:
        for split, row in reversed(rows):
            if self.die_after is not None and len(self.rows) >= self.die_after:
                raise KeyboardInterrupt
            self.rows.append((split, row))
            text = self.texts[split][row]
            yield Transcript(split, row, text or "", None if text is not None else "no audio")


@pytest.fixture
def ear() -> Ear:
    """Of five training questions the second is half wrong, the third more, the fourth cannot be decoded."""
    train = make_questions(5)
    save_questions(NAME, {"train": train, "validation": make_questions(2, 100)})
    heard: list[str | None] = [row["question"].upper() for row in train]
    heard[1], heard[2], heard[3] = "What is numb, her called", "something else", None
    return Ear({"train": heard, "validation": [row["question"] for row in make_questions(2, 100)]})


def test_the_published_rule(ear: Ear) -> None:
    counts = filter_by_asr(NAME, SETTINGS, AsrLimits(), ear)
    kept = load_from_disk(str(raw_dir(FILTERED)))
    assert kept["train"]["dataset_index"] == [0, 1, 4], "half of the words may be wrong; numbers stay"
    assert kept["train"].features == load_from_disk(str(raw_dir(NAME)))["train"].features
    assert len(kept["validation"]) == 2
    assert counts["train"]["dropped"] == {"unreadable": 1, "wer": 1} and counts["train"]["before"] == 5
    rows = [json.loads(line) for line in (raw_dir(FILTERED) / "asr.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["", "", "wer", "unreadable", "", "", ""]
    assert rows[1]["wer"] == 0.5 and rows[2]["heard"] == "something else" and rows[3]["wer"] is None
    assert counts["train"]["mean_wer"] == pytest.approx((0 + 0.5 + 1 + 0) / 4)
    assert counts["train"]["kept_mean_wer"] == pytest.approx(0.5 / 3, abs=1e-4)
    assert json.loads((raw_dir(FILTERED) / "asr_filter.json").read_text())["limits"]["normalisation"] == "letters"


@pytest.mark.parametrize("die_after", [0, 1, 3, 6])
def test_a_stopped_filter_goes_on_and_limits_cost_nothing(ear: Ear, die_after: int) -> None:
    ear.die_after = die_after
    with pytest.raises(KeyboardInterrupt):
        filter_by_asr(NAME, SETTINGS, AsrLimits(), ear)
    assert not raw_dir(FILTERED).exists()
    again = Ear(ear.texts)
    filter_by_asr(NAME, SETTINGS, AsrLimits(), again)
    assert len(again.rows) == 7 - die_after
    silent = Ear({})
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(max_wer=0.2), silent)["train"]["kept"] == 2
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(max_wer=None), silent)["train"]["kept"] == 4
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(None, 0.4), silent)["train"]["dropped"] == {
        "cer": 1,
        "unreadable": 1,
    }
    with pytest.raises(UserError, match="language: was 'english', is 'german'"):
        filter_by_asr(NAME, AsrSettings("org/ear", "german"), AsrLimits(), silent)


def test_a_trial_writes_no_set(ear: Ear) -> None:
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(), ear, limit=2)["train"]["before"] == 2
    assert len(ear.rows) == 4 and not raw_dir(FILTERED).exists()


def test_answers_are_filtered_with_the_set(ear: Ear) -> None:
    settings = AnswerSettings(llm="org/tiny", max_tokens=64)
    engine = FakeEngine(lambda prompt, request: f"{request.seed}\n</think>\n\nit is so.")
    generate_instruction_responses([NAME], settings, start_engine=lambda llm: engine)
    filter_by_asr(NAME, SETTINGS, AsrLimits(), ear)
    folder = f"{FILTERED}_tiny_64"
    rows = load_from_disk(str(responses_dir("tiny", folder)))["train"]
    assert rows["dataset_index"] == [0, 1, 4] and len(ResponseRows(folder, split="validation")) == 2
    assert ResponseRows(folder, "NoContext").keys.tolist() == [0, 1, 4]


def test_an_audio_corpus_keeps_its_split(data_root: Path) -> None:
    rows = make_rows(6)
    save_raw(rows, "esc50")
    save_indexes(indexes_dir("esc50"), train=[5, 0, 1, 2], validation=[3, 4])
    indexes_filtered_dir("esc50").mkdir(parents=True)
    (indexes_filtered_dir("esc50") / "dropped.jsonl").write_text('{"dataset_index": 1}\n')
    heard: list[str | None] = [row["audio_description"] for row in rows]
    heard[5] = "nothing of this"
    ear = Ear({"train": heard})
    limits = AsrLimits(text_column="audio_description")
    counts = filter_by_asr("esc50", SETTINGS, limits, ear)
    kept = read_indexes(indexes_filtered_dir("esc50"))
    assert {split: keys.tolist() for split, keys in kept.items()} == {"train": [0, 2], "validation": [3, 4]}
    assert counts["train"]["before"] == 3 and ("train", 1) not in ear.rows
    assert (indexes_filtered_dir("esc50") / "asr.jsonl").is_file()


def test_results_of_another_program_are_kept(ear: Ear) -> None:
    settings = AnswerSettings(llm="org/tiny", max_tokens=64)
    engine = FakeEngine(lambda prompt, request: f"{request.seed}\n</think>\n\nit is so.")
    generate_instruction_responses([NAME], settings, start_engine=lambda llm: engine)
    save_questions(FILTERED, {"train": make_questions(2), "validation": make_questions(1, 100)})
    before = {path: path.read_bytes() for path in raw_dir(FILTERED).rglob("*") if path.is_file()}
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(), ear, answers=AnswerChoice("other")) == {} and not ear.rows
    answers = responses_dir("tiny", f"{FILTERED}_tiny_64")
    assert not answers.exists()
    assert filter_by_asr(NAME, SETTINGS, AsrLimits(), ear, answers=AnswerChoice("tiny", 64)) == {} and not ear.rows
    assert {path: path.read_bytes() for path in raw_dir(FILTERED).rglob("*") if path.is_file()} == before
    assert len(load_from_disk(str(answers))["train"]) == 2
    (raw_dir(FILTERED) / "dataset_dict.json").unlink()
    with pytest.raises(UserError, match="no dataset_dict.json.*--overwrite"):
        filter_by_asr(NAME, SETTINGS, AsrLimits(), ear)
    filter_by_asr(NAME, SETTINGS, AsrLimits(), ear, overwrite=True)
    assert len(load_from_disk(str(answers))["train"]) == 3


def test_an_audio_filter_of_another_program_is_not_replaced(data_root: Path) -> None:
    save_raw(make_rows(6), "esc50")
    save_indexes(indexes_dir("esc50"), train=[5, 0, 1, 2], validation=[3, 4])
    save_indexes(indexes_filtered_dir("esc50"), train=[0, 1], validation=[3])
    with pytest.raises(UserError, match="not filtered by speech recognition.*--overwrite"):
        filter_by_asr("esc50", SETTINGS, AsrLimits(text_column="audio_description"), Ear({}))
    assert read_indexes(indexes_filtered_dir("esc50"))["train"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (["--threshold", "0.3", "--threshold_type", "wer"], AsrLimits(0.3, None)),
        (["--threshold", "0.3", "--threshold_type", "cer"], AsrLimits(None, 0.3)),
        (["--threshold_type", "cer"], AsrLimits(None, 0.5)),
        (["--max-wer", "none", "--max-cer", "0.1"], AsrLimits(None, 0.1)),
        ([], AsrLimits(0.5, None)),
    ],
)
def test_published_options(options: list[str], limits: AsrLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    asr_command.add_arguments(parser)
    asked: list[Any] = []
    monkeypatch.setattr(asr_filter, "filter_by_asr", lambda *given: asked.append(given) or {})
    args = parser.parse_args([*options, "--model-name", "Qwen/Qwen3-0.6B", "--limit", "-1", "--num-gpus", "2"])
    assert asr_command.filter_command(args, print) == 0
    ((name, _, given, _, limit, overwrite, answers),) = asked
    assert (name, given, limit, overwrite) == ("heysquad_human", limits, None, False)
    assert answers == AnswerChoice("Qwen3-0.6B") and args.cuda_devices == "0,1"


def test_mistakes(ear: Ear) -> None:
    with pytest.raises(UserError, match="no raw set .*nope"):
        filter_by_asr("nope", SETTINGS, AsrLimits(), ear)
    with pytest.raises(UserError, match="no column transcript; it has audio, question"):
        filter_by_asr(NAME, SETTINGS, AsrLimits(text_column="transcript"), ear)
    with pytest.raises(ConfigError, match="known: letters, unicode, none"):
        AsrLimits(normalisation="lettres")
    with pytest.raises(UserError, match="max_wer is -1"):
        AsrLimits(max_wer=-1)
    ear.texts["validation"] = ["x", "y"]
    with pytest.raises(UserError, match="no row of split validation stays .*--language"):
        filter_by_asr(NAME, SETTINGS, AsrLimits(), ear)
    assert not raw_dir(FILTERED).exists()


@pytest.mark.parametrize(
    ("text", "as_letters", "as_words"),
    [
        ("What's the 2nd  Name?", "whats the nd name", "whats the 2nd name"),
        ("Où est-ce, Zoë?", "o estce zo", "où est ce zoë"),
        ("\uff21\uff22", "", "ab"),
        ("你好, world", "world", "你好 world"),
    ],
)
def test_normalisation(text: str, as_letters: str, as_words: str) -> None:
    assert letters(text) == as_letters and unicode_words(text) == as_words
    assert find_normalisation("none")(" a\n B ") == "a B"


def test_rates() -> None:
    assert error_rates("a b c d", "a x c") == (0.5, pytest.approx(3 / 7))
    assert error_rates("a", "a b c") == (2.0, 4.0)
    with pytest.raises(ValueError, match="reference is empty"):
        error_rates(" ", "a")
    assert score("42?", {"ok": True, "text": "42"}, AsrLimits())[0] == "no_reference"
    assert score("a", None, AsrLimits())[0] == "missing"


@pytest.mark.slow
def test_a_tiny_whisper_hears_every_readable_clip(data_root: Path, tmp_path: Path) -> None:
    from tests.support.tiny_whisper import save_tiny_whisper

    rows = make_questions(5)
    rows[2]["audio"] = {"bytes": b"no audio", "path": "2.wav"}
    save_questions(NAME, {"train": rows})
    settings = AsrSettings(str(save_tiny_whisper(tmp_path / "ear")), "english", batch_size=2)
    counts = filter_by_asr(NAME, settings, AsrLimits(max_wer=None, normalisation="none"), RowTranscriber(settings))
    assert counts["train"]["kept"] == 4 and counts["train"]["dropped"] == {"unreadable": 1}
    part = transcripts_dir(NAME) / "ear/train/part-00000.jsonl"
    records = {record["dataset_index"]: record for record in map(json.loads, part.read_text().splitlines())}
    assert "2.wav" in records[2]["error"] and all(records[row]["ok"] for row in (0, 1, 3, 4))


def test_long_clips_are_cut_where_it_is_quiet() -> None:
    import torch

    from src.corpus.postprocess.transcribe import cut_pieces

    samples = torch.ones(16000 * 65)
    samples[16000 * 27 : 16000 * 28] = 0
    pieces = cut_pieces(samples)
    assert torch.equal(torch.cat(pieces), samples) and all(len(piece) <= 16000 * 30 for piece in pieces)
    assert 27 <= len(pieces[0]) / 16000 <= 28 and len(cut_pieces(samples[: 16000 * 30])) == 1


@pytest.mark.slow
def test_batches_lengths_and_languages_of_whisper(tmp_path: Path) -> None:
    import torch

    from src.corpus.postprocess.transcribe import Whisper
    from tests.support.tiny_whisper import save_tiny_whisper

    folder = str(save_tiny_whisper(tmp_path / "ear"))
    ear = Whisper(AsrSettings(folder, "German"))
    noise = torch.Generator().manual_seed(0)
    clips = [Waveform(torch.randn(1, int(24000 * s), generator=noise) / 10, 24000) for s in (0.5, 40.0, 2.0)]
    together = ear(clips)
    assert together == [ear([clip])[0] for clip in clips] and together[1] != together[0]
    assert Whisper(AsrSettings(folder, "de"))(clips[:1]) == together[:1]
    with pytest.raises(UserError, match="'klingon'; known: english, german"):
        Whisper(AsrSettings(folder, "klingon"))
    with pytest.raises(UserError, match="cannot be loaded"):
        Whisper(AsrSettings(str(tmp_path / "nope")))
    one_language = str(save_tiny_whisper(tmp_path / "english", multilingual=False))
    assert Whisper(AsrSettings(one_language))(clips[:1])


def test_one_clip_that_breaks_the_model_costs_its_row(data_root: Path) -> None:
    def hear(clips: Sequence[Waveform]) -> list[str]:
        if any(abs(clip.duration - 0.7) < 0.01 for clip in clips):
            raise RuntimeError("too strange")
        return ["fine"] * len(clips)

    from tests.support.tiny_corpus import wav_bytes

    rows = make_questions(4)
    rows[1]["audio"] = {"bytes": wav_bytes(0.7, 1), "path": "1.wav"}
    save_questions(NAME, {"train": rows})
    hearing: Any = RowTranscriber(SETTINGS, lambda settings: hear)
    counts = filter_by_asr(NAME, SETTINGS, AsrLimits(max_wer=9), hearing)
    assert counts["train"]["dropped"] == {"unreadable": 1} and counts["train"]["kept"] == 3
    assert np.array_equal(load_from_disk(str(raw_dir(FILTERED)))["train"]["dataset_index"], [0, 2, 3])


class SoftEar:
    """Hears how many samples a clip has."""

    def __init__(self, settings: AsrSettings) -> None:
        self.settings = settings

    def __call__(self, clips: Sequence[Waveform]) -> list[str]:
        return [str(clip.samples.shape[-1]) for clip in clips]


@pytest.mark.slow
def test_two_workers_hear_the_same(data_root: Path) -> None:
    from src.inference.local_workers import LocalWorkers

    rows = make_questions(9)
    rows[4]["audio"] = {"bytes": b"no audio", "path": "4.wav"}
    save_questions(NAME, {"train": rows, "validation": make_questions(3, 100)})
    refs = [("train", row) for row in range(9)] + [("validation", row) for row in range(3)]
    settings = AsrSettings("org/ear", batch_size=2)
    alone = {heard.key: heard for heard in RowTranscriber(settings, SoftEar)(NAME, refs)}
    shared = list(RowTranscriber(settings, SoftEar, lambda service: LocalWorkers(service, 2))(NAME, refs))
    assert len(shared) == len(refs) and {heard.key: heard for heard in shared} == alone
    assert "4.wav" in str(alone["train/4"].error)
