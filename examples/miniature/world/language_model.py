"""Trains the miniature reasoning language model from scratch, on text only.

Qwen3 architecture (transformers' class), its own byte-level BPE tokenizer, and the turn structure of Qwen3-Thinking:
the generation prompt ends with ``<think>`` and a newline.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.miniature.world.prompt_tasks import wrote_prompts
from examples.miniature.world.questions import CHOICE_KINDS, OPEN_KINDS
from examples.miniature.world.reading import TextSample
from examples.miniature.world.text_samples import LOG_SHARE, SampleMaker
from src.common.files import write_json
from src.common.log import get_logger
from src.model.precision import computes_bfloat16
from src.prompts.texts import Prompts, load_prompts

log = get_logger(__name__)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>", "<start_audio>", "<end_audio>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
IGNORE = -100
CURVE_FILE = "curve.json"
DECISIONS = (
    " loud", " soft", " absent", " none", " faint", " strong", " one", " two", " three", "yes", "no", " good", " bad",
)  # fmt: skip
NUMBERS = (" 0", " 1", " 2", " 3", "0", "1", "2", "3")
BLUR_REACH = 2
"""Distance in tokens up to which words are mixed into a blurred log."""
LENGTH_STEP = 32
"""Lengths are rounded up to a multiple of this: oneDNN caches kernels by shape, so few shapes are faster."""


@dataclass(frozen=True)
class Cycle:
    """Optimizer steps and peak learning rate: warm-up, then linear decay. Every cycle has a new optimizer and new
    samples.

    ``logs`` is the share of logs among descriptions in free form, ``blur`` the share of samples with blurred logs, so
    that the model learns inputs that are not exactly words. It must learn to copy first, and short captions teach
    that fastest: with blurred logs from the start it took more than 1600 steps. ``numbers`` is the weight of the
    options' numbers in the loss, because looking one up is learnt last.
    """

    steps: int
    learning_rate: float
    logs: float = LOG_SHARE
    blur: float = 0.0
    numbers: float = 1.0


@dataclass(frozen=True)
class MiniLLMConfig:
    """Sizes and schedule of the shipped model.

    Its first five cycles, and the training of its tokenizer, had none of the tasks of
    :mod:`examples.miniature.world.prompt_tasks`; the sixth cycle added them.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    vocabulary: int = 768
    cycles: tuple[Cycle, ...] = (
        Cycle(1300, 2e-3, logs=0.0),
        Cycle(1300, 2e-3),
        Cycle(1200, 2e-3, logs=0.2, numbers=5.0),
        Cycle(800, 1.2e-3, blur=0.7, numbers=5.0),
        Cycle(500, 1e-3, blur=0.8, numbers=5.0),
        Cycle(1600, 1.5e-3, blur=0.6, numbers=5.0),
    )
    batch_size: int = 24
    warmup: int = 100
    noise: float = 0.1
    """Maximum standard deviation of the noise in blurred logs; that of the embeddings is about 0.15."""
    decision_weight: float = 5.0
    bfloat16: bool = True
    """Where the CPU has kernels for it."""
    seed: int = 1


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; every tag is one token, and any text can be encoded."""
    bpe = Tokenizer(models.BPE())
    pattern = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAG_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(config: MiniLLMConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A new model with random weights."""
    torch.manual_seed(config.seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=math.ceil(len(tokenizer) / 64) * 64,
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


@dataclass(frozen=True)
class Encoded:
    """Token ids of the conversation, which of them belong to a log, and ids of the response with its end token."""

    prompt: list[int]
    in_log: list[bool]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def encode(sample: TextSample, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Tokenise a sample."""
    prompt = tokenizer.apply_chat_template(list(sample.messages), tokenize=False, add_generation_prompt=True)
    encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    in_log, begin = [False] * len(encoding.input_ids), 0
    for log in sample.logs:
        begin = prompt.index(log, begin)
        end = begin + len(log)
        for place, (_, stop) in enumerate(encoding.offset_mapping):
            in_log[place] |= begin < stop <= end
        begin = end
    response = tokenizer(sample.response, add_special_tokens=False).input_ids
    return Encoded(encoding.input_ids, in_log, [*response, tokenizer.eos_token_id])


@dataclass(frozen=True)
class PaddedBatch:
    """Right-padded samples: ``ids``, ``labels`` and ``in_log``, each (samples, length)."""

    ids: Tensor
    labels: Tensor
    in_log: Tensor


def batches(
    samples: Iterable[TextSample], tokenizer: PreTrainedTokenizerFast, size: int, parts: int = 2
) -> Iterator[list[PaddedBatch]]:
    """Batches of ``size`` samples of all tasks, each in ``parts`` of like length.

    Samples are not sorted across batches: with one task per batch each task would get one update in forty.
    """
    source = iter(samples)
    while True:
        drawn = sorted((encode(sample, tokenizer) for sample in islice(source, size)), key=len)
        yield [_pad(drawn[part * size // parts : (part + 1) * size // parts], tokenizer) for part in range(parts)]


def _pad(samples: Sequence[Encoded], tokenizer: PreTrainedTokenizerFast) -> PaddedBatch:
    length = -(-max(map(len, samples)) // LENGTH_STEP) * LENGTH_STEP
    ids = torch.full((len(samples), length), tokenizer.pad_token_id)
    labels = torch.full((len(samples), length), IGNORE)
    in_log = torch.zeros(len(samples), length, dtype=torch.bool)
    for row, sample in enumerate(samples):
        begin, end = len(sample.prompt), len(sample)
        ids[row, :end] = torch.tensor([*sample.prompt, *sample.response])
        labels[row, begin:end] = torch.tensor(sample.response)
        in_log[row, :begin] = torch.tensor(sample.in_log)
    return PaddedBatch(ids, labels, in_log)


def blur_logs(embeddings: Tensor, in_log: Tensor, share: float, noise: float, generator: torch.Generator) -> Tensor:
    """Mix every embedding of a log with those up to two places away, by random weights, and add noise.

    ``embeddings`` is ``(batch, length, dim)``, ``in_log`` ``(batch, length)``. A ``share`` of the rows is changed:
    there a position mixes several words, like an embedding made from audio; reach and evenness are drawn per row.
    ``noise`` is the maximum standard deviation.
    """
    batch, length, dim = embeddings.shape
    rows = torch.rand(batch, 1, generator=generator) < share
    chosen = (in_log & rows).unsqueeze(-1)
    shifts = range(-BLUR_REACH, BLUR_REACH + 1)
    reach = torch.rand(batch, 1, 1, generator=generator) * torch.tensor([-1.0 * abs(shift) for shift in shifts])
    unevenness = 1.5 * torch.rand(batch, 1, 1, generator=generator)
    weights = unevenness * torch.randn(batch, length, len(shifts), generator=generator) + reach
    inside = torch.stack([in_log.roll(shift, 1) for shift in shifts], -1)
    weights = weights.masked_fill(~inside, -torch.inf).masked_fill(~chosen, 0).softmax(-1).to(embeddings.dtype)
    mixed = sum(weights[..., place, None] * embeddings.roll(shift, 1) for place, shift in enumerate(shifts))
    strength = noise * torch.rand(batch, 1, 1, generator=generator)
    mixed = mixed + (strength * torch.randn(batch, length, dim, generator=generator)).to(embeddings.dtype)
    return torch.where(chosen, mixed, embeddings)


def decision_weights(
    tokenizer: PreTrainedTokenizerFast, vocabulary: int, weight: float, numbers: float = 1.0
) -> Tensor:
    """Weight of every token in the loss: ``weight`` for results of look-ups, ``numbers`` for the options' numbers.

    These are few among many copied tokens; without a higher weight they stay at chance level for long.
    """
    weights = torch.ones(vocabulary)
    for words, value in ((DECISIONS, weight), (NUMBERS, numbers)):
        for word in words:
            weights[tokenizer(word, add_special_tokens=False).input_ids[0]] = value
    return weights


def response_loss(model: Qwen3ForCausalLM, labels: Tensor, embeddings: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy summed over the response tokens of right-padded rows, weighted by ``weights`` (vocabulary,)."""
    hidden = model.model(inputs_embeds=embeddings).last_hidden_state
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    with torch.autocast(
        "cpu", enabled=False
    ):  # in float32: the row count always differs, so no bfloat16 kernel would be reused
        logits = functional.linear(hidden[:, :-1][chosen].float(), model.lm_head.weight)
    return functional.cross_entropy(logits, targets[chosen], weight=weights, reduction="sum")


def train_cycle(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    samples: Iterable[TextSample],
    config: MiniLLMConfig,
    cycle: int,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Train one cycle in place; returns its curve (cycle, step, loss, seconds)."""
    steps, peak, _, blur, numbers = astuple(config.cycles[cycle])
    optimizers = build_optimizers(model, peak)
    generator = torch.Generator().manual_seed(config.seed + cycle)
    weights = decision_weights(tokenizer, model.config.vocab_size, config.decision_weight, numbers)
    curve: list[dict[str, float]] = []
    running, began = 0.0, time.monotonic()
    model.train()
    for step, batch in enumerate(islice(batches(samples, tokenizer, config.batch_size), steps), 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = peak * _schedule(step, steps, config.warmup)
        targets = sum(int((part.labels != IGNORE).sum()) for part in batch)
        for part in batch:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16 and computes_bfloat16("cpu")):
                embeddings = model.model.embed_tokens(part.ids)
                embeddings = blur_logs(embeddings, part.in_log, blur, config.noise, generator)
                loss = response_loss(model, part.labels, embeddings, weights) / targets
            loss.backward()
            running += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            curve.append({"cycle": cycle, "step": step, "loss": running / 100, "seconds": time.monotonic() - began})
            log.info("cycle %d step %d loss %.4f (%.0f s)", cycle, step, running / 100, curve[-1]["seconds"])
            running = 0.0
            if checkpoint is not None and step % 500 == 0:
                save(model, tokenizer, checkpoint)
    return curve


def build_optimizers(model: Qwen3ForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    With AdamW only, look-ups were learnt four times later (loss 0.15 after 1300 steps instead of 350); see
    https://kellerjordan.github.io/posts/muon/.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: warm-up, then linear decay to a fiftieth."""
    return step / warmup if step < warmup else max(0.02, (steps - step) / max(1, steps - warmup))


@torch.inference_mode()
def evaluate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, samples: Sequence[TextSample], max_tokens: int = 256
) -> dict[str, dict[str, float]]:
    """Compare greedy answers with the references: ``{"n", "exact"}`` per task, and for ``all``.

    Any answer in a permitted form counts for guesses, and any list that suits the scene for prompts.
    """
    model.eval()
    tokenizer.padding_side = "left"
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    ordered = sorted(samples, key=lambda sample: len(sample.response))
    for begin in range(0, len(ordered), 128):
        part = ordered[begin : begin + 128]
        prompts = [
            tokenizer.apply_chat_template(list(s.messages), tokenize=False, add_generation_prompt=True) for s in part
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            max_new_tokens=max_tokens,
        )
        texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for sample, text in zip(part, texts, strict=True):
            right = _is_right(sample, text)
            for name in (sample.task, "all"):
                counts[name][0] += 1
                counts[name][1] += right
    return {name: {"n": n, "exact": right / n} for name, (n, right) in sorted(counts.items())}


def _is_right(sample: TextSample, text: str) -> bool:
    answer = text.split("</think>")[-1].strip()
    if sample.task == "guess":
        return "</think>" in text and (answer.startswith("<answer>") or answer == "i can not tell.")
    if sample.scene is not None:
        return wrote_prompts(text, sample.scene)
    return "</think>" in text and answer == sample.reference


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Save model and tokenizer in transformers' form."""
    model.save_pretrained(directory)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(directory)


def held_out_samples(prompts: Prompts, per_task: int, seed: int) -> list[TextSample]:
    """Samples in the corpora's layout, ``per_task`` of every question kind and of every other task."""
    maker = SampleMaker(prompts, seed)
    draws: list[Callable[[], TextSample]] = [partial(maker.open_question, kind, official=True) for kind in OPEN_KINDS]
    draws += [partial(maker.choice_question, kind, official=True) for kind in CHOICE_KINDS]
    draws += [maker.rephrase, maker.opposite, maker.guess]
    draws += [maker.write_prompts, maker.check_prompts, maker.check_response]
    return [draw() for draw in draws for _ in range(per_task)]


def train_mini_llm(
    out: Path,
    seed: int = 1,
    held_out: int = 100,
    threads: int | None = None,
    cycles: Sequence[Cycle] | None = None,
    continue_at: int = 0,
) -> dict[str, dict[str, float]]:
    """Train tokenizer and model, score held-out samples, and write all files to ``out``.

    The model is saved during and after every cycle; ``continue_at`` continues the one in ``out`` at that cycle.
    """
    if threads:
        torch.set_num_threads(threads)
    config = MiniLLMConfig(seed=seed) if cycles is None else MiniLLMConfig(seed=seed, cycles=tuple(cycles))
    prompts = load_prompts("mini")
    if continue_at:
        tokenizer = AutoTokenizer.from_pretrained(out)
        model = Qwen3ForCausalLM.from_pretrained(out)
        curve = json.loads((out / CURVE_FILE).read_text(encoding="utf-8"))
    else:
        maker = SampleMaker(prompts, seed)
        texts = (part for s in islice(maker, 4000) for part in (*(m["content"] for m in s.messages), s.response))
        tokenizer = train_tokenizer(texts, config.vocabulary)
        model, curve = build_model(config, tokenizer), []
    log.info("%d parameters, %d tokens", sum(p.numel() for p in model.parameters()), len(tokenizer))
    for cycle in range(continue_at, len(config.cycles)):
        maker = SampleMaker(prompts, seed + 1000 * cycle, config.cycles[cycle].logs)
        curve += train_cycle(model, tokenizer, maker, config, cycle, checkpoint=out)
        save(model, tokenizer, out)
        write_json(out / CURVE_FILE, curve)
    scores = evaluate(model, tokenizer, held_out_samples(prompts, held_out, seed + 1_000_000))
    maker = SampleMaker(prompts, seed + 2_000_000)
    logs = [maker.log_question(kind) for kind in OPEN_KINDS for _ in range(held_out)]
    record = {"config": asdict(config), "held_out": scores, "logs": evaluate(model, tokenizer, logs), "curve": curve}
    write_json(out / "scores.json", record)
    (out / CURVE_FILE).unlink()
    return scores
