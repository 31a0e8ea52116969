"""How the miniature language model is fed: what of a sample is a log, and what blurring does to it."""

from __future__ import annotations

from itertools import islice

import torch
from transformers import AutoTokenizer

from examples.miniature.world.language_model import BLUR_REACH, IGNORE, batches, blur_logs, encode
from examples.miniature.world.text_samples import SampleMaker
from src.common.paths import ASSETS
from src.prompts.texts import load_prompts

TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "mini" / "llm")


def test_the_tokens_of_a_log_are_marked() -> None:
    samples = [sample for sample in islice(SampleMaker(load_prompts("mini"), 3), 200) if len(sample.logs) == 1]
    assert samples
    for sample in samples:
        encoded = encode(sample, TOKENIZER)
        marked = [token for token, in_log in zip(encoded.prompt, encoded.in_log, strict=True) if in_log]
        assert TOKENIZER.decode(marked).strip() == sample.logs[0]


def test_batches_mix_tasks_and_mark_targets() -> None:
    source = islice(SampleMaker(load_prompts("mini"), 3), 8)
    (first, second) = next(batches(source, TOKENIZER, 8))
    assert len(first.ids) + len(second.ids) == 8
    for part in (first, second):
        assert part.ids.shape == part.labels.shape == part.in_log.shape
        chosen = part.labels != IGNORE
        assert torch.equal(part.labels[chosen], part.ids[chosen])
        assert not (part.in_log & chosen).any()


def test_blurring_changes_only_logs_and_by_their_own_words() -> None:
    in_log = torch.zeros(2, 12, dtype=torch.bool)
    in_log[0, 3:9] = True
    embeddings = torch.eye(12).expand(2, 12, 12)
    blurred = blur_logs(embeddings, in_log, 1.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(blurred[~in_log], embeddings[~in_log])
    inside = blurred[0, 3:9]
    torch.testing.assert_close(inside.sum(-1), torch.ones(6))
    assert (inside.amax(-1) < 1).all()
    for place, weights in enumerate(inside, start=3):
        sources = weights.nonzero().flatten()
        assert sources.min() >= max(3, place - BLUR_REACH) and sources.max() <= min(8, place + BLUR_REACH)
    unchanged = blur_logs(embeddings, in_log, 0.0, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(unchanged, embeddings)
