"""ask.py: marking the parts of a stream, writing with a budget, and what is said about bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import ASSETS, REPO_ROOT
from src.generation.ask import ask, stream_response
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Sampling
from src.model.llm import load_llm
from src.prompts.chat import chat_ids
from src.prompts.reasoning import Reasoning, split_response
from src.prompts.stream_splitter import ResponsePart, StreamSplitter


def split_stream(pieces: Iterable[str], inside_thoughts: bool) -> Iterator[tuple[ResponsePart, str]]:
    splitter = StreamSplitter(Reasoning(opened=inside_thoughts))
    for piece in pieces:
        yield from splitter.feed(piece)
    yield from splitter.end()


def joined(text: str, size: int, inside_thoughts: bool) -> dict[str, str]:
    parts = {"thoughts": "", "answer": ""}
    for part, piece in split_stream((text[i : i + size] for i in range(0, len(text), size)), inside_thoughts):
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
    split = split_response(text, Reasoning(opened=inside_thoughts))
    parts = joined(text, size, inside_thoughts)
    assert (parts["thoughts"].strip(), parts["answer"].strip()) == (split.thoughts, split.answer)
    assert "think>" not in parts["thoughts"] + parts["answer"]


def test_thoughts_are_not_held_back_longer_than_needed() -> None:
    pieces = split_stream(iter(["one ", "two ", "thr"]), True)
    assert [next(pieces) for _ in range(3)] == [("thoughts", "one"), ("thoughts", " two"), ("thoughts", " thr")]


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    """The miniature's language model, which writes words."""
    return load_llm(str(ASSETS / "mini/llm"), torch.float32)


def streamed(mini: tuple[Any, Any], sampling: Sampling) -> tuple[str, list[str], str]:
    """Thoughts, pieces of the answer, and what ``generate`` writes to the same prompt in one pass."""
    llm, tokenizer = mini
    prompt = chat_ids(tokenizer, None, "which sound comes first?")
    pieces = list(stream_response(TransformersBackend(llm), tokenizer, [prompt], sampling))
    ids = llm.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=sampling.max_tokens)[0, len(prompt) :]
    thoughts = "".join(text for part, text in pieces if part == "thoughts")
    return thoughts, [text for part, text in pieces if part == "answer"], tokenizer.decode(ids)


def test_streamed_text_is_what_generate_writes(mini: tuple[Any, Any]) -> None:
    thoughts, answer, whole = streamed(mini, Sampling(60, greedy=True))
    expected = split_response(whole.removesuffix("<|im_end|>"))
    assert (thoughts, "".join(answer)) == (expected.thoughts, expected.answer) and expected.answer
    assert len(answer) > 1  # piece by piece


def test_thoughts_are_closed_at_the_budget(mini: tuple[Any, Any]) -> None:
    thoughts, answer, whole = streamed(mini, Sampling(8, 4, greedy=True, budget_closing="|stop</think>\n"))
    before, closing, after = thoughts.partition("|stop")
    assert whole.startswith(before) and before and closing and not after and answer
    assert streamed(mini, Sampling(5, 0, greedy=True, budget_closing="|x</think>"))[0] == "|x"


def test_a_prompt_that_cannot_be_run_is_one_line(mini: tuple[Any, Any]) -> None:
    pieces = stream_response(TransformersBackend(mini[0]), mini[1], [torch.zeros(3, 7)], Sampling(5))
    with pytest.raises(UserError, match="the question cannot be answered: embeddings of shape 3x7"):
        list(pieces)


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


def test_ask_imports_no_vllm() -> None:
    """It would take most of the time to the first word."""
    code = "import sys, src.generation.ask\nassert not [name for name in sys.modules if name.startswith('vllm')]"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sampling_is_checked() -> None:
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Sampling(max_tokens=0)
