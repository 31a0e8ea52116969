"""Checkers of recorded cases take sizes from the case files: cases of other sizes pass, wrong numbers fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.audio.features import AudioFeatureExtractor
from src.audio.muq import muq_mel
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.model.config import FusionConfig
from src.model.encoders.sslam import position_table
from src.model.fusion import AudioFusion
from tests.support import golden_e2e
from tests.support.golden_adapters import check_fusion
from tests.support.golden_e2e import check_e2e
from tests.support.golden_encoders import check_muq_mel, check_positions
from tests.support.golden_features import FULL_SIZE, golden_waveforms
from tests.support.golden_rules import CaseResult, fill_module, goldens_dir, rule_waveform

WIDTH = 24
"""The shipped cases have 48."""


def read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A recorded manifest and its tensors."""
    folder = goldens_dir()
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), load_file(
        folder / f"{name}.safetensors"
    )


def write(folder: Path, name: str, manifest: dict[str, Any], stored: dict[str, Tensor]) -> None:
    """Save a manifest and its tensors as recorded ones are."""
    (folder / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")
    save_file({key: value.contiguous() for key, value in stored.items()}, folder / f"{name}.safetensors")


def params_of(module: nn.Module) -> dict[str, Any]:
    """Shapes and kinds of a module's tensors, as a manifest lists them."""
    kinds = {"running_var": "bn_var", "num_batches_tracked": "keep"}
    return {
        name: [list(value.shape), kinds.get(name.rsplit(".", 1)[-1], "weight")]
        for name, value in module.state_dict().items()
    }


def passes(results: list[CaseResult]) -> bool:
    """Whether there are cases and all are within their tolerances."""
    assert results
    return all(result.passed for result in results)


@torch.no_grad()
def test_a_fusion_of_another_width(tmp_path: Path) -> None:
    manifest, stored = read("fusion")
    name = "crossattention_111"
    case = manifest[name]
    case["config"]["llm_embedding_dim"], case["output_shape"][-1] = WIDTH, WIDTH
    for encoder in case["lengths_in"]:
        stored[f"{case['inputs']}/input/{encoder}"] = stored[f"{case['inputs']}/input/{encoder}"][..., :WIDTH]
    settings = {key: value for key, value in case["config"].items() if key != "llm_embedding_dim"}
    streams = {encoder: stored[f"{case['inputs']}/input/{encoder}"] for encoder in case["lengths_in"]}
    lengths = {encoder: torch.tensor(value) for encoder, value in case["lengths_in"].items()}
    config = bind_dataclass(FusionConfig, settings, name)
    fusion = AudioFusion(config, dict.fromkeys(streams, WIDTH), WIDTH, mask_padding=False).eval()
    case["params"] = params_of(fusion)
    for rule in ("A", "B"):
        fill_module(fusion, case["params"], rule)
        stored[f"{name}/{rule}/output"] = fusion(streams, lengths)[0]
    write(tmp_path, "fusion", {name: case}, stored)
    assert passes(list(check_fusion(tmp_path)))
    stored[f"{name}/A/output"] = stored[f"{name}/A/output"] + 0.01
    write(tmp_path, "fusion", {name: case}, stored)
    assert not passes(list(check_fusion(tmp_path)))


@torch.no_grad()
def test_embeddings_of_another_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = read("e2e_ca")
    model, pair = manifest["_model"], "pair_35s_0s2"
    case = manifest[pair]
    case["waveforms"] = [{**rule, "seconds": 0.7} for rule in case["waveforms"]]
    for adapter in model["config"]["audio_adapter_configs"]:
        adapter["llm_embedding_dim"] = WIDTH
    built: list[nn.Module] = []
    build = golden_e2e.build_audio_embedder
    with monkeypatch.context() as patch:
        patch.setattr(golden_e2e, "build_audio_embedder", lambda *a, **k: built.append(build(*a, **k)) or built[-1])
        with pytest.raises(AssertionError):  # the manifest lists the weights of the other width
            golden_e2e._audio_embedder(model | {"params": {}}, "A")
    model["params"] = {f"model.{name}": value for name, value in params_of(built[0]).items()}
    specs = {encoder: golden_e2e._spec(encoder, model) for encoder in model["encoders"]}
    extractor = AudioFeatureExtractor({encoder: spec.features for encoder, spec in specs.items()})
    features = extractor([Waveform(rule_waveform(rule), rule["sr"]) for rule in case["waveforms"]])
    stored = {
        f"{pair}/{rule}/audio_embeddings/{index}": item
        for rule in ("A", "B")
        for index, item in enumerate(golden_e2e._audio_embedder(model, rule)(features))
    }
    assert {item.shape[1] for item in stored.values()} == {WIDTH}
    for wrong in (0.0, 0.1):
        for name in ("e2e_ca", "e2e_p"):
            expected = {key: value + wrong for key, value in stored.items()}
            write(tmp_path, name, {"_model": model, pair: case}, expected)
        results = list(check_e2e(tmp_path))
        assert len(results) == 8 and passes(results) is not bool(wrong)


def test_mel_spectrograms_of_another_size_and_part(tmp_path: Path) -> None:
    folder = goldens_dir()
    shutil.copy(folder / "features_waveforms.json", tmp_path)
    manifest, _ = read("features_muq")
    name, case = next(iter(manifest.items()))
    case["normalized_mel"] |= {"shape": [1, 64, 200], "subset_start": 3, "subset_stride": 11}
    extractor = AudioFeatureExtractor({"muq": FULL_SIZE["muq"]})
    samples = extractor([golden_waveforms(folder)[case["waveform"]]])["muq"].features[:, : 200 * 240]
    subset = muq_mel(samples, 64, 2048, 24000)[0].T[3::11]
    write(tmp_path, "features_muq", {name: case}, {f"{name}/normalized_mel_subset": subset})
    assert passes(list(check_muq_mel(tmp_path)))
    write(tmp_path, "features_muq", {name: case}, {f"{name}/normalized_mel_subset": subset.roll(1, 0)})
    assert not passes(list(check_muq_mel(tmp_path)))


def test_position_tables_of_another_width(tmp_path: Path) -> None:
    rows = torch.tensor([0, 9, 77])
    save_file(
        {"dim24/rows": rows, "dim24/values": position_table(40, 8, 24)[0][rows]},
        tmp_path / "sslam_positions.safetensors",
    )
    assert [result.case for result in check_positions(tmp_path)] == ["sslam_positions/dim24"]
    assert passes(list(check_positions(tmp_path)))
