"""Chat templates with the structure of model families, each with a small tokenizer that has its control tokens.

The templates are our own: headers, control tokens, default system turns, line ends and switches are those of the
families, the wording is not. ``alone`` and ``with_system`` are the families' documented renders, written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

AUDIO = "<|audio-goes-here|>"
"""A control token in the place of the audio, for reference renders that are tokenised as a whole."""
_CHATML = "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'"
_CHATML_HEADER = "<|im_start|>assistant\n"
_REFUSE = "{{- raise_exception('system role is not supported') }}"


@dataclass(frozen=True)
class Family:
    """A family: its template, control tokens and documented renders (``{s}`` system text, ``{u}`` user text).

    ``folded``: the template has no system role. ``reasoning`` is the format's name, and whether the header opens the
    reasoning, and whether the model reasons. ``end`` is the token behind a response.
    """

    template: str
    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    alone: str
    with_system: str
    reasoning: tuple[str, bool, bool]
    end: str
    folded: bool = False
    pieces: Literal["bytes", "words"] = "bytes"

    def tokenizer(self) -> Any:
        """Single characters, and the control tokens as a whole; asked to, it puts its first token in front."""
        alphabet = ["▁", *map(chr, range(32, 127))]
        if self.pieces == "bytes":
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        bytes_too = [f"<0x{byte:02X}>" for byte in range(256)]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(["<unk>", *bytes_too, *alphabet]))}
        inner = Tokenizer(models.BPE(vocabulary, [], byte_fallback=self.pieces == "words", unk_token="<unk>"))
        if self.pieces == "bytes":
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = decoders.ByteLevel()
        else:  # in the manner of SentencePiece: a text begins with a blank
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
        control = dict.fromkeys([*([self.bos] if self.bos else []), self.eos, *self.tokens, self.end, AUDIO])
        inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
        if self.bos:
            first = (self.bos, inner.token_to_id(self.bos))
            inner.post_processor = processors.TemplateProcessing(single=f"{self.bos} $A", special_tokens=[first])
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token=self.bos, eos_token=self.eos, unk_token="<unk>",
            chat_template=self.template, clean_up_tokenization_spaces=False,
        )  # fmt: skip


def _chatml(default: str, header: str = _CHATML_HEADER, more: str = "", before: str = "") -> str:
    """ChatML: ``default`` is a system turn where none is given, ``more`` stands behind the header."""
    default_turn = f"<|im_start|>system\n{default}<|im_end|>\n"
    missing = f"{{%- if messages[0].role != 'system' %}}{{{{- {default_turn!r} }}}}{{%- endif %}}" if default else ""
    turns = "{%- for m in messages %}{{- " + _CHATML + " }}{%- endfor %}"
    return f"{before}{missing}{turns}{{%- if add_generation_prompt %}}{{{{- {header!r} }}}}{more}{{%- endif %}}"


def _chatml_renders(default: str = "", header: str = _CHATML_HEADER) -> dict[str, str]:
    user = f"<|im_start|>user\n{{u}}<|im_end|>\n{header}"
    return {
        "alone": (f"<|im_start|>system\n{default}<|im_end|>\n" if default else "") + user,
        "with_system": f"<|im_start|>system\n{{s}}<|im_end|>\n{user}",
    }


_IM = {"tokens": ("<|im_start|>", "<|im_end|>"), "bos": None, "eos": "<|im_end|>", "end": "<|im_end|>"}
# what Qwen3's and OLMo-3's templates do with reasoning in earlier turns: they know the format
_DROPS = "{%- for m in messages if '</think>' in m.content and '<think>' in m.content %}{%- endfor %}"
_NO_THINKING = (
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
)
_ASKS_TO_THINK = "answer in two sections: <think> thoughts </think> solution."
_SMOL3 = "## facts\n\nmode: /think\n\n## rules\n\n"
_OLMO = " you have no functions. <functions></functions>"
_HARMONY_SYSTEM = "<|start|>system<|message|>you are a model.\n\nreasoning: medium\n\n# channels: final<|end|>"
_GEMMA_TURNS = (
    "{%- for m in messages %}{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
    "(first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)
_GEMMA_RENDERS = {
    "alone": "<bos><start_of_turn>user\n{u}<end_of_turn>\n<start_of_turn>model\n",
    "with_system": "<bos><start_of_turn>user\n{s}\n\n{u}<end_of_turn>\n<start_of_turn>model\n",
}
_GEMMA = {"tokens": ("<start_of_turn>",), "bos": "<bos>", "eos": "<eos>", "end": "<end_of_turn>", **_GEMMA_RENDERS}


def _mistral(default: str) -> str:
    """Mistral from v7 on: a system turn of its own, no blanks."""
    return (
        "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set own = " + repr(default) + " %}{%- endif %}"
        "{{- '[SYSTEM_PROMPT]' + own + '[/SYSTEM_PROMPT]' }}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{{- '[INST]' + m.content + '[/INST]' }}{%- else %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}"
    )


def _mistral_renders(default: str) -> dict[str, str]:
    text = "<s>[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT][INST]{{u}}[/INST]"
    return {"alone": text.format(default), "with_system": text.format("{s}")}


def _phi(default: str) -> str:
    missing = f"{{%- if messages[0].role != 'system' %}}{{{{- {default!r} }}}}{{%- endif %}}" if default else ""
    return (
        missing + "{%- for m in messages %}{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_sep|>' }}{%- endif %}"
    )


def _glm(header: str, more: str = "", before: str = "") -> str:
    return (
        "[gMASK]<sop>" + before + "{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content }}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {header!r} }}}}{more}{{%- endif %}}"
    )


def _llama(system: str) -> str:
    turn = "'<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>'"
    return (
        "{{- bos_token }}" + system + "{%- for m in messages %}{{- " + turn + " }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
    )


_LLAMA_USER = (
    "<|start_header_id|>user<|end_header_id|>\n\n{u}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_LLAMA_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
_LLAMA = {
    "tokens": ("<|start_header_id|>", "<|end_header_id|>"), "bos": "<|begin_of_text|>", "eos": "<|eot_id|>",
    "end": "<|eot_id|>", "reasoning": ("think", False, False),
}  # fmt: skip
_MISTRAL = {"tokens": ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "bos": "<s>", "eos": "</s>"}
_PHI_TOKENS = {**_IM, "tokens": ("<|im_start|>", "<|im_sep|>")}
_PHI_USER = "<|im_start|>user<|im_sep|>{u}<|im_end|><|im_start|>assistant<|im_sep|>"
_PHI_SYSTEM = "<|im_start|>system<|im_sep|>{s}<|im_end|>" + _PHI_USER
_GLM = {"tokens": ("<sop>", "<|system|>", "<|user|>", "<|assistant|>"), "bos": "[gMASK]", "eos": "<|endoftext|>"}

FAMILIES = {
    "Qwen2.5": Family(
        _chatml("you are kind."), **_IM, **_chatml_renders("you are kind."), reasoning=("think", False, False)
    ),
    "Qwen3 hybrid": Family(
        _chatml("", more=_NO_THINKING, before=_DROPS), **_IM, **_chatml_renders(), reasoning=("think", False, True)
    ),
    "Qwen3 Thinking": Family(
        _chatml("", _CHATML_HEADER + "<think>\n", before=_DROPS), **_IM,
        **_chatml_renders("", _CHATML_HEADER + "<think>\n"), reasoning=("think", True, True),
    ),
    "Qwen3 Instruct": Family(_chatml(""), **_IM, **_chatml_renders(), reasoning=("think", False, False)),
    "Llama 3": Family(
        _llama(""), alone="<|begin_of_text|>" + _LLAMA_USER,
        with_system=_LLAMA_SYSTEM + "{s}<|eot_id|>" + _LLAMA_USER, **_LLAMA,
    ),
    "Llama 3.1": Family(
        _llama(
            "{%- set own = '' %}{%- if messages[0].role == 'system' %}{%- set own = messages[0].content | trim %}"
            "{%- set messages = messages[1:] %}{%- endif %}"
            "{{- '<|start_header_id|>system<|end_header_id|>\n\nknown until: may\n\n' + own + '<|eot_id|>' }}"
        ),
        alone=_LLAMA_SYSTEM + "known until: may\n\n<|eot_id|>" + _LLAMA_USER,
        with_system=_LLAMA_SYSTEM + "known until: may\n\n{s}<|eot_id|>" + _LLAMA_USER, **_LLAMA,
    ),
    "Gemma 2": Family(
        "{{- bos_token }}{%- if messages[0].role == 'system' %}" + _REFUSE + "{%- endif %}{%- set first = '' %}"
        + _GEMMA_TURNS,
        **_GEMMA, reasoning=("think", False, False), folded=True,
    ),
    "Gemma 3": Family(
        "{{- bos_token }}{%- set first = '' %}{%- if messages[0].role == 'system' %}"
        "{%- set first = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- endif %}"
        + _GEMMA_TURNS,
        **_GEMMA, reasoning=("think", False, False),
    ),
    "Mistral v0.1": Family(
        "{{- bos_token }}{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}{%- if m.role == 'user' %}"
        "{{- '[INST] ' + m.content + ' [/INST]' }}{%- else %}{{- m.content + eos_token + ' ' }}{%- endif %}"
        "{%- endfor %}",
        (), "<s>", "</s>", "<s>[INST] {u} [/INST]", "<s>[INST] {s}\n\n{u} [/INST]", ("think", False, False), "</s>",
        folded=True, pieces="words",
    ),
    "Mistral v0.3": Family(
        "{{- bos_token }}{%- set own = '' %}{%- if messages[0].role == 'system' %}"
        "{%- set own = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- endif %}"
        "{%- for m in messages %}{%- if m.role == 'user' %}"
        "{{- '[INST] ' + (own if loop.last else '') + m.content + '[/INST]' }}"
        "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}",
        ("[INST]", "[/INST]"), "<s>", "</s>", "<s>[INST] {u}[/INST]", "<s>[INST] {s}\n\n{u}[/INST]",
        ("think", False, False), "</s>", pieces="words",
    ),
    "Mistral Small 3": Family(
        _mistral("you are small."), **_MISTRAL, **_mistral_renders("you are small."),
        reasoning=("think", False, False), end="</s>",
    ),
    "Magistral": Family(
        _mistral("draft your thoughts: [THINK]thoughts[/THINK]answer."),
        **{**_MISTRAL, "tokens": (*_MISTRAL["tokens"], "[THINK]", "[/THINK]")},
        **_mistral_renders("draft your thoughts: [THINK]thoughts[/THINK]answer."),
        reasoning=("think_brackets", False, True), end="</s>",
    ),
    "DeepSeek-R1-Distill": Family(
        "{%- set ns = namespace(own='') %}{%- for m in messages if m.role == 'system' %}{%- set ns.own = m.content %}"
        "{%- endfor %}{{- bos_token + ns.own }}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{{- '<｜User｜>' + m.content }}{%- elif m.role == 'assistant' %}"
        "{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{%- endif %}",
        ("<｜User｜>", "<｜Assistant｜>"), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜><｜User｜>{u}<｜Assistant｜><think>\n",
        "<｜begin▁of▁sentence｜>{s}<｜User｜>{u}<｜Assistant｜><think>\n", ("think", True, True),
        "<｜end▁of▁sentence｜>",
    ),
    "Phi-4": Family(
        _phi(""), **_PHI_TOKENS, alone=_PHI_USER, with_system=_PHI_SYSTEM, reasoning=("think", False, False)
    ),
    "Phi-4-reasoning": Family(
        _phi(f"<|im_start|>system<|im_sep|>{_ASKS_TO_THINK}<|im_end|>"), **_PHI_TOKENS,
        alone=f"<|im_start|>system<|im_sep|>{_ASKS_TO_THINK}<|im_end|>" + _PHI_USER, with_system=_PHI_SYSTEM,
        reasoning=("think", False, True),
    ),
    "SmolLM2": Family(
        _chatml("you are smol."), **_IM, **_chatml_renders("you are smol."), reasoning=("think", False, False)
    ),
    "SmolLM3": Family(  # its system turn has no end
        f"{{{{- '<|im_start|>system\n' + {_SMOL3!r} }}}}{{%- if messages[0].role == 'system' %}}"
        "{{- messages[0].content + '\n\n' }}{%- set messages = messages[1:] %}{%- else %}"
        f"{{{{- {_ASKS_TO_THINK!r} + '\n\n' }}}}{{%- endif %}}" + _chatml("", more=_NO_THINKING),
        **_IM, alone=f"<|im_start|>system\n{_SMOL3}{_ASKS_TO_THINK}\n\n" + _chatml_renders()["alone"],
        with_system=f"<|im_start|>system\n{_SMOL3}{{s}}\n\n" + _chatml_renders()["alone"],
        reasoning=("think", False, True),
    ),
    "gpt-oss": Family(
        f"{{{{- {_HARMONY_SYSTEM!r} }}}}{{%- if messages[0].role == 'system' %}}"
        "{{- '<|start|>developer<|message|># Instructions\n\n' + messages[0].content + '\n\n<|end|>' }}"
        "{%- set messages = messages[1:] %}{%- endif %}{%- for m in messages %}{%- if m.role == 'assistant' %}"
        "{%- if m.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
        "{%- endif %}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- else %}"
        "{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>"), None, "<|return|>",
        _HARMONY_SYSTEM + "<|start|>user<|message|>{u}<|end|><|start|>assistant",
        _HARMONY_SYSTEM + "<|start|>developer<|message|># Instructions\n\n{s}\n\n<|end|>"
        "<|start|>user<|message|>{u}<|end|><|start|>assistant",
        ("harmony", False, True), "<|return|>",
    ),
    "GLM-4": Family(
        _glm("<|assistant|>\n"), **_GLM, alone="[gMASK]<sop><|user|>\n{u}<|assistant|>\n",
        with_system="[gMASK]<sop><|system|>\n{s}<|user|>\n{u}<|assistant|>\n",
        reasoning=("think", False, False), end="<|endoftext|>",
    ),
    "GLM-4.5": Family(
        _glm("<|assistant|>", _NO_THINKING, _DROPS), **_GLM, alone="[gMASK]<sop><|user|>\n{u}<|assistant|>",
        with_system="[gMASK]<sop><|system|>\n{s}<|user|>\n{u}<|assistant|>",
        reasoning=("think", False, True), end="<|endoftext|>",
    ),
    "OLMo-3 Think": Family(
        "{%- set own = 'you are olmo.' %}{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
        "{%- set messages = messages[1:] %}{%- endif %}"
        f"{{{{- '<|im_start|>system\n' + own + {_OLMO!r} + '<|im_end|>\n' }}}}"
        + _chatml("", _CHATML_HEADER + "<think>"),
        **_IM, alone=f"<|im_start|>system\nyou are olmo.{_OLMO}<|im_end|>\n"
        + _chatml_renders("", _CHATML_HEADER + "<think>")["alone"],
        with_system=f"<|im_start|>system\n{{s}}{_OLMO}<|im_end|>\n"
        + _chatml_renders("", _CHATML_HEADER + "<think>")["alone"],
        reasoning=("think", True, True),
    ),
    "Granite 3.3": Family(
        "{%- set own = 'you are granite.' %}"
        "{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
        "{%- set messages = messages[1:] %}{%- elif thinking %}"
        "{%- set own = own + ' use <think></think> and <response></response>.' %}{%- endif %}"
        "{{- '<|start_of_role|>system<|end_of_role|>' + own + '<|end_of_text|>\n' }}{%- for m in messages %}"
        "{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}",
        ("<|start_of_role|>", "<|end_of_role|>"), "<|end_of_text|>", "<|end_of_text|>",
        "<|start_of_role|>system<|end_of_role|>you are granite.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>{u}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>{s}<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>{u}"
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        ("granite", False, False), "<|end_of_text|>",
    ),
}  # fmt: skip
