"""LoRA on the language model: what it changes and what it leaves alone, PEFT's format, merging, mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from src.common.errors import ConfigError, UserError
from src.model.alarm import AlarmModel
from src.model.card import model_card, stage_upload
from src.model.checkpoints import CONFIG_FILE, load_state, open_checkpoint, save_checkpoint, shared_lora
from src.model.export import export_adapters, export_published, import_published
from src.model.llm import load_llm, weights_digest
from src.model.lora import LoraConfig, add_lora, base_digest, has_lora, lora_tensors
from src.model.lora_files import FOLDER, SETTINGS, WEIGHTS, attach_lora, lora_of, read_lora, write_merged
from tests.model.test_alarm import audio_embedder, batch
from tests.support.tiny_llm import save_tiny_llm
from tests.support.tiny_models import mini_audio_embedder, model_config, tiny_llm

LORA = LoraConfig(r=4, target_modules=("q_proj", "down_proj"))


def stir(llm: nn.Module, seed: int = 3, scale: float = 0.3) -> None:
    """LoRA weights as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for value in lora_tensors(llm).values():
        value.copy_(torch.randn(value.shape, generator=generator) * scale)


def model(config: LoraConfig = LORA, llm: Any = None) -> AlarmModel:
    llm = llm or tiny_llm()
    add_lora(llm, config, "tiny")
    return AlarmModel(audio_embedder(), llm)


def half_of_the_batch() -> dict[str, Any]:
    """In float32, as models are held here."""
    return batch()


def loss(alarm: AlarmModel) -> torch.Tensor:
    torch.manual_seed(0)
    return alarm(half_of_the_batch())["loss"]


def test_new_layers_change_nothing() -> None:
    plain = AlarmModel(audio_embedder(), tiny_llm()).eval()
    alarm = model().eval()
    assert torch.equal(loss(plain), loss(alarm))
    assert base_digest(alarm.llm) == weights_digest(plain.llm) != weights_digest(alarm.llm)
    assert len(lora_tensors(alarm.llm)) == 4 and not lora_tensors(plain.llm) and not has_lora(plain.llm)


def test_training_moves_lora_and_not_the_base() -> None:
    alarm = model().train()
    before = base_digest(alarm.llm)
    start = {name: value.clone() for name, value in lora_tensors(alarm.llm).items()}
    trained = [name for name, value in alarm.llm.named_parameters() if value.requires_grad]
    assert len(trained) == 4 and all(".lora_" in name for name in trained)
    optimiser = torch.optim.SGD([p for p in alarm.parameters() if p.requires_grad], lr=0.5)
    first = loss(alarm)
    for _ in range(3):
        optimiser.zero_grad()
        loss(alarm).backward()
        optimiser.step()
    assert base_digest(alarm.llm) == before
    assert all(not torch.equal(value, start[name]) for name, value in lora_tensors(alarm.llm).items())
    assert loss(alarm.eval()) < first


def test_layers_are_held_in_float32_beside_a_half_precision_model() -> None:
    alarm = model(llm=tiny_llm().bfloat16())
    assert {value.dtype for value in lora_tensors(alarm.llm).values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss(alarm.train()).backward()
    assert all(p.grad is not None for p in alarm.llm.parameters() if p.requires_grad)


def test_dropout_of_lora_follows_the_mode_and_the_model_does_not() -> None:
    alarm = model(dataclasses.replace(LORA, dropout=0.5))
    stir(alarm.llm)
    alarm.audio_embedder.requires_grad_(False).eval()
    alarm.train()
    alarm.audio_embedder.eval()
    assert not alarm.llm.training and not alarm.llm.model.layers[0].self_attn.q_proj.base_layer.training
    torch.manual_seed(1)
    first = alarm(half_of_the_batch())["loss"]
    assert alarm._plain_head, "the probe of the output layer is not disturbed by dropout"
    assert first != alarm(half_of_the_batch())["loss"]
    alarm.eval()
    assert torch.equal(loss(alarm), loss(alarm))


def test_the_same_loss_where_logits_are_not_a_plain_layer() -> None:
    """Families that cap their logits go by the hook on the output layer."""
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=61, hidden_size=192, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    alarm = model(LoraConfig(r=2), transformers.AutoModelForCausalLM.from_config(config))
    alarm.eval()
    before = loss(alarm)
    stir(alarm.llm)
    assert not alarm._plain_head and loss(alarm) != before


def test_all_linear_layers_but_the_output() -> None:
    llm = tiny_llm()
    add_lora(llm, LoraConfig(r=2))
    names = {name.split(".lora_")[0].split(".")[-1] for name in lora_tensors(llm)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_layers_that_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer w_proj; this model has .*q_proj"):
        add_lora(tiny_llm(), LoraConfig(r=2, target_modules=("q_proj", "w_proj")))
    with pytest.raises(ConfigError, match="the layer of the output cannot be trained"):
        add_lora(tiny_llm(), LoraConfig(r=2, target_modules=("lm_head",)))
    for wrong in ({"r": 0}, {"r": 2, "dropout": 1.0}, {"r": 2, "alpha": 0}, {"r": 2, "target_modules": "q_proj"}):
        with pytest.raises(ValueError, match="expected"):
            LoraConfig(**wrong)  # type: ignore[arg-type]
    assert LoraConfig(r=8).alpha == 16


# ---- checkpoints


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any, Any]:
    """(checkpoint, audio embedder, LLM with LoRA) on the disk and in memory."""
    source = save_tiny_llm(tmp_path / "llm")
    return make(tmp_path / "run", source)


def make(folder: Path, source: Path, seed: int = 3) -> tuple[Path, Any, Any]:
    llm, _ = load_llm(str(source))
    add_lora(llm, LORA, str(source))
    stir(llm, seed)
    config = dataclasses.replace(model_config("mini_whisper", f"model.llm={source}"), lora=LORA)
    front = mini_audio_embedder("mini_whisper")
    return save_checkpoint(folder, front, config, llm=llm), front, llm


def logits(llm: Any) -> torch.Tensor:
    with torch.no_grad():
        return llm(torch.arange(3, 20)[None], use_cache=False).logits


def test_peft_reads_the_folder_as_it_is(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, _, llm = saved
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == [SETTINGS, WEIGHTS]
    base, _ = load_llm(str(tmp_path / "llm"))
    plain = logits(base)
    theirs = logits(peft.PeftModel.from_pretrained(base, str(folder / FOLDER)))
    assert torch.equal(theirs, logits(llm)) and not torch.allclose(theirs, plain)


def test_round_trip_is_bit_equal(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, front, llm = saved
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.lora == LORA and checkpoint.lora_folder == folder / FOLDER
    fresh, _ = load_llm(str(tmp_path / "llm"))
    add_lora(fresh, LORA)
    load_state(front, fresh, folder)
    expected = lora_tensors(llm)
    assert all(torch.equal(value, expected[name]) for name, value in lora_tensors(fresh).items())
    attached, _ = load_llm(str(tmp_path / "llm"))
    attach_lora(attached, read_lora(folder / FOLDER), "here")
    assert torch.equal(logits(attached), logits(llm))
    assert not any(parameter.requires_grad for parameter in attached.parameters())
    other, _, _ = make(tmp_path / "other", tmp_path / "llm", seed=4)
    assert open_checkpoint(other).digest() != checkpoint.digest() != open_checkpoint(plain_of(folder)).digest()


def plain_of(folder: Path) -> Path:
    """The same audio embedder without LoRA."""
    checkpoint = open_checkpoint(folder)
    config = dataclasses.replace(checkpoint.config, lora=None)
    return save_checkpoint(folder.parent / "plain", mini_audio_embedder("mini_whisper"), config)


def test_a_checkpoint_without_lora_is_as_before(saved: tuple[Path, Any, Any]) -> None:
    plain = plain_of(saved[0])
    assert not (plain / FOLDER).exists() and "lora" not in json.loads((plain / CONFIG_FILE).read_text())["model"]
    assert open_checkpoint(plain).lora_folder is None and open_checkpoint(plain).lora() is None


def test_nothing_is_left_of_an_earlier_run_in_the_folder(saved: tuple[Path, Any, Any]) -> None:
    folder, front, _ = saved
    config = dataclasses.replace(open_checkpoint(folder).config, lora=None)
    save_checkpoint(folder, front, config)
    assert not (folder / FOLDER).exists()


def test_what_does_not_fit_is_told(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, front, llm = saved
    bare, _ = load_llm(str(tmp_path / "llm"))
    with pytest.raises(UserError, match=r"trained with LoRA; give lora\.r=4 lora\.alpha=8"):
        load_state(front, bare, folder)
    with pytest.raises(UserError, match=r"trained without LoRA; leave lora\.r out"):
        load_state(front, llm, plain_of(folder))
    add_lora(bare, LoraConfig(r=4, alpha=16, target_modules=LORA.target_modules))
    with pytest.raises(UserError, match=r"r=4, alpha=8, this run has r=4, alpha=16"):
        load_state(front, bare, folder)
    more, _ = load_llm(str(tmp_path / "llm"))
    add_lora(more, LoraConfig(r=4, target_modules=("q_proj", "v_proj")))
    with pytest.raises(UserError, match=r"does not fit the language model: missing: .*v_proj.*not expected: .*down"):
        load_state(front, more, folder)


def test_broken_and_missing_files(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder = saved[0]
    state = load_file(folder / FOLDER / WEIGHTS)
    name = sorted(state)[0]
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, folder / FOLDER / WEIGHTS)
    with pytest.raises(UserError, match="not finite"):
        attach_lora(load_llm(str(tmp_path / "llm"))[0], read_lora(folder / FOLDER), "here")
    (folder / FOLDER / WEIGHTS).write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        open_checkpoint(folder).lora()
    (folder / FOLDER / SETTINGS).write_text("{}")
    with pytest.raises(UserError, match="contains an adapter of type None"):
        open_checkpoint(folder).lora()
    (folder / FOLDER / SETTINGS).unlink()
    with pytest.raises(UserError, match=f"trained with LoRA, and {FOLDER}/{SETTINGS} is missing"):
        open_checkpoint(folder).lora()


def test_an_ensemble_has_one_language_model(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    same, _, _ = make(tmp_path / "same", tmp_path / "llm")
    other, _, _ = make(tmp_path / "other", tmp_path / "llm", seed=4)
    ours, twin, different, without = map(open_checkpoint, (saved[0], same, other, plain_of(saved[0])))
    assert shared_lora([ours, twin]) == saved[0] / FOLDER and shared_lora([without, without]) is None
    assert shared_lora([]) is None
    for wrong in (different, without):
        with pytest.raises(UserError, match="its members' LoRA differ"):
            shared_lora([ours, wrong])


# ---- merging and publishing


def test_merged_weights_give_the_same_logits(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, _, llm = saved
    before = weights_digest(load_llm(str(tmp_path / "llm"))[0])
    write_merged(str(tmp_path / "llm"), None, read_lora(folder / FOLDER), "here", tmp_path / "merged")
    merged, tokenizer = load_llm(str(tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(llm), rtol=1e-4, atol=1e-4)
    assert not has_lora(merged) and tokenizer.chat_template
    assert weights_digest(load_llm(str(tmp_path / "llm"))[0]) == before, "the source is as it was"


def test_the_published_form_holds_the_merged_model_and_lora(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, _, llm = saved
    whole = export_published(open_checkpoint(folder), tmp_path / "whole")
    merged, _ = load_llm(str(tmp_path / "llm"))
    stored = dict(open_checkpoint(whole).tensors.read(merged.state_dict().keys() - {"lm_head.weight"}))
    merged.load_state_dict(stored, strict=False)
    torch.testing.assert_close(logits(merged), logits(llm), rtol=1e-4, atol=1e-4)
    again = import_published(open_checkpoint(whole), tmp_path / "again")
    assert open_checkpoint(again).digest() == open_checkpoint(whole).digest() == open_checkpoint(folder).digest()
    assert open_checkpoint(again).config == open_checkpoint(folder).config


def test_an_upload_carries_lora_and_the_card_says_so(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved[0])
    staged = stage_upload(checkpoint, tmp_path / "staged", "me/model", "mit")
    assert open_checkpoint(staged).digest() == checkpoint.digest()
    assert "LoRA on the language model: r 4, alpha 8, layers q_proj, down_proj" in str(
        model_card(checkpoint, "a/b", "mit")
    )


def test_adapters_are_taken_out_without_lora(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    export_adapters([str(saved[0])], tmp_path / "adapters")
    assert open_checkpoint(tmp_path / "adapters" / "whisper").config.lora is None


def test_weights_and_configuration_belong_together(saved: tuple[Path, Any, Any], tmp_path: Path) -> None:
    assert lora_of(tiny_llm()) is None
    with pytest.raises(ValueError, match="belong together"):
        save_checkpoint(tmp_path / "x", saved[1], open_checkpoint(saved[0]).config)
