"""ask.py: marking the parts of a stream, writing with a budget, and what is said about bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.generation.ask import Writer, ask, mark_parts
from src.generation.config import ModelSettings
from src.generation.requests import Sampling
from src.model.llm import load_llm
from src.prompts.chat import chat_ids
from src.prompts.thoughts import split_response


def joined(text: str, size: int, inside_thoughts: bool) -> dict[str, str]:
    parts = {"thoughts": "", "answer": ""}
    for part, piece in mark_parts((text[i : i + size] for i in range(0, len(text), size)), inside_thoughts):
        parts[part] += piece
    return parts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "inside_thoughts"),
    [
        ("hm, a < b.\n</think>\n\na kick. <b>\n</b>", True),
        ("<think>\nhm</think>yes", False),
        ("<think>\nhm</think>yes", True),
        ("thinking </th on and on", True),
        ("just an <answer>", False),
        ("</think>\n\nyes", True),
        ("", True),
    ],
)
def test_stream_is_split_like_the_whole_text(text: str, inside_thoughts: bool, size: int) -> None:
    split = split_response(text, inside_thoughts)
    parts = joined(text, size, inside_thoughts)
    assert (parts["thoughts"].strip(), parts["answer"].strip()) == (split.thoughts, split.answer)
    assert "think>" not in parts["thoughts"] + parts["answer"]


def test_thoughts_are_not_held_back_longer_than_needed() -> None:
    pieces = mark_parts(iter(["one ", "two ", "thr"]), True)
    assert [next(pieces) for _ in range(3)] == [("thoughts", "one"), ("thoughts", " two"), ("thoughts", " thr")]


def written(llm_folder: Path, limits: ModelSettings, closing: str = "</think>\n") -> tuple[str, str]:
    llm, tokenizer = load_llm(str(llm_folder))
    prompt = chat_ids(tokenizer, None, "hello")
    text = "".join(Writer(llm, tokenizer, limits, True, closing).write([prompt]))
    ids = llm.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=limits.max_tokens)[0, len(prompt) :]
    return text, tokenizer.decode(ids, skip_special_tokens=True)


def test_writer_gives_what_generate_gives(llm: Path) -> None:
    text, expected = written(llm, ModelSettings(max_tokens=24, max_thinking_tokens=-1))
    assert text == expected and expected


def test_writer_closes_thoughts_at_the_budget(llm: Path) -> None:
    text, whole = written(llm, ModelSettings(max_tokens=24, max_thinking_tokens=6), "|stop</think>\n")
    before, _, after = text.partition("|stop</think>\n")
    assert whole.startswith(before) and after
    assert written(llm, ModelSettings(max_tokens=5, max_thinking_tokens=0), "|x</think>")[0].startswith("|x</think>")


def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.tiny_corpus import wav_bytes

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing.wav does not exist"):
        next(ask("nothing.wav", "what?", compose("ask", [])))
    Path("empty.wav").touch()
    with pytest.raises(UserError, match="empty"):
        next(ask("empty.wav", "what?", compose("ask", [])))
    Path("clip.wav").write_bytes(wav_bytes(1.0, 0))
    with pytest.raises(UserError, match=r"run ./quickstart.sh first"):
        next(ask("clip.wav", "what?", compose("ask", [])))
    with pytest.raises(UserError, match="no such folder"):
        next(ask("clip.wav", "what?", compose("ask", ["checkpoint_name=/nowhere"])))


def test_command_line_ends_in_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO_ROOT / "ask.py"), "nothing.wav", "what?"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: audio file nothing.wav does not exist")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["ask.py", "generate_vllm.py", "generate_vllm_mcqa.py"])
def test_help_loads_nothing_heavy(program: str) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = [{program!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({program!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'vllm', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkpoint_name" in done.stdout


def test_sampling_is_checked() -> None:
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Sampling(max_tokens=0)
