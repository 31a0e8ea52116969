"""The registry of modules: short names, import paths, and messages that say what is missing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.config import bind_dataclass
from src.common.errors import ConfigError
from src.common.modules import ModuleRegistry
from src.common.paths import REPO_ROOT
from src.model.config import AdapterConfig, FusionConfig, ModelConfig
from src.model.encoders.config import ENCODERS, EncoderSpec

SHAPES = ModuleRegistry("shape", "collections:OrderedDict", {"ordered": "collections:OrderedDict"})


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not on ``sys.path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_both_forms_of_an_import_path_are_the_same_class(own_folder: Path) -> None:
    package = own_folder / "registry_package"
    package.mkdir()
    (package / "shapes.py").write_text("import collections\n\n\nclass Square(collections.OrderedDict):\n    pass\n")
    found = SHAPES.load("registry_package.shapes:Square")
    assert found.__name__ == "Square"
    assert SHAPES.load("registry_package.shapes.Square") is found
    assert SHAPES.stored("registry_package.shapes.Square") == "registry_package.shapes:Square"
    assert SHAPES.stored("ordered") == "ordered"


def test_a_name_is_registered_once() -> None:
    registry = ModuleRegistry("shape", None, {"square": "shapes:Square"})
    with pytest.raises(ConfigError, match="'square' is registered twice: as shapes:Square and as other:Square"):
        registry.register("square", "other:Square")
    with pytest.raises(ConfigError, match="expected a short name"):
        registry.register("round", "circle")
    assert registry.names == ("square",)


def test_messages_say_what_is_known_and_what_is_missing(own_folder: Path) -> None:
    (own_folder / "registry_broken.py").write_text("import a_package_that_is_not_there\n")
    (own_folder / "registry_wrong.py").write_text("class Square:\n    pass\n\n\n1 / 0 if __name__ == 'x' else None\n")
    (own_folder / "registry_raises.py").write_text("raise RuntimeError('no GPU')\n")
    cases = {
        "oval": r"x.y: unknown shape 'oval'; known: ordered; your own .* import path, package.module:Class",
        "no_such_package.shapes:Square": r"no module 'no_such_package' in .*PYTHONPATH.*pip install",
        "registry_broken:Square": "needs the package 'a_package_that_is_not_there', which is not installed",
        "registry_wrong:Sqare": "registry_wrong has no Sqare; did you mean 'Square'",
        "registry_wrong:Square": "registry_wrong:Square is no shape; derive it from collections.OrderedDict",
        "registry_raises:Square": r"registry_raises cannot be imported \(RuntimeError: no GPU\)",
    }
    for name, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            SHAPES.load(name, "x.y")


def test_all_wrong_keys_of_an_own_encoder_are_in_one_message(own_folder: Path) -> None:
    (own_folder / "registry_encoder.py").write_text(
        "from dataclasses import dataclass\n"
        "from src.model.encoders.base import Encoder\n\n\n"
        "@dataclass(frozen=True)\nclass Sizes:\n    width: int\n    depth: int = 2\n\n\n"
        "class Own(Encoder):\n    Config = Sizes\n    needs_weights = False\n"
        "    defaults = {'features': {'kind': 'samples', 'sample_rate': 16000, 'chunk_frames': 160}, 'layers': [0]}\n"
    )
    own = {"encoder_name": "registry_encoder.Own", "architecture": {"width": 4}, "features": {"chunk_frames": 320}}
    spec = bind_dataclass(EncoderSpec, own, "encoder own")
    assert spec.encoder_name == "registry_encoder:Own"
    assert (spec.features.sample_rate, spec.features.chunk_frames, spec.layers) == (16000, 320, (0,))
    assert bind_dataclass(EncoderSpec, spec.as_dict(), "again") == spec
    with pytest.raises(ConfigError) as error:
        bind_dataclass(EncoderSpec, {**own, "architecture": {"widht": 4, "depth": "2"}}, "encoder own")
    assert "architecture.widht: unknown key" in str(error.value)
    assert "architecture.width: missing" in str(error.value)
    assert "architecture.depth: got '2'" in str(error.value)
    with pytest.raises(ConfigError, match="weights: missing"):
        bind_dataclass(EncoderSpec, {"features": {"kind": "whisper", "sample_rate": 16000, "chunk_frames": 100},
                                     "architecture": {"width": 8, "num_layers": 1, "num_heads": 1, "ffn_dim": 8},
                                     "layers": [0]}, "encoder whisper")  # fmt: skip


def test_names_are_checked_without_torch() -> None:
    program = (
        "import sys; from src.model.encoders.config import ENCODERS; "
        "assert ENCODERS.path('whisper') == 'src.model.encoders.whisper:WhisperEncoder'; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPO_ROOT)


def test_every_shipped_encoder_is_found() -> None:
    assert [ENCODERS.load(name).Config.__name__ for name in ENCODERS.names] == [
        *("WhisperArchitecture", "W2VBertArchitecture", "SSLAMArchitecture", "MuQArchitecture"),
        "PretrainedArchitecture",
    ]


def test_checkpoints_of_earlier_versions_store_null_for_other_modules_options() -> None:
    adapter = {"adapter_name": "mlp", "adapter_embedding_dim": 8, "hidden_dim": 8, "norm_type": None}
    bound = bind_dataclass(AdapterConfig, {**adapter, "audio_encoder_layers": None}, "adapter")
    assert (type(bound).__name__, bound.options()) == ("MlpConfig", {"hidden_dim": 8})
    fusion = bind_dataclass(FusionConfig, {"fusion_type": "sum", "num_latents": None, "dropout": None}, "fusion")
    assert dataclasses.asdict(fusion) == {"fusion_type": "sum"}


def test_options_that_equal_an_option_of_another_default_are_stored() -> None:
    fusion = {"fusion_type": "crossattention", "main_encoder": "a", "conditional_encoders": ["b"]}
    identity = {"adapter_name": "identity"}
    encoder = {
        "features": {"kind": "whisper", "sample_rate": 16000, "chunk_frames": 100, "num_mels": 80},
        "architecture": {"width": 8, "num_layers": 1, "num_heads": 1, "ffn_dim": 8},
        "layers": [0],
        "weights": {"source": "x"},
    }
    for dropout in (0.0, 0.1, 0.3):
        config = {"encoders": dict.fromkeys("ab", encoder), "audio_adapter_config": dict.fromkeys("ab", identity)}
        model = {"llm": "x", "config": {**config, "audio_fusion_config": {**fusion, "dropout": dropout}}}
        bound = bind_dataclass(ModelConfig, model, "model")
        assert bind_dataclass(ModelConfig, bound.as_dict(), "model") == bound
