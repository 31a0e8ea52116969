"""From an imitation clone to token ids: what the imported texts give is what the published structure prescribes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.common.config import compose
from src.common.errors import UserError
from src.prompts import Prompts, choose_prompts, load_prompts
from src.prompts.published import read_published
from src.prompts.reasoning import THINKING
from src.prompts.texts import write_set
from tests.support import published_clone as clone

ROOT = Path(__file__).resolve().parents[2]
AUDIO = "audio"
"""Stands for an audio embedder's embeddings in a list of ids."""
HEADER = "<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that the command writes from an imitation clone."""
    folder = tmp_path_factory.mktemp("published")
    made = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "import_published_prompts.py"),
            str(clone.write_clone(folder / "clone")),
            "--out",
            str(folder / "set.yaml"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    digest = yaml.safe_load((folder / "set.yaml").read_text(encoding="utf-8"))["digest"]
    assert made.stdout.splitlines()[0].endswith(f"digest {digest}")
    assert "not found" not in made.stdout and "note:" not in made.stdout
    assert "ours stay: writer_system, writer_styles, prompt_checker_system, betraying_phrases" in made.stdout
    return folder / "set.yaml"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The shipped miniature's, whose chat template is Qwen3's."""
    from src.model.llm import load_tokenizer

    return load_tokenizer("assets/mini/llm")


def ids(tokenizer: Any, *texts: str) -> list[Any]:
    """Ids of texts that are tokenised one by one; ``AUDIO`` as it is."""
    found: list[Any] = []
    for text in texts:
        found += [AUDIO] if text is AUDIO else tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def flat(segments: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for segment in segments:
        found += [AUDIO] if isinstance(segment, torch.Tensor) else segment
    return found


def system_turn(text: str) -> str:
    return f"<|im_start|>system\n{text}<|im_end|>\n"


def prompts_of_run(name: str, imported: Path) -> Prompts:
    """As a run gets them from its command line."""
    from src.generation.config import read_run_config

    config = compose(name, [f"prompts={imported}", "dataset.name=any", "checkpoint_name=Blinorot/ALARM-CA"])
    return choose_prompts(read_run_config(config).prompts)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("task", ["free", "choice"])
def test_questions_by_one_checkpoint_and_ensembles(
    imported: Path, tokenizer: Any, task: str, count: int, explicit: bool
) -> None:
    from src.generation.task_types import FREE, MULTIPLE_CHOICE
    from src.inference.prompt_builder import PromptBuilder
    from src.serving.conversation import Conversations
    from src.serving.schema import ChatRequest

    if task == "free":
        kind, row = FREE, {"prompt": "Which {option_ID} barks?"}
        prompts, system, content = prompts_of_run("generate", imported), clone.FREE_SYSTEM, row["prompt"]
        made = kind.content(row, "prompt", prompts)
    else:
        kind, choices = MULTIPLE_CHOICE, ["a {options} dog", "2", "a cat\nand a bird"]
        prompts, system = prompts_of_run("generate", imported), clone.CHOICE_SYSTEM
        content = clone.choice_user("Which {options} barks?", choices)
        made = kind.content({"question": "Which {options} barks?", "choices": choices}, "question", prompts)
    start, end = ("<start_audio>", "<end_audio>") if explicit else ("", "")
    expected = ids(tokenizer, system_turn(system), f"<|im_start|>user\n{start}")
    if count == 1:
        expected += ids(tokenizer, AUDIO)
    else:
        expected += ids(tokenizer, clone.INTRO[0] + str(count) + clone.INTRO[1])
        for number in range(1, count + 1):
            heading = f"{clone.HEADING[0]}{number}{clone.HEADING[1]}{count}{clone.HEADING[2]}"
            expected += ids(tokenizer, heading, AUDIO, "\n")
    expected += ids(tokenizer, f"{end}{content}{HEADER}")
    clips = [torch.zeros(3, 4)] * count
    assert (
        flat(PromptBuilder(tokenizer, prompts, kind.system(prompts), [explicit] * count).with_audio(made, clips))
        == expected
    )

    body = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    asked = [
        {"role": "system", "content": system},
        {"role": "user", "content": [body, {"type": "text", "text": made}]},
    ]
    messages = ChatRequest.model_validate({"model": "m", "messages": asked}).messages
    served = Conversations(tokenizer, prompts, [explicit] * count).segments(messages, [clips])
    assert flat(served) == expected


def test_a_spent_budget_is_closed_by_the_published_sentence(imported: Path, tokenizer: Any) -> None:
    from src.inference.engine import Engine
    from src.inference.types import Request, Sampling

    prompts, backend = prompts_of_run("generate", imported), _Backend(tokenizer)
    sampling = Sampling(max_tokens=50, max_thinking_tokens=4, budget_closing=prompts.budget_closing)
    prompt = ids(tokenizer, "what is it?")
    (result,) = Engine(backend, tokenizer).run(iter([Request("r", (prompt,))]), sampling)
    first = ids(tokenizer, _Backend.THOUGHTS)[:4]
    assert backend.prompts == [prompt, [*prompt, *first, *ids(tokenizer, clone.CLOSING)]]
    assert result.text == tokenizer.decode(first) + clone.CLOSING + "a dog." and result.budget_hit


class _Backend:
    """Thinks on and on, and answers once the thoughts are closed."""

    shares_cores = False

    THOUGHTS = "i hear a low tone and then a bark and then nothing more for a while"
    width, vocabulary, context = 4, 100_000, 4096

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.prompts, self.due = tokenizer, [], []

    def add(self, key: str, segments: Any, sampling: Any, max_tokens: int, seed: int | None) -> None:
        self.prompts.append(flat(segments))  # a copy: the tokens so far grow
        closed = "</think>" in self.tokenizer.decode(self.prompts[-1])
        written = ids(self.tokenizer, "a dog." if closed else self.THOUGHTS)[:max_tokens]
        self.due.append((key, [*written, self.tokenizer.eos_token_id] if closed else written, closed))

    def step(self) -> list[Any]:
        from src.inference.scheduler import StepOutput

        done = [StepOutput(key, written, "stop" if closed else "length") for key, written, closed in self.due]
        self.due = []
        return done

    def abort(self, keys: Sequence[str]) -> None: ...

    def close(self) -> None: ...


def test_targets_are_generated_rephrased_and_checked(
    imported: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.common.paths import responses_dir
    from src.corpus.targets.llm_settings import ResponseSettings
    from src.corpus.targets.responses import generate_responses
    from tests.corpus.targets.fakes import FakeEngine, save_prompts

    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    save_prompts("any", 3)
    written = {0: "it is said.\n</think>\n\na dog.", 1: "so it is sa", 2: "hm.\n</think>\n\na cat {prompt}."}
    shown: dict[str, list[list[int]]] = {}

    def reply(prompt: str, request: Any) -> str:
        row = int(request.key)
        if "Lend" in prompt or "Judge it" in prompt:
            shown.setdefault("check", []).append(list(request.segments[0]))
            return f"Well.\n\n{'**ANSWER: YES**' if row == 2 else 'ANSWER: NO'}"
        if "harkers" in prompt:
            shown.setdefault("rephrase", []).append(list(request.segments[0]))
            text = written[row].replace("it is said", "i hark").replace("</think>", "</r_old>")
            return f"fine.\n</think>\n\n<answer>\n<r_old>\n{text}\n</answer>"
        shown.setdefault("generate", []).append(list(request.segments[0]))
        return written[row]

    def start(llm: str) -> FakeEngine:
        engine = FakeEngine(reply, room=1)
        engine.tokenizer = tokenizer
        return engine

    settings = ResponseSettings(
        llm="org/tiny",
        prompts=str(imported),
        rephrase=True,
        checker_llm="org/judge",
        max_tokens=64,
        tries=1,
        tokens_min=1,
    )
    (_, final) = generate_responses(["any"], settings, start_engine=start, reasoning=THINKING)

    def both(system: str, user: str) -> list[int]:
        return ids(tokenizer, f"{system_turn(system)}<|im_start|>user\n{user}{HEADER}")

    wishes = [
        f"<start_audio>[00:00-00:01] |sound {row}| (duration: 1s)<end_audio>\n\nwhat is number {row}?"
        for row in range(3)
    ]
    assert shown["generate"] == [both(clone.TARGET_SYSTEM, wish) for wish in wishes]
    renamed = [
        "<r_old>\nit is said.\n</r_old>\n\na dog.",
        "<r_old>\nso it is sa\n</r_old>",
        "<r_old>\nhm.\n</r_old>\n\na cat {prompt}.",
    ]
    assert shown["rephrase"] == [
        both(clone.rephrase_system(), clone.REPHRASE_USER[0] + text + clone.REPHRASE_USER[1]) for text in renamed
    ]
    responses = ["i hark.\n</think>\n\na dog.", "so it is sa", "hm.\n</think>\n\na cat {prompt}."]
    before, label, after = clone.CHECKER_USER
    assert shown["check"] == [
        both(clone.checker_system(), f"{before}{label}{response}{after}") for response in responses
    ]
    from datasets import load_from_disk

    rows = load_from_disk(str(responses_dir("tiny", final)))["train"].to_list()
    assert [row["llm_answer_with_context"] for row in rows[:2]] == responses[:2]
    assert [row["status"] for row in rows] == ["ok", "ok", "betrays"]


def test_the_set_says_that_it_is_published_until_it_is_changed(imported: Path, tmp_path: Path) -> None:
    prompts = load_prompts(str(imported))
    assert prompts.published and prompts.source == f"published {clone.COMMIT[:12]}" and prompts.name == "published"
    assert not load_prompts(str(imported), {"mcqa_system": "pick."}).published
    data = yaml.safe_load(imported.read_text(encoding="utf-8"))
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump({**data, "mcqa_system": "pick."}), encoding="utf-8")
    assert load_prompts(str(edited)).source == f"published {clone.COMMIT[:12]}, changed"
    assert not load_prompts("full").published


def test_the_digest_in_the_file_is_that_of_the_run_record(imported: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(imported.read_text(encoding="utf-8"))
    assert data["digest"] == load_prompts(str(imported)).record()["digest"]
    older = tmp_path / "older.yaml"  # before there were two digests, the file had only that of its own texts
    older.write_text(
        yaml.safe_dump({"digest": data.pop("file_digest"), **{k: v for k, v in data.items() if k != "digest"}}),
        encoding="utf-8",
    )
    assert "file_digest" not in yaml.safe_load(older.read_text(encoding="utf-8"))
    assert load_prompts(str(older)).published
    older.write_text(older.read_text(encoding="utf-8") + "\nmcqa_system: pick.\n", encoding="utf-8")
    assert load_prompts(str(older)).source.endswith(", changed")


def test_what_is_not_found_stays_ours_and_is_named(tmp_path: Path) -> None:
    file = "scripts/alarm/generate_responses.py"
    clone.write_clone(
        tmp_path, without=("generate_vllm_mcqa.py:get_main_prompt", f"{file}:get_rephrased_main_prompt")
    )
    found = read_published(tmp_path)
    assert found.missing == {
        **dict.fromkeys(("mcqa_user", "option_line"), "generate_vllm_mcqa.py: no function get_main_prompt"),
        **dict.fromkeys(
            ("rephrase_system", "rephrase_user", "reasoning_tag"), f"{file}: no function get_rephrased_main_prompt"
        ),
    }
    write_set(tmp_path / "part.yaml", found.as_set())
    part, ours = load_prompts(str(tmp_path / "part.yaml")), load_prompts("full")
    assert part.source.endswith(", in part") and not part.published
    assert (part.mcqa_user, part.rephrase_system) == (ours.mcqa_user, ours.rephrase_system)
    assert part.mcqa_system == clone.CHOICE_SYSTEM
    (tmp_path / "generate_vllm.py").write_text("def broken(:\n", encoding="utf-8")
    reason = read_published(tmp_path).missing["generation_system"]
    assert reason.startswith("generate_vllm.py: invalid syntax")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def get_system_prompt():\n    return make()\n", "line 2: make() is not followed"),
        ("def get_system_prompt():\n    return f'a {b} c'\n", "not a fixed text, it has the fields b"),
        ("def get_system_prompt(a):\n    return 'x'\n", "has 1 arguments, expected 0"),
        (
            "def get_system_prompt():\n    a = 'x'\n    if b:\n        a += 'y'\n    return a\n",
            "line 3: if is not foll",
        ),
        ("def get_system_prompt():\n    a = 'x'\n    while b:\n        return a\n", "line 3: while is not followed"),
        ("def get_system_prompt():\n    return f'{1!r}'\n", "{1} with a format is not followed"),
        (
            "def get_system_prompt():\n    a = ''\n    for i, p in enumerate(['x'], start=1):\n        a += f'{i}'\n"
            "    return a\n",
            "line 3: a loop over enumerate(['x'], start=1) is not followed",  # it was counted from 0
        ),
    ],
)
def test_texts_that_cannot_be_followed_are_refused(tmp_path: Path, source: str, reason: str) -> None:
    clone.write_clone(tmp_path)
    (tmp_path / "generate_vllm_mcqa.py").write_text(source, encoding="utf-8")
    assert reason in read_published(tmp_path).missing["mcqa_system"]


def test_other_ways_to_write_the_same_text_are_followed(tmp_path: Path) -> None:
    clone.write_clone(tmp_path)
    (tmp_path / "generate_vllm_mcqa.py").write_text(
        "TAIL: str = ' {option_ID}'\n\n"
        "def get_system_prompt():\n    parts = ['a', 'b']\n    text = ''\n"
        "    for i, part in enumerate(parts):\n        text += f'{i}{part};'\n    return text + TAIL\n\n"
        "def get_main_prompt(question, choices):\n"
        "    options = '\\n'.join(f'{i}: {c}' for i, c in enumerate(choices))\n"
        "    return f'Q {question}\\n{options}\\nend {{question}}'\n",
        encoding="utf-8",
    )
    found = read_published(tmp_path).texts
    assert found["mcqa_system"] == "0a;1b; {option_ID}"
    assert (found["mcqa_user"], found["option_line"]) == (
        "Q {question}\n{options}end {{question}}",
        "{number}: {option}\n",
    )


def test_wrong_folders_and_files_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a clone of the published repository, it has no generate_vllm.py"):
        read_published(tmp_path)
    (tmp_path / "generate_vllm.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"none of the texts could be found \(generation_system: generate_vllm.py: no"
    ):
        read_published(tmp_path)
    out = tmp_path / "set.yaml"
    out.write_text("mine", encoding="utf-8")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "import_published_prompts.py"),
        str(tmp_path),
        "--out",
        str(out),
    ]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "is there already: --overwrite replaces it" in refused.stderr
    assert out.read_text(encoding="utf-8") == "mine"
