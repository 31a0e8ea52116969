"""Checkpoints of the published system: ``config.json`` decides what no tensor shows, and bad ones end in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.model.adapter_files import load_adapters, read_adapter, write_adapter
from src.model.audio_embedder import AudioEmbedder, build_audio_embedder, build_feature_extractor
from src.model.checkpoints import CONFIG_FILE, load_audio_embedder, open_checkpoint, save_checkpoint
from src.model.export import export_published, import_published
from src.model.published import build_on_meta
from src.model.tensor_files import INDEX_FILE, WEIGHTS_FILE
from tests.support.published_checkpoint import RECORDED, WIDTH, by_hand, save_published
from tests.support.tiny_models import FULL_MODELS, mini_audio_embedder, model_config


@pytest.fixture(scope="module")
def built() -> AudioEmbedder:
    """The model of the recorded configuration, built by hand."""
    torch.manual_seed(3)
    audio_embedder = build_audio_embedder(by_hand(), WIDTH, encoder_weights=False).eval()
    for parameter in audio_embedder.parameters():  # large weights: another layer or head gives other numbers
        parameter.data.mul_(2.0)
    return audio_embedder


@pytest.fixture(scope="module")
def folder(built: AudioEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_published(tmp_path_factory.mktemp("published") / "checkpoint-7", built, RECORDED)


def embeddings(audio_embedder: AudioEmbedder) -> Tensor:
    clips = [Waveform(torch.randn(1, 40000, generator=torch.Generator().manual_seed(0)) * 0.1, 16000)]
    with torch.inference_mode():
        return audio_embedder(build_feature_extractor(audio_embedder.config)(clips))[0]


def test_config_json_gives_the_model_built_by_hand(built: AudioEmbedder, folder: Path) -> None:
    loaded = load_audio_embedder(folder)
    assert loaded.config.config == by_hand() and loaded.config.llm == "assets/mini/llm"
    assert torch.equal(embeddings(loaded.audio_embedder), embeddings(built))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["audio_adapter_configs"][0].update(audio_encoder_layers=[1, 2]),
        lambda content: content["audio_adapter_configs"][0].update(conformer_heads=2),
        lambda content: content["audio_fusion_config"].update(num_attention_heads=2),
        lambda content: content["audio_fusion_config"].update(use_skip_connection=False),
    ],
    ids=["layers", "conformer heads", "fusion heads", "skip connection"],
)
def test_what_no_tensor_shows_is_taken_from_config_json(
    change: Callable[[Any], None], built: AudioEmbedder, folder: Path, tmp_path: Path
) -> None:
    content = copy.deepcopy(RECORDED)
    change(content)
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).symlink_to(file)
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps(content))
    assert (embeddings(load_audio_embedder(other).audio_embedder) - embeddings(built)).abs().max() > 1e-3


def test_the_step_of_a_checkpoint_and_what_is_recorded_go_there_and_back(tmp_path: Path) -> None:
    config = model_config("mini_whisper")
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_whisper"), config, {"step": 30, "seed": 7})
    whole = export_published(open_checkpoint(ours), tmp_path / "whole")
    again = import_published(open_checkpoint(whole), tmp_path / "again")
    content = json.loads((again / CONFIG_FILE).read_text())
    assert content["extra"] == {"step": 30, "seed": 7, "source": str(whole)}
    assert content["model"] == json.loads((ours / CONFIG_FILE).read_text())["model"]
    (whole / CONFIG_FILE).unlink()
    (whole / "trainer_state.json").write_text('{"global_step": 12}')
    assert open_checkpoint(whole).extra == {"step": 12}


def test_the_exported_config_has_what_the_published_code_reads(tmp_path: Path) -> None:
    """The names of its constructor's arguments, the fields of Qwen3 under the names of transformers 4.57."""
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_alarm_ca"), model_config("mini_alarm_ca"))
    whole = export_published(open_checkpoint(ours), tmp_path / "whole")
    content = json.loads((whole / "config.json").read_text())
    assert set(RECORDED) - {"transformers_version"} <= set(content)
    assert content["model_type"] == "qwen3_audio"
    assert content["architectures"] == ["Qwen3AudioWrappedForCausalLM"]
    assert content["rope_theta"] == 10000.0 and content["rope_scaling"] is None
    assert content["hidden_size"] == content["audio_sep_d_embed"] == 192 and content["num_hidden_layers"] == 4
    names = ["whisper", "w2vbert", "sslam", "muq"]
    assert sorted(item["encoder_name"] for item in content["audio_encoder_configs"]) == sorted(names)
    for item in content["audio_adapter_configs"]:  # arguments without a default
        assert {"audio_encoder_layers", "adapter_embedding_dim", "llm_embedding_dim", "pre_average"} <= set(item)
    fusion = content["audio_fusion_config"]
    assert fusion["llm_embedding_dim"] == 192 and fusion["num_hidden_layers"] == [1, 1, 1]
    assert not any(str(value).startswith("/") for value in content.values())


def test_a_whole_checkpoint_is_exported_as_it_is(folder: Path, tmp_path: Path) -> None:
    """LLM and encoders are those of the checkpoint, not those of their repositories."""
    whole = export_published(open_checkpoint(folder), tmp_path / "whole", 2_000_000)
    given, written = ({} for _ in range(2))  # type: dict[str, Tensor], dict[str, Tensor]
    for source, into in ((folder, given), (whole, written)):
        for file in set(json.loads((source / INDEX_FILE).read_text())["weight_map"].values()):
            into |= load_file(source / file)
    assert given.keys() == written.keys() and all(torch.equal(given[name], written[name]) for name in given)
    kept = json.loads((whole / "config.json").read_text())
    assert kept == RECORDED
    assert open_checkpoint(whole).config == open_checkpoint(folder).config


def changed(folder: Path, tmp_path: Path, content: Any) -> Path:
    other = tmp_path / "changed"
    other.mkdir()
    for file in folder.iterdir():
        if file.name != "config.json":
            (other / file.name).symlink_to(file)
    (other / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return other


def one_line(call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        (
            ("audio_adapter_configs", 0, "adapter_embedding_dim"),
            32,
            ("config.json disagrees with the tensors", "(64,"),
        ),
        (
            ("audio_fusion_config", "num_hidden_layers"),
            [3],
            ("disagrees with the tensors", "condition_modules.muq.2"),
        ),
        (("hidden_size",), 96, ("config.json", "audio_sep_d_embed")),
        (("audio_encoder_configs", 0, "encoder_name"), "clap", ("unknown encoder 'clap'", "whisper")),
        (("audio_adapter_configs", 0, "adapter_name"), "linear", ("adapter_name", "linear")),
        (("audio_fusion_config", "fusion_type"), ["sum"], ("config.json is not the config",)),
        (("audio_fusion_config", "num_attention_heads"), 7, ("no model can be built", "divisible")),
        (("audio_fusion_config", "num_attention_heads"), 0, ("num_attention_heads",)),
        (("audio_adapter_configs", 0, "n_conf_layers"), 10**7, ("n_conf_layers", "10000000")),
        (("audio_fusion_config", "num_hidden_layers"), [10**7], ("num_hidden_layers", "10000000")),
        (("audio_adapter_configs", 0, "audio_encoder_layers"), [99], ("audio_encoder_layers", "99")),
        (("audio_adapter_configs", 0, "audio_encoder_layers"), "all", ("audio_encoder_layers",)),
        (("audio_adapter_configs",), {"whisper": {}}, ("audio_adapter_configs",)),
        (("audio_adapter_configs",), [1], ("audio_adapter_configs",)),
        (("audio_fusion_config",), 5, ("audio_fusion_config",)),
        (("hidden_size",), "wide", ("config.json",)),
        (("use_explicit_audio_tokens",), "maybe", ("use_explicit_audio_tokens",)),
        (("audio_postprocessing_config",), {"postprocessing_type": "pool"}, ("audio_postprocessing_config",)),
    ],
)
def test_a_config_that_is_wrong_or_disagrees_ends_in_one_line(
    path: tuple[Any, ...], value: Any, parts: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    content = copy.deepcopy(RECORDED)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    one_line(lambda: load_audio_embedder(changed(folder, tmp_path, content)), "changed", *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"audio_encoder_configs": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[1]", "expected an object"),
        ("{", "cannot be read as JSON"),
        ("\x00", "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_no_config_ends_in_one_line(text: str, part: str, folder: Path, tmp_path: Path) -> None:
    one_line(lambda: load_audio_embedder(changed(folder, tmp_path, text)), "config.json", part)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"model.audio_start_emb": "../../secret.safetensors"},
        {"model.audio_start_emb": "/etc/passwd"},
        {"model.audio_start_emb": "model.bin"},
        {"model.audio_start_emb": 5},
        ["model.safetensors"],
        None,
    ],
)
def test_an_index_names_files_of_its_folder_only(weight_map: Any, folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path, RECORDED)
    (other / INDEX_FILE).unlink()
    (other / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    one_line(lambda: load_audio_embedder(other), INDEX_FILE)


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("config", "encoders", "whisper", "architecture", "num_layers"), 10**7, "num_layers is 10000000"),
        (("config", "encoders", "whisper", "architecture", "width"), 97, "divi"),
        (("config", "audio_adapter_config", "whisper", "downsampler_depth"), 10**7, "downsampler_depth is 10000000"),
        (("config", "audio_adapter_config", "whisper", "adapter_embedding_dim"), -1, "adapter_embedding_dim is -1"),
        (("config", "init_std"), "wide", "init_std"),
        (("llm_embedding_dim",), 10**7, "instead of (1, 10000000)"),
        (("config",), [], "config"),
        (("lora",), {"r": 100_000}, "r is 100000, expected 1 to 4096"),
    ],
)
def test_our_configuration_may_come_from_anybody_too(
    path: tuple[str, ...], value: Any, part: str, tmp_path: Path
) -> None:
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_whisper"), model_config("mini_whisper"))
    content = json.loads((ours / CONFIG_FILE).read_text())
    inner = content["model"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (ours / CONFIG_FILE).write_text(json.dumps(content))
    one_line(lambda: load_audio_embedder(ours), part)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_no_training_gives_are_named(value: float, tmp_path: Path) -> None:
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_whisper"), model_config("mini_whisper"))
    state = load_file(ours / WEIGHTS_FILE)
    state["audio_start_emb"][0, 0] = value
    save_file(state, ours / WEIGHTS_FILE)
    one_line(lambda: load_audio_embedder(ours), "audio_start_emb", "not finite" if value != 3e38 else "beyond")


class Trap:
    """Pickled, it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_adapters_as_pth_files(tmp_path: Path) -> None:
    """The state dict of the published module has the names that ours has, without prefix."""
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_muq", seed=4), model_config("mini_muq"))
    path = write_adapter(open_checkpoint(ours), "muq", tmp_path / "adapters" / "muq.pth")
    stored = torch.load(path, weights_only=True)
    assert set(stored) == {"layer_fusion.layer_weights", "llm_proj.weight", "llm_proj.bias", "adapter.model.0.weight",
                           "adapter.model.0.bias", "adapter.model.2.weight", "adapter.model.2.bias"}  # fmt: skip
    audio_embedder = mini_audio_embedder("mini_alarm_ca", seed=9)
    load_adapters(audio_embedder, tmp_path / "adapters", ["muq"])
    for name, value in load_file(ours / WEIGHTS_FILE).items():
        if name.startswith("audio_adapter."):
            assert torch.equal(audio_embedder.trained_state()[name], value)
    one_line(
        lambda: write_adapter(open_checkpoint(ours), "whisper", tmp_path / "whisper.pth"), "no adapter of whisper"
    )


def test_a_pth_file_that_is_no_state_dict_of_the_adapter(tmp_path: Path) -> None:
    audio_embedder = mini_audio_embedder("mini_alarm_ca")
    trap = tmp_path / "executed"
    path = tmp_path / "muq.pth"

    def load() -> None:
        load_adapters(audio_embedder, tmp_path, ["muq"])

    for content, parts in (
        (Trap(trap), ("objects other than tensors", "the muq adapter")),
        (nn.Linear(2, 2), ("objects other than tensors",)),
        ([torch.zeros(1)], ("contains a list",)),
        ({"model": {"a": torch.zeros(1)}}, ("a mapping with model",)),
        ({}, ("a mapping with nothing",)),
        ({"llm_proj.weight": torch.zeros(3, 3)}, ("missing:", "other shape:", "(3, 3) instead of")),
    ):
        torch.save(content, path)
        one_line(load, "muq.pth", *parts)
    assert not trap.exists()
    for data in (b"", b"PK\x03\x04 cut", path.read_bytes()[:200]):
        path.write_bytes(data)
        one_line(load, "muq.pth", "cannot be read")
    one_line(lambda: read_adapter(tmp_path / "none.pth", "muq"), "no such file")
    one_line(lambda: load_adapters(audio_embedder, tmp_path, ["whisper"]), "no whisper.pth and no folder whisper")
    one_line(lambda: load_adapters(audio_embedder, tmp_path / "no", ["whisper"]), "no folder")


@pytest.mark.parametrize("name", FULL_MODELS)
def test_trained_parameters_are_in_the_published_order(name: str) -> None:
    """The recorded list is in the order of the published model, which is that of its optimizer's state."""
    recorded = json.loads((REPO_ROOT / "tests" / "reference" / f"state_dict_{name}.json").read_text())["entries"]
    audio_embedder = build_on_meta(model_config(name), name)
    own = [f"model.{key}" for key, _ in audio_embedder.named_parameters() if not key.startswith("audio_encoder.")]
    assert [key for key in recorded if key in set(own)] == own and own
