"""Chat templates of other families: where the audio stands, in training, runs, the server and ask alike.

The templates are our own texts with the structure of the named families. The reference is a render by jinja2 alone,
with a word in the place of the audio.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jinja2
import pytest
import torch

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import ASSETS
from src.dataset.examples import ExampleDataset
from src.dataset.response_rows import ResponseRow
from src.inference.config import LlmSource
from src.inference.engine import Engine
from src.inference.prompt_builder import PromptBuilder, RowInput, text_requests
from src.inference.response_stream import ResponseStream
from src.inference.scheduler import StepOutput
from src.inference.types import RequestError, Sampling
from src.model.llm import load_chat_tokenizer, load_tokenizer
from src.prompts import load_prompts
from src.prompts.chat import chat_ids, render_chat, split_turn, turn_ids
from src.prompts.find_reasoning import find_reasoning, hidden_tokens
from src.prompts.messages import ensemble_heading, ensemble_intro
from src.prompts.multiple_choice import read_reply
from src.prompts.reasoning import Reasoning, split_response
from src.prompts.stream_splitter import StreamSplitter
from src.serving.conversation import Conversations
from src.serving.schema import ChatRequest
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer
from tests.serving.client import running
from tests.serving.sounds import chat, encoded, input_audio

AUDIO, WORD = "audio", "wordinplaceofsound"
BOS = "<|endoftext|>"
QUESTION = "what is it?\nname it.\n\nin one word"
PROMPTS = load_prompts("mini")
_TURN = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_HEADER = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
_NO_SYSTEM = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{%- endif %}"

TEMPLATES = {
    # a default system turn (Qwen2.5-Instruct)
    "default system": (
        "{%- if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nyou are kind.\nbe short.<|im_end|>\n' }}{%- endif %}"
        "{%- for m in messages %}" + _TURN + "{%- endfor %}" + _HEADER
    ),
    # a system turn that is always there, contents are trimmed, two line ends behind headers (Llama-3.1)
    "trimmed": (
        "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set own = messages[0].content | trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set own = '' %}{%- endif %}"
        "{{- '<|im_start|>system\n\nknown until: may\n\n' + own + '<|im_end|>' }}"
        "{%- for m in messages %}"
        "{{- '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
    ),
    # the system text is a paragraph of a longer one (SmolLM3)
    "system in a frame": (
        "{{- '<|im_start|>system\n## facts\n\nmode: /think\n\n## rules\n\n' }}"
        "{%- if messages[0].role == 'system' %}{{- messages[0].content.replace('/no_think', '').rstrip() }}"
        "{%- else %}{{- 'you are small.' }}{%- endif %}{{- '<|im_end|>\n' }}"
        "{%- for m in messages if m.role != 'system' %}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}" + _HEADER
    ),
    # the system text without a header, no line end anywhere, thoughts are opened (DeepSeek-R1-Distill)
    "one line": (
        "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content }}"
        "{%- elif m.role == 'user' %}{{- '<|im_start|>User: ' + m.content }}"
        "{%- else %}{{- '<|im_start|>Assistant: ' + m.content + '<|im_end|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>Assistant: <think>\n' }}{%- endif %}"
    ),
    # the system text stands in the last user turn, no header of the assistant (Mistral-Instruct v0.3)
    "system in the user turn": (
        "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
        "{%- set messages = messages[1:] %}{%- endif %}"
        "{%- for m in messages %}{%- if m.role == 'user' %}"
        "{{- '[INST] ' + (own + '\n\n' if loop.last and own is defined else '') + m.content + '[/INST]' }}"
        "{%- else %}{{- ' ' + m.content + '<|im_end|>' }}{%- endif %}{%- endfor %}"
    ),
    # no system role, turns must alternate (Mistral-Instruct v0.1)
    "alternating": (
        "{{- bos_token }}{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('user and assistant must alternate') }}{%- endif %}{%- if m.role == 'user' %}"
        "{{- '[INST] ' + m.content + ' [/INST]' }}"
        "{%- else %}{{- m.content + '<|im_end|> ' }}{%- endif %}{%- endfor %}"
    ),
    # no system role, contents are trimmed, the assistant has another name (Gemma-2)
    "no system role": (
        "{{- bos_token }}" + _NO_SYSTEM + "{%- for m in messages %}"
        "{%- set name = 'model' if m.role == 'assistant' else m.role %}"
        "{{- '<|im_start|>' + name + '\n' + m.content | trim + '<|im_end|>\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>model\n' }}{%- endif %}"
    ),
    # system messages are left out without a word
    "system left out": (
        "{%- for m in messages if m.role != 'system' %}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}" + _HEADER
    ),
}
FOLDED = ("alternating", "no system role", "system left out")
"""Templates without a system role."""


@pytest.fixture(scope="module")
def plain() -> Any:
    return load_tokenizer(str(ASSETS / "mini/llm"))


@pytest.fixture(params=TEMPLATES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(plain: Any, family: str) -> Iterator[Any]:
    """The miniature's tokenizer with the template of a family."""
    own = plain.chat_template
    plain.chat_template, plain.bos_token = TEMPLATES[family], BOS
    yield plain
    plain.chat_template = own


def reference(family: str, content: str, system: str | None) -> str:
    """The template's own render, by jinja2; a system text without a place begins the user's content."""

    def refuse(message: str) -> None:
        raise AssertionError(message)

    if system and family in FOLDED:
        content, system = f"{system}\n\n{content}", None
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], keep_trailing_newline=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(TEMPLATES[family])
    return str(template.render(messages=messages, bos_token=BOS, add_generation_prompt=True))


def expected(tokenizer: Any, family: str, system: str | None, *inside: str, content: str = QUESTION) -> list[Any]:
    """Ids of the reference; ``inside`` are texts at the place of the audio, each tokenised by itself."""
    before, after = reference(family, WORD + content, system).split(WORD)
    texts = [before, *(inside or [AUDIO]), after]
    if len(inside) > 1:  # the first and the last belong to the header and to the content
        texts = [before + inside[0], *inside[1:-1], inside[-1] + after]
    found: list[Any] = []
    for text in texts:
        found += [AUDIO] if text == AUDIO else tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def flat(segments: Any) -> list[Any]:
    found: list[Any] = []
    for segment in segments:
        found += [AUDIO] if isinstance(segment, torch.Tensor) else segment
    return found


class OneRow:
    """A training set of one row."""

    def __init__(self, context: str) -> None:
        self.row = ResponseRow("a/0", {"bytes": encoded(), "path": None}, context, "a kick", "it is a kick")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> ResponseRow:
        return self.row


def asked_with(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, clip: Path, system: str) -> list[Any]:
    """The prompt of ``ask.py``, whose models are imitated."""
    from src.generation import ask as module

    prompts: list[Any] = []

    def stream_response(_: Any, tokenizer: Any, segments: Any, sampling: Any) -> Iterator[str]:
        prompts.extend(flat(segments))
        yield from ()

    chosen = PROMPTS.__class__(**{**vars(PROMPTS), "generation_system": system})
    heard = SimpleNamespace(explicit_tags=[False], encode=lambda clips: [[torch.zeros(2, 4)]])
    imitated = {
        "choose_model": lambda *_: (LlmSource("l"), chosen),
        "load_transformers": lambda *_: (None, tokenizer),
        "TransformersBackend": lambda *_: nullcontext(),
        "closing": nullcontext,
        "load_ensemble": lambda *_: heard,
        "stream_response": stream_response,
    }
    for name, value in imitated.items():
        monkeypatch.setattr(module, name, value)
    list(module.ask(str(clip), QUESTION, compose("ask", ["checkpoint_name=c"])))
    return prompts


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("content", [QUESTION, "", "\n  two lines\n"])
def test_t1_t2_t3_training_places_audio_in_the_users_turn(
    tokenizer: Any, family: str, content: str, explicit: bool
) -> None:
    """Audio stood behind the first line end of the render: in a default system turn, or in the user's own text."""
    tags = ("<start_audio>", "<end_audio>") if explicit else None
    example = ExampleDataset(OneRow(content), tokenizer, tags)[0]  # type: ignore[arg-type]
    inside = (tags[0], AUDIO, tags[1]) if tags else ()
    assert [*example.start, AUDIO, *example.main] == expected(tokenizer, family, None, *inside, content=content)


@pytest.mark.parametrize("system", ["listen well.\nthen answer.", ""])
def test_t1_t2_t3_runs_server_and_ask_place_audio_alike(
    tokenizer: Any, family: str, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs and ask put the clip elsewhere than the server."""
    right, clip = expected(tokenizer, family, system or None), [torch.zeros(2, 4)]
    assert right.count(AUDIO) == 1
    assert flat(PromptBuilder(tokenizer, PROMPTS, system).with_audio(QUESTION, clip)) == right
    body = chat(input_audio(b"abc"), QUESTION)
    body["messages"].insert(0, {"role": "system", "content": system})
    served = Conversations(tokenizer, PROMPTS, [False])
    assert flat(served.segments(ChatRequest.model_validate(body).messages, [clip])) == right
    file = tmp_path / "clip.wav"
    file.write_bytes(encoded())
    assert asked_with(monkeypatch, tokenizer, file, system) == right
    begins = tokenizer(BOS, add_special_tokens=False)["input_ids"]
    assert right.count(begins[0]) == TEMPLATES[family].count("bos_token")


@pytest.mark.parametrize("explicit", [[False, False], [True, False, True]])
def test_t1_t2_t3_ensembles_stand_at_the_same_place(tokenizer: Any, family: str, explicit: list[bool]) -> None:
    """Introduction, headings and clips follow the user's header, whatever it is."""
    count, clips = len(explicit), [torch.zeros(2, 4)] * len(explicit)
    inside, closing = ["", ensemble_intro(PROMPTS, count)], ""
    for number, own in enumerate(explicit, 1):
        opening, closes = ("<start_audio>", "<end_audio>") if own else ("", "")
        inside += [f"{ensemble_heading(PROMPTS, number, count)}{opening}", AUDIO, f"{closes}\n"]
    right = expected(tokenizer, family, "listen.", *inside, closing)
    assert flat(PromptBuilder(tokenizer, PROMPTS, "listen.", explicit).with_audio(QUESTION, clips)) == right
    body = chat(input_audio(b"abc"), QUESTION)
    body["messages"].insert(0, {"role": "system", "content": "listen."})
    messages = ChatRequest.model_validate(body).messages
    assert flat(Conversations(tokenizer, PROMPTS, explicit).segments(messages, [clips])) == right


def test_t2_text_alone_is_the_templates_own_render(tokenizer: Any, family: str) -> None:
    """Prompts without audio are what the template gives, with one token at the beginning."""
    right = tokenizer(reference(family, QUESTION, "listen."), add_special_tokens=False)["input_ids"]
    assert chat_ids(tokenizer, "listen.", QUESTION) == right
    assert flat(PromptBuilder(tokenizer, PROMPTS, "listen.").text_only(QUESTION)) == right
    body = chat(QUESTION)
    body["messages"].insert(0, {"role": "system", "content": "listen."})
    messages = ChatRequest.model_validate(body).messages
    assert flat(Conversations(tokenizer, PROMPTS, [False]).segments(messages, [])) == right
    example = ExampleDataset(OneRow(QUESTION), tokenizer, audio=False)[0]  # type: ignore[arg-type]
    described = tokenizer(reference(family, f"{QUESTION}\na kick", None), add_special_tokens=False)["input_ids"]
    assert [*example.start, *example.main] == described


def test_t3_a_conversation_that_a_template_refuses_costs_one_row(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates that raise ended a run, and were an internal error of the server."""
    strict = "{%- if 'bad' in messages[-1].content %}{{ raise_exception('not\nthis') }}{%- endif %}"
    monkeypatch.setattr(plain, "chat_template", strict + TEMPLATES["default system"])
    items = [RowInput("a", "good"), RowInput("b", "bad"), RowInput("c", "good")]
    good, bad, other = text_requests(items, PromptBuilder(plain, PROMPTS, "s"), read=False)
    assert good.segments == other.segments and good.error is None
    assert bad.error == RequestError(
        "bad_prompt", "the chat template of the language model refuses the conversation: not this"
    )


def _without_template(folder: Path) -> str:
    shutil.copytree(ASSETS / "mini/llm", folder / "base")
    (folder / "base" / "chat_template.jinja").unlink()
    return str(folder / "base")


NO_TEMPLATE = r"base': the tokenizer has no chat template, expected an instruction-tuned model"


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("something heavy was loaded first")


def test_t3_no_template_is_told_before_anything_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base model ended in a traceback after all models had been loaded."""
    from src.generation import ask, job, run
    from src.inference import ensemble, worker_pool_engine
    from src.serving import start
    from src.serving.config import ServeConfig
    from src.training import build

    llm = _without_template(tmp_path)
    with pytest.raises(UserError, match=NO_TEMPLATE) as raised:
        load_chat_tokenizer(llm)
    assert "\n" not in str(raised.value) and "chat_template.jinja" in str(raised.value)
    opened = SimpleNamespace(name="c", extra={}, config=SimpleNamespace(llm=llm, llm_revision=None, reasoning=None))
    monkeypatch.setattr("src.model.checkpoints.open_checkpoint", lambda name: opened)
    monkeypatch.setattr("src.inference.load.shared_lora", lambda checkpoints: None)
    monkeypatch.setattr("src.inference.load.open_checkpoint", lambda name: opened)
    monkeypatch.setattr(ensemble.EmbedderEnsemble, "load", _never)
    monkeypatch.setattr(worker_pool_engine, "load_vllm", _never)
    monkeypatch.setattr(build, "load_llm", _never)
    clip = tmp_path / "clip.wav"
    clip.write_bytes(encoded())
    with pytest.raises(UserError, match=NO_TEMPLATE):
        list(ask.ask(str(clip), "what?", compose("ask", ["checkpoint_name=c"])))
    with pytest.raises(UserError, match=NO_TEMPLATE):
        start.load(ServeConfig(checkpoint_name="c"))
    with pytest.raises(UserError, match=NO_TEMPLATE):
        worker_pool_engine.start_engine(llm, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=NO_TEMPLATE):
        checked = job.Job(SimpleNamespace(endpoint=None), None, None, LlmSource(llm), [], [], tmp_path)  # type: ignore[arg-type]
        list(run._answer(checked, {}, [("test", 0)], _never, None))  # type: ignore[arg-type]
    from src.training.config import bind_train_config

    config = bind_train_config(compose("train", ["dataset=mini", "model=mini_whisper", f"model.llm={llm}"]))
    monkeypatch.setattr(build, "find_adapters", lambda *_: {})
    with pytest.raises(UserError, match=NO_TEMPLATE):
        build.build_model(config)


def test_t3_a_missing_system_role_is_told_once(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One log line for the tokenizer, not one for each row."""
    from src.prompts import chat as module

    lines: list[str] = []
    monkeypatch.setattr(module.log, "info", lambda text, *_: lines.append(text))
    monkeypatch.setattr(plain, "chat_template", TEMPLATES["no system role"])
    for _ in range(3):
        turn_ids(plain, QUESTION, system="listen.")
    assert lines == ["the chat template has no system role: system texts stand at the beginning of the user's turn"]
    assert split_turn(plain, "q", "listen.")[0].endswith("user\nlisten.\n\n")


def test_several_turns_keep_their_places(tokenizer: Any, family: str) -> None:
    """Clips of earlier turns, with a system text folded into the first user turn."""
    turns = [
        {"role": "system", "content": "listen."},
        {"role": "user", "content": [input_audio(b"abc"), {"type": "text", "text": "first?"}]},
        {"role": "assistant", "content": "a kick"},
        {"role": "user", "content": [input_audio(b"abc"), {"type": "text", "text": "and this?"}]},
    ]
    messages = ChatRequest.model_validate({"model": "m", "messages": turns}).messages
    clips = [[torch.zeros(2, 4)], [torch.zeros(3, 4)]]
    segments = Conversations(tokenizer, PROMPTS, [False]).segments(messages, clips)
    words = [dict(turn) for turn in turns]
    words[1]["content"], words[3]["content"] = f"{WORD}first?", f"{WORD}and this?"
    texts = render_chat(tokenizer, words).split(WORD)  # type: ignore[arg-type]
    assert [segment if isinstance(segment, torch.Tensor) else tokenizer.decode(segment) for segment in segments] == [
        texts[0], clips[0][0], texts[1], clips[1][0], texts[2]
    ]  # fmt: skip


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(
    ("written", "thoughts", "answer"),
    [
        ("<think>\nhm</think>\n\na kick", "hm", "a kick"),
        ("a kick", "", "a kick"),
        ("<think>hm", "hm", ""),
        ("<think>\n\n</think>\n\na kick", "", "a kick"),
    ],
)
def test_t7_the_model_opens_its_thoughts_itself(
    tmp_path: Path, special: bool, size: int, written: str, thoughts: str, answer: str
) -> None:
    """An opening tag that is a control token was hidden, so thoughts were shown as answer with the closing tag."""
    from src.generation.ask import stream_response

    tokenizer = _with_tags(tmp_path, special)
    assert not find_reasoning(tokenizer).opened
    ids = [*tokenizer(written, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    writing = ResponseStream(tokenizer, hidden_tokens(tokenizer), find_reasoning(tokenizer))
    for place in range(0, len(ids), size):
        writing.feed(ids[place : place + size])
    writing.end()
    assert (writing.thoughts, writing.answer) == (thoughts, answer)
    backend = ScriptedBackend(lambda prompt: "")
    pieces = [ids[place : place + size] for place in range(0, len(ids), size)]
    outputs = [StepOutput("1:question", piece, "stop" if piece is pieces[-1] else None) for piece in pieces]
    backend.step = lambda: [outputs.pop(0)]  # type: ignore[method-assign]
    shown = {"thoughts": "", "answer": ""}
    for part, text in stream_response(backend, tokenizer, [[1, 2]], Sampling(1000)):
        shown[part] += text
    assert shown == {"thoughts": thoughts, "answer": answer}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_t7_a_closing_tag_without_an_opening_one_is_never_shown(tmp_path: Path, size: int) -> None:
    """``</think>`` was part of the answer."""
    tokenizer = _with_tags(tmp_path, False)
    ids = tokenizer("hm, a </thing.\n</think>\n\na kick", add_special_tokens=False)["input_ids"]
    writing = ResponseStream(tokenizer, (), Reasoning())
    pieces = [piece for place in range(0, len(ids), size) for piece in writing.feed(ids[place : place + size])]
    pieces += writing.end()
    assert "</think>" not in "".join(text for _, text in pieces)
    if size >= len(ids):  # as a whole it is known where the thoughts end
        assert (writing.thoughts, writing.answer) == ("hm, a </thing.", "a kick")
    else:
        assert writing.answer.split() == ["hm,", "a", "</thing.", "a", "kick"]


OWN_TAGS = [
    # what the template says of its tags, what its header ends with, the format, opened
    ("<seed:think> </seed:think>", "", "<seed:think> </seed:think>", False),
    ("</seed:think>", "<seed:think>", "<seed:think> </seed:think>", True),
    ("", "<thought>\n", "<thought> </thought>", True),
    ("<thinking>, then </thinking>", "", "<thinking> </thinking>", False),
    ("<|START_THINKING|><|END_THINKING|>", "", "<|START_THINKING|> <|END_THINKING|>", False),
    ("<|begin_of_thought|>…<|end_of_thought|>", "", "<|begin_of_thought|> <|end_of_thought|>", False),
    ("\u25c1think\u25b7\u25c1/think\u25b7", "", "\u25c1think\u25b7 \u25c1/think\u25b7", False),
    ("<tools></tools> <thinking>", "", "think", False),
    ("<think></think> <thinking></thinking>", "", "think", False),
]


@pytest.mark.parametrize(("known", "header", "name", "opened"), OWN_TAGS)
def test_t7_tags_of_their_own_around_the_thoughts_are_found(
    plain: Any, monkeypatch: pytest.MonkeyPatch, known: str, header: str, name: str, opened: bool
) -> None:
    """Thoughts between tags of no known format were the answer, and an option that they named was counted."""
    template = f"{{%- set tags = {known!r} %}}" + TEMPLATES["default system"].replace(
        "assistant\n", f"assistant\n{header}"
    )
    monkeypatch.setattr(plain, "chat_template", template)
    found = find_reasoning(plain)
    assert (found.format.name, found.opened) == (name, opened)
    assert Reasoning.of_record(found.record()) == found
    opening, closing = found.format.opening, found.format.closing
    cut = f"{'' if opened else opening}is it <answer>0</answer>? let me"
    assert read_reply(cut, ["a", "b"], "none", found).status == "unfinished_thoughts"
    assert read_reply(f"{cut}{closing}1", ["a", "b"], "none", found).choice == "b"


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(
    ("written", "thoughts", "answer"),
    [
        ("hm</think>\n\n<think>is it <answer>0</answer>?</think>\n\n1", "hm\n\nis it <answer>0</answer>?", "1"),
        ("hm</think><think>is it <answer>0</answer>", "hm\n\nis it <answer>0</answer>", ""),
        ("</think><think>hm</think><think></think>1", "hm", "1"),
        ("hm</think>the tag <think> opens, </think> ends", "hm", "the tag <think> opens, </think> ends"),
    ],
)
def test_t4_thoughts_that_are_opened_again_are_no_answer(written: str, thoughts: str, answer: str, size: int) -> None:
    """A model that goes on thinking behind the closing sentence of a budget had its thoughts counted and shown."""
    assert tuple(split_response(written)) == (thoughts, answer)
    splitter, parts = StreamSplitter(), {"thoughts": "", "answer": ""}
    pieces = [written[place : place + size] for place in range(0, len(written), size)]
    for part, text in [each for piece in pieces for each in splitter.feed(piece)] + splitter.end():
        parts[part] += text
    assert parts == {"thoughts": thoughts, "answer": answer}


class PlainHeader(CharTokenizer):
    """A header that does not open the thoughts; two turns of one role in a row are refused."""

    def __init__(self) -> None:
        super().__init__("<|im_start|>assistant\n")

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        roles = [turn["role"] for turn in conversation]
        if any(first == second for first, second in zip(roles, roles[1:], strict=False)):
            raise ValueError("roles must alternate")
        return super().apply_chat_template(conversation, **options)


def test_t3_t7_server_over_another_template() -> None:
    """The server showed ``</think>`` in its answers, and a conversation that the template refuses was status 500."""
    written = {"opened": "<think>\nhm\n</think>\n\na kick", "closed": "hm\n</think>\n\na kick", "none": "a kick"}

    def script(prompt: str) -> str:
        return next(text for name, text in written.items() if name in prompt)

    with running(over=Engine(ScriptedBackend(script), PlainHeader())) as (address, _):

        def ask(body: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=20)

        for name, thoughts in (("opened", "hm"), ("closed", "hm"), ("none", None)):
            message = ask(chat(name)).json()["choices"][0]["message"]
            assert (message.get("reasoning_content"), message["content"]) == (thoughts, "a kick")
            lines = [line.removeprefix("data: ") for line in ask(chat(name, stream=True)).text.split("\n\n") if line]
            deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
            streamed = "".join(
                f"{delta.get('reasoning_content') or ''}{delta.get('content') or ''}" for delta in deltas
            )
            assert streamed.endswith("a kick") and "think>" not in streamed
        twice = chat("none")
        twice["messages"] *= 2
        refused = ask(twice)
    assert refused.status_code == 400 and "roles must alternate" in refused.json()["error"]["message"]


def _with_tags(folder: Path, special: bool) -> Any:
    """The miniature's tokenizer with a header that does not open the thoughts, and think tags of either kind."""
    shutil.copytree(ASSETS / "mini/llm", folder / "llm")
    file = folder / "llm" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = token["special"] or (special and token["content"] in ("<think>", "</think>"))
    file.write_text(json.dumps(content), encoding="utf-8")
    (folder / "llm" / "chat_template.jinja").write_text(TEMPLATES["default system"], encoding="utf-8")
    tokenizer = load_tokenizer(str(folder / "llm"))
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    return tokenizer
