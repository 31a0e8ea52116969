"""The published form: export and back without loss, recognised by its tensors, and only what is needed is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.common.errors import UserError
from src.model import tensor_files
from src.model.adapter_files import load_adapters
from src.model.checkpoints import (
    CONFIG_FILE,
    Checkpoint,
    load_audio_embedder,
    open_checkpoint,
    save_checkpoint,
)
from src.model.encoders.load import load_encoder
from src.model.export import export_adapters, export_published, import_published, write_shards
from src.model.llm import load_input_embeddings, load_llm
from src.model.published import known_models, model_config
from src.model.tensor_files import INDEX_FILE, WEIGHTS_FILE, TensorFiles
from tests.support.tiny_models import FULL_MODELS, MINI_MODELS, mini_audio_embedder

SHARD_BYTES = 3_000_000


def make(folder: Path, name: str = "mini_alarm_ca", *, explicit: bool = False) -> Path:
    overrides = ["model.config.use_explicit_audio_tokens=true"] if explicit else []
    audio_embedder = mini_audio_embedder(name, *overrides)
    from tests.support.tiny_models import model_config as with_overrides

    return save_checkpoint(folder, audio_embedder, with_overrides(name, *overrides))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(ours, the same in the published form)."""
    base = tmp_path_factory.mktemp("published")
    ours = make(base / "ours")
    return ours, export_published(open_checkpoint(ours), base / "whole", SHARD_BYTES)


def test_the_two_forms_never_share_a_folder(exported: tuple[Path, Path]) -> None:
    ours, whole = exported
    with pytest.raises(UserError, match="holds a checkpoint already"):
        export_published(open_checkpoint(ours), ours)
    with pytest.raises(UserError, match="holds a published checkpoint"):
        import_published(open_checkpoint(ours), whole)


def test_another_language_model_is_not_asked_for_at_the_pinned_commit() -> None:
    from tests.support.tiny_models import model_config as with_overrides

    assert with_overrides("alarm_ca").llm_revision
    assert with_overrides("alarm_ca", "model.llm=someone/llama").llm_revision is None


def test_a_killed_export_can_be_started_again(tmp_path: Path) -> None:
    """Its unfinished file counted as a checkpoint, and the folder was refused."""

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield "first", torch.zeros(4)
        yield "second", torch.zeros(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tensors(), tmp_path, shard_bytes=16)
    assert list(tmp_path.iterdir()) and not list(tmp_path.glob("*.safetensors"))
    write_shards([("first", torch.ones(4)), ("second", torch.ones(4))], tmp_path, shard_bytes=16)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_published_form_has_the_published_names(exported: tuple[Path, Path]) -> None:
    whole = exported[1]
    index = json.loads((whole / INDEX_FILE).read_text())
    names = set(index["weight_map"])
    assert "model.embed_tokens.weight" in names and "model.norm.weight" in names and "lm_head.weight" not in names
    assert "model.audio_encoder.encoders.sslam.encoder.model.extra_tokens" in names
    assert "model.audio_adapter.adapters.muq.layer_fusion.layer_weights" in names
    assert {"model.audio_start_emb", "model.audio_end_emb"} <= names
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and all((whole / file).stat().st_size < SHARD_BYTES * 1.2 for file in files)
    stored = {name: tensor for file in files for name, tensor in load_file(whole / file).items()}
    assert set(stored) == names
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())
    assert not list(whole.glob(".part*"))


def test_there_and_back_without_loss(exported: tuple[Path, Path], tmp_path: Path) -> None:
    ours, whole = exported
    again = import_published(open_checkpoint(whole), tmp_path / "again")
    before, after = load_file(ours / WEIGHTS_FILE), load_file(again / WEIGHTS_FILE)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert open_checkpoint(again).config == open_checkpoint(ours).config
    half = import_published(open_checkpoint(whole), tmp_path / "half", torch.bfloat16)
    assert (half / WEIGHTS_FILE).stat().st_size < 0.6 * (ours / WEIGHTS_FILE).stat().st_size
    assert open_checkpoint(again).digest() == open_checkpoint(whole).digest() == open_checkpoint(ours).digest()


def test_audio_embedders_of_both_forms_compute_the_same(exported: tuple[Path, Path]) -> None:
    ours, whole = (load_audio_embedder(folder).audio_embedder for folder in exported)
    expected, state = ours.state_dict(), whole.state_dict()
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert not any(tensor.is_meta for tensor in [*whole.parameters(), *whole.buffers()])
    assert not any(parameter.requires_grad for parameter in whole.parameters())


@pytest.mark.parametrize("name", MINI_MODELS)
def test_a_published_checkpoint_without_our_configuration_is_recognised(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = export_published(open_checkpoint(make(tmp_path / "ours", name)), tmp_path / "whole")
    (whole / CONFIG_FILE).unlink()
    expected = open_checkpoint(tmp_path / "ours").config
    assert open_checkpoint(whole).config == expected, "config.json alone gives the whole configuration"
    (whole / "config.json").unlink()
    with caplog.at_level("WARNING"):
        found = open_checkpoint(whole).config
    assert found.config.audio_fusion_config == expected.config.audio_fusion_config
    assert found.config.audio_adapter_config == expected.config.audio_adapter_config
    assert found.llm == expected.llm
    assert f"recognised as {name} by its tensors" in caplog.text and "layers of " in caplog.text


def test_explicit_tags_are_recognised_by_the_missing_separators(tmp_path: Path) -> None:
    ours = make(tmp_path / "ours", "mini_whisper", explicit=True)
    whole = export_published(open_checkpoint(ours), tmp_path / "whole")
    (whole / CONFIG_FILE).unlink()
    assert open_checkpoint(whole).config.config.use_explicit_audio_tokens, "from config.json"
    (whole / "config.json").unlink()
    assert open_checkpoint(whole).config.config.use_explicit_audio_tokens


def test_an_unknown_model_is_described(tmp_path: Path) -> None:
    whole = export_published(open_checkpoint(make(tmp_path / "ours", "mini_whisper")), tmp_path / "whole", 10**9)
    (whole / CONFIG_FILE).unlink()
    file = whole / "model-00001-of-00001.safetensors"
    state = load_file(file)
    state["model.audio_adapter.adapters.whisper.llm_proj.bias"] = torch.zeros(7)
    save_file(state, file)
    with pytest.raises(UserError, match=r"config.json disagrees with the tensors: audio_adapter.* is \(7,\), config"):
        _ = open_checkpoint(whole).config
    (whole / "config.json").unlink()
    with pytest.raises(UserError, match=r"mini_whisper differs in audio_adapter.adapters.whisper.llm_proj.bias"):
        _ = open_checkpoint(whole).config


def test_all_models_are_known() -> None:
    assert set(known_models()) >= {*FULL_MODELS, *MINI_MODELS} and "default_inference" not in known_models()
    assert model_config("alarm_ca").llm_revision


def test_only_the_files_with_needed_tensors_are_fetched(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """The LLM's layers are never asked for: here their files do not even exist."""
    whole = exported[1]
    weight_map = json.loads((whole / INDEX_FILE).read_text())["weight_map"]
    needed = {file for name, file in weight_map.items() if name.startswith("model.audio_")}
    assert needed < set(weight_map.values())
    partial = tmp_path / "partial"
    partial.mkdir()
    for file in [*needed, INDEX_FILE, CONFIG_FILE]:
        (partial / file).symlink_to(whole / file)
    asked: list[str] = []
    original = tensor_files.folder_files(partial)

    def fetch(file: str) -> Path | None:
        asked.append(file)
        return original(file)

    tensors = TensorFiles.open("partial", fetch)
    assert tensors is not None
    checkpoint = Checkpoint("partial", tensors, partial / CONFIG_FILE, partial)
    checkpoint.state()
    checkpoint.encoder("muq")
    assert set(asked) <= needed | {INDEX_FILE}
    load_audio_embedder(partial)
    (partial / sorted(needed)[0]).unlink()
    with pytest.raises(UserError, match=r"is missing, it should hold model\.audio_"):
        load_audio_embedder(partial)


def test_every_misfit_of_an_encoder_is_named(exported: tuple[Path, Path], tmp_path: Path) -> None:
    whole = export_published(open_checkpoint(exported[0]), tmp_path / "whole", 10**9)
    file = whole / "model-00001-of-00001.safetensors"
    state = load_file(file)
    prefix = "model.audio_encoder.encoders.whisper.encoder."
    del state[f"{prefix}conv1.bias"]
    state[f"{prefix}conv2.bias"] = torch.zeros(5)
    save_file(state, file)
    index = json.loads((whole / INDEX_FILE).read_text())
    del index["weight_map"][f"{prefix}conv1.bias"]
    (whole / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"missing: encoder\.conv1\.bias; misshapen: encoder\.conv2\.bias is \(5,\)"):
        load_audio_embedder(whole)


def test_bfloat16_audio_embedder_is_close_and_half_the_size(exported: tuple[Path, Path]) -> None:
    loaded = load_audio_embedder(exported[1], dtype=torch.bfloat16, encoder_dtype=torch.bfloat16)
    kept = {name for name, tensor in loaded.audio_embedder.state_dict().items() if tensor.dtype == torch.float32}
    assert kept == {name for name in kept if name.endswith("inv_freq")}
    exact = load_audio_embedder(exported[1])
    from src.audio.waveform import Waveform

    clip = [Waveform(torch.randn(1, 40000, generator=torch.Generator().manual_seed(0)) * 0.1, 16000)]
    with torch.inference_mode():
        short = loaded.audio_embedder(loaded.feature_extractor(clip))[0].float()
        long = exact.audio_embedder(exact.feature_extractor(clip))[0]
    assert torch.nn.functional.cosine_similarity(short, long, dim=-1).min() > 0.98


def test_input_embeddings_alone(exported: tuple[Path, Path]) -> None:
    import src.hf  # noqa: F401  # the config of the published form is then one that transformers knows

    llm, _ = load_llm("assets/mini/llm")
    for source in ("assets/mini/llm", str(exported[1])):
        table = load_input_embeddings(source)
        assert torch.equal(table.weight, llm.get_input_embeddings().weight) and not table.weight.requires_grad


def test_the_exported_language_model_loads_by_transformers(exported: tuple[Path, Path]) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(exported[1]).eos_token == "<|im_end|>"
    llm, _ = load_llm("assets/mini/llm")
    state = llm.state_dict()
    for name, tensor in open_checkpoint(exported[1]).tensors.read(["model.layers.0.mlp.up_proj.weight"]):
        assert torch.equal(tensor, state[name])


def test_adapters_taken_out_of_checkpoints(exported: tuple[Path, Path], tmp_path: Path) -> None:
    single = make(tmp_path / "single", "mini_muq")
    written = export_adapters([str(exported[1])], tmp_path / "adapters", ["whisper", "sslam"])
    assert set(written) == {"whisper", "sslam"}
    audio_embedder = mini_audio_embedder("mini_alarm_ca", seed=9)
    load_adapters(audio_embedder, tmp_path / "adapters", ["whisper", "sslam"])
    expected = load_file(exported[0] / WEIGHTS_FILE)
    for name, value in audio_embedder.trained_state().items():
        if name.startswith(("audio_adapter.adapters.whisper.", "audio_adapter.adapters.sslam.")):
            assert torch.equal(value, expected[name]), name
    with pytest.raises(UserError, match="the adapter muq is in"):
        export_adapters([str(single), str(exported[0])], tmp_path / "more")
    with pytest.raises(UserError, match="no adapter clap"):
        export_adapters([str(single)], tmp_path / "more", ["clap"])


def test_encoders_load_from_the_shipped_folders_in_bfloat16() -> None:
    config = model_config("mini_alarm_ca").config
    for name, spec in config.encoders.items():
        encoder = load_encoder(name, spec, dtype=torch.bfloat16)
        assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}


def test_from_the_hub_only_the_shards_of_the_audio_embedder_come(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    whole = exported[1]
    asked: list[tuple[str, str | None]] = []

    def info(self: object, name: str, revision: str | None, timeout: float) -> object:
        return SimpleNamespace(sha="c0ffee")

    def fetch(repo: str, file: str, revision: str | None, local_files_only: bool) -> str:
        assert repo == "someone/ALARM-CA" and not local_files_only
        if file == CONFIG_FILE or not (whole / file).is_file():
            raise EntryNotFoundError(f"no {file}")
        asked.append((file, revision))
        return str(whole / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    loaded = load_audio_embedder("someone/ALARM-CA")
    assert loaded.config.config.audio_fusion_config.fusion_type == "crossattention"
    weight_map = json.loads((whole / INDEX_FILE).read_text())["weight_map"]
    needed = {file for name, file in weight_map.items() if name.startswith("model.audio_")}
    assert {file for file, _ in asked} == needed | {INDEX_FILE, "config.json"} and needed < set(weight_map.values())
    assert {revision for _, revision in asked} == {"c0ffee"}, "all files come from one commit"


def test_without_a_connection_the_cached_files_do(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(self: object, name: str, **options: object) -> None:
        raise ConnectionError("no route")

    def cached(repo: str, file: str, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        if not (exported[0] / file).is_file():
            raise LocalEntryNotFoundError(f"{file} is not in the cache")
        return str(exported[0] / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    assert open_checkpoint("someone/ours").digest() == open_checkpoint(exported[0]).digest()
