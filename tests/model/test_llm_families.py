"""Families of language models in miniature: trained, generated from and scored as transformers does itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from src.audio.features import EncoderFeatures
from src.common.errors import UserError
from src.inference.engine import Engine
from src.inference.transformers_backend import TransformersBackend
from src.inference.types import Request, Sampling
from src.model.alarm import AlarmModel
from src.model.audio_embedder import AudioEmbedder
from src.model.llm import llm_config, llm_width, load_input_embeddings, load_llm, weights_digest
from src.model.splice import TokenizedTurn
from src.prompts.chat import chat_ids
from tests.support.llm_families import FAMILIES, TIED, WIDTH, save_family
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import StandInEncoder, model_config, stand_in_features

Loaded = tuple[Path, Any, Any]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """(folder, model, tokenizer) of one family, loaded as programs do."""
    root = tmp_path_factory.mktemp(request.param)
    folder = save_family(request.param, save_tiny_llm(root / "llm"), root / request.param)
    return (folder, *load_llm(str(folder), torch.float32))


def features() -> dict[str, EncoderFeatures]:
    return {"whisper": stand_in_features([14, 9], 96).to("cpu")}


def test_embeddings_are_those_that_ids_have(family: Loaded) -> None:
    """The logits of a prompt are the same from ids and from embeddings, also of a table that is read by itself."""
    folder, llm, tokenizer = family
    ids = torch.tensor([chat_ids(tokenizer, None, "which sound is this?")])
    from_ids = llm(input_ids=ids).logits
    assert llm_width(str(folder)) == WIDTH
    assert (llm.get_output_embeddings().weight is llm.get_input_embeddings().weight) == (folder.name in TIED)
    for table in (llm.get_input_embeddings(), load_input_embeddings(str(folder))):
        torch.testing.assert_close(llm(inputs_embeds=table(ids)).logits, from_ids, rtol=0, atol=0)
    scaled = load_input_embeddings(str(folder), dtype=torch.bfloat16)(ids)
    expected = load_llm(str(folder), torch.bfloat16)[0].get_input_embeddings()(ids)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=0)


def test_a_step_of_training(family: Loaded) -> None:
    """The loss of text is the model's own; with audio, a step lowers it and the model stays as it was."""
    _, llm, tokenizer = family
    torch.manual_seed(0)
    audio_embedder = AudioEmbedder(model_config("mini_whisper").config, WIDTH, {"whisper": StandInEncoder(96)})
    alarm = AlarmModel(audio_embedder.double(), llm).float().train()
    prompt, answer = chat_ids(tokenizer, None, "hm?"), tokenizer("a dog barks", add_special_tokens=False)["input_ids"]
    turns = [TokenizedTurn(prompt[:5], prompt[5:], answer), TokenizedTurn(prompt[:5], prompt[5:], answer[:4])]
    ids = torch.tensor([[*prompt, *answer]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    own = llm(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(alarm({"turns": turns[:1]})["loss"], own.float(), rtol=1e-4, atol=1e-5)
    before = weights_digest(llm)
    trained = [parameter for parameter in alarm.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1e-4)
    losses = []
    for _ in range(2):
        loss = alarm({"features": features(), "turns": turns})["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert weights_digest(llm) == before


def test_responses_and_scores(family: Loaded) -> None:
    """The engine on transformers writes what ``generate`` writes from ids, and scores as the model's loss does."""
    _, llm, tokenizer = family
    ids, option = chat_ids(tokenizer, None, "which sound?"), tokenizer("a dog", add_special_tokens=False)["input_ids"]
    request = Request("a", (ids,), options=(option,))
    [result] = Engine(TransformersBackend(llm), tokenizer).run([request], Sampling(12, greedy=True))
    expected = llm.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12)[0, len(ids) :].tolist()
    assert list(result.token_ids) == expected
    written = expected[:-1] if expected[-1] in tokenizer.all_special_ids else expected
    assert written[-1] not in tokenizer.all_special_ids
    closing = tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    logits = llm(input_ids=torch.tensor([[*ids, *written, *closing, *option]])).logits[0, -len(option) - 1 : -1]
    scores = -F.cross_entropy(logits, torch.tensor(option), reduction="none")
    assert result.option_logprobs is not None
    torch.testing.assert_close(torch.tensor(result.option_logprobs[0]), scores, rtol=1e-3, atol=1e-4)


def test_a_published_checkpoint_has_plain_embeddings(tmp_path: Path) -> None:
    folder = save_tiny_llm(tmp_path / "llm", width=32)
    (folder / "config.json").write_text('{"model_type": "qwen3_audio"}')
    table = load_input_embeddings(str(folder))
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(table(torch.tensor([3, 4])), stored[3:5])


def test_a_model_that_reads_ids_in_every_layer_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("gemma3n_text", num_hidden_layers=10).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="reads token ids in every layer.*such as Gemma 3"):
        llm_config(str(tmp_path))
