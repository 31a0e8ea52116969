"""A user's own YAML files and language models next to the shipped ones."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.common import config as common_config
from src.common.errors import ConfigError, UserError
from src.corpus.targets.answer_filter import token_counter
from src.model import published
from src.model.adapter_files import read_adapter
from src.training.config import bind_model_config, bind_train_config

OTHER_LAYERS = """\
llm: Qwen/Qwen3-4B
llm_embedding_dim: 2560
config:
  audio_encoder_configs: [{encoder_name: whisper}]
  audio_adapter_configs:
    - encoder_name: whisper
      adapter_name: downsampler_conformer
      layer_fusion_config: {layer_fusion_type: weighted_average}
      audio_encoder_layers: [1, 2, 3, 4]
      norm_type: batch
      pre_average: true
      downsampler_depth: 1
      use_conformer: false
      encoder_embedding_dim: 1280
      adapter_embedding_dim: 1024
      llm_embedding_dim: 2560
  audio_fusion_config: {fusion_type: sum}
"""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of ``src/configs`` that a test may add files to."""
    copy = tmp_path / "configs"
    shutil.copytree(common_config.CONFIG_DIR, copy)
    for module in (common_config, published):
        monkeypatch.setattr(module, "CONFIG_DIR", copy)
    published.model_config.cache_clear()
    yield copy
    published.model_config.cache_clear()


def test_the_shipped_models_are_named() -> None:
    """The order in which a checkpoint without config.json is compared depends on this list."""
    files = {path.stem for path in (common_config.CONFIG_DIR / "model").glob("*.yaml")}
    assert files - {published.GENERATION_SETTINGS, *published.SIZED_BY_SOURCE} == set(published.SHIPPED_MODELS)


def test_a_users_model_file_changes_no_published_checkpoint(configs: Path) -> None:
    """A file of the user's that came first in the alphabet named the LLM and the layers of published checkpoints."""
    (configs / "model" / "aa_own.yaml").write_text(OTHER_LAYERS)
    shapes = published.trained_shapes(published.model_config("whisper_batch"), "whisper_batch")
    found = published.recognise(shapes, {"whisper"}, 2560, "somewhere")
    assert found.config.encoders["whisper"].layers == (7, 15, 23, 31)
    content = {"hidden_size": 2560, "num_hidden_layers": 36}
    assert published._llm_name(content, "somewhere") == "Qwen/Qwen3-4B-Thinking-2507"


def test_a_broken_model_file_ends_in_one_line_and_stops_no_other(
    configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A syntax error in any file of the folder ended the reading of every published checkpoint in a traceback."""
    (configs / "model" / "aa_broken.yaml").write_text("llm: [\n")
    with pytest.raises(ConfigError, match=r"aa_broken\.yaml.*line 2") as raised:
        common_config.compose("train", ["model=aa_broken", "dataset=mini"])
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="aa_broken"):
        published.recognise({"no": (1,)}, {"whisper"}, 2560, "somewhere")
    assert "aa_broken.yaml is left out" in caplog.text


def test_a_shipped_language_model_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From scripts/alarm the answer filter did not find assets/mini/llm, which other stages found."""
    monkeypatch.chdir(tmp_path)
    assert token_counter("assets/mini/llm")(["beep loud"])[0] > 0


def test_a_file_that_is_no_archive_is_described(tmp_path: Path) -> None:
    """The reason of a text file named .pth was "101"."""
    path = tmp_path / "muq.pth"
    path.write_text("hello\n")
    with pytest.raises(UserError, match=r"cannot be read \([A-Za-z]+"):
        read_adapter(path, "muq")
    torch.save({"w": torch.zeros(1)}, path)
    assert set(read_adapter(path, "muq")) == {"w"}


def test_a_run_says_once_that_a_model_was_translated(configs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The line was printed for every place that read the configuration."""
    (configs / "model" / "own.yaml").write_text(OTHER_LAYERS)
    mapping = common_config.compose("train", ["model=own", "dataset=mini", "training_args.output_dir=somewhere"])
    with caplog.at_level(logging.INFO, "alarm"):
        bound = bind_train_config(mapping)
        bind_model_config(bound)
    assert caplog.text.count("model: in the published form") == 1


def test_another_llm_beside_a_model_file_with_its_width_in_several_places(configs: Path) -> None:
    """``model.llm=OTHER`` was refused: the widths of the file belonged to its own language model."""
    (configs / "model" / "own.yaml").write_text(OTHER_LAYERS)
    given = ["model=own", "dataset=mini", "training_args.output_dir=somewhere", "model.llm=some/llm"]
    model = bind_model_config(bind_train_config(common_config.compose("train", given)))
    assert (model.llm, model.llm_embedding_dim) == ("some/llm", None)
    with pytest.raises(ConfigError, match="llm_embedding_dim: got 2560, the language model has 64"):
        typed = common_config.compose("train", [*given[:3], "model.llm_embedding_dim=64"])
        bind_train_config(typed)
