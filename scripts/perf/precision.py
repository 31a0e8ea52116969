"""Effect of each choice of precision on embeddings and loss, on a trained checkpoint and held-out rows.

In:  a checkpoint whose language model is on this machine, and the data set it is evaluated on. Out: a table; rows
with --json (loss next to that of float32, and the relative error of the embeddings). Everything is compared with the
same checkpoint in float32 throughout, row by row.

    python scripts/perf/precision.py saved/mini_alarm_ca --json precision.json
    python scripts/perf/precision.py saved/alarm_ca --dataset all_4b --set librispeech --device cuda
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, OtherWork, write_rows
from src.common.cli import run_cli
from src.common.hub_upload import markdown_table

if TYPE_CHECKING:
    import torch

    from src.dataset.examples import ExampleDataset


@dataclass(frozen=True)
class Case:
    """One way to compute: the keys that choose it, and where each part is in which precision."""

    keys: str
    trained: str = "float32"
    encoders: str = "float32"
    llm: str = "float32"
    autocast: bool = False


CASES = (
    Case("training_args.bf16=false, model.front_end_dtype=float32"),
    Case("model.front_end_dtype=bfloat16 model.encoder_dtype=float32", trained="bfloat16"),
    Case("model.front_end_dtype=bfloat16", trained="bfloat16", encoders="bfloat16"),
    Case("training_args.bf16=true llm_dtype=float32", autocast=True),
    Case("training_args.bf16=true llm_dtype=autocast", llm="autocast", autocast=True),
    Case("training_args.bf16=true llm_dtype=bfloat16", llm="bfloat16", autocast=True),
)


@dataclass(frozen=True)
class Computed:
    """Embeddings ``(frames, llm_dim)`` and loss per target token of each row."""

    embeddings: list[torch.Tensor]
    losses: list[float]
    tokens: list[int]

    @property
    def loss(self) -> float:
        """Mean over all target tokens."""
        return sum(loss * count for loss, count in zip(self.losses, self.tokens, strict=True)) / sum(self.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="+", help="folder or Hub id")
    parser.add_argument("--dataset", default="mini", help="src/configs/dataset/NAME.yaml (default: mini)")
    parser.add_argument("--set", help="evaluation set of it (default: the first)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    watch = OtherWork()
    found = [row for name in args.checkpoint for row in measure(name, args)]
    header = ("checkpoint", "keys", "loss", "difference", "largest of a row", "embeddings off by", "least cosine")
    print(markdown_table(header, [_cells(row) for row in found]))
    if args.json:
        write_rows(
            args.json, [row for each in found for row in as_rows(each, args.device)], watch.read(), watch.seconds
        )


def as_rows(found: dict[str, Any], device: str) -> list[BenchRow]:
    """Figures of one case in the form of all programs; these do not vary from round to round."""
    title = f"{Path(found['checkpoint']).name}, {found['keys']}"
    exact = found["loss"] - found["loss_difference"]
    rows = [BenchRow(f"{title}: loss", "nats/token", [found["loss"]], [exact], device)]
    if found["embeddings_relative"]:
        rows.append(
            BenchRow(f"{title}: error of embeddings", "relative", [found["embeddings_relative"]], None, device)
        )
    return rows


def measure(checkpoint: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each case."""
    from src.model.checkpoints import open_checkpoint
    from src.model.llm import load_tokenizer

    config = open_checkpoint(checkpoint).config
    examples = evaluation_set(args, load_tokenizer(config.llm, config.llm_revision), config)
    exact = compute(checkpoint, CASES[0], examples, args)
    rows = []
    for case in CASES:
        found = exact if case is CASES[0] else compute(checkpoint, case, examples, args)
        rows.append({"checkpoint": checkpoint, "keys": case.keys, **differences(found, exact)})
    return rows


def evaluation_set(args: argparse.Namespace, tokenizer: Any, config: Any) -> ExampleDataset:
    """Rows of an evaluation set, as training reads them."""
    from src.common.config import compose
    from src.common.errors import UserError
    from src.training.build import open_data
    from src.training.config import bind_train_config

    options = ["model=mini_whisper", f"dataset={args.dataset}", "training_args.output_dir=unused", "eval_mode=true"]
    sets = open_data(bind_train_config(compose("train", options)), tokenizer, config).evaluation
    name = args.set or next(iter(sets))
    if name not in sets:
        raise UserError(f"--set {name}: {args.dataset} has the evaluation sets {', '.join(sets)}")
    return sets[name]


def compute(checkpoint: str, case: Case, examples: ExampleDataset, args: argparse.Namespace) -> Computed:
    """Embeddings and losses of the first rows, one row at a time."""
    import torch

    from src.dataset.examples import collate
    from src.model.alarm import AlarmModel
    from src.model.checkpoints import load_audio_embedder
    from src.model.llm import load_llm
    from src.model.precision import cast_frozen_weights, torch_dtype
    from src.model.splice import TokenizedTurn

    dtypes = {"dtype": torch_dtype(case.trained), "encoder_dtype": torch_dtype(case.encoders)}
    loaded = load_audio_embedder(checkpoint, args.device, **dtypes)
    whole = torch.bfloat16 if case.llm == "bfloat16" else torch.float32
    llm, _ = load_llm(loaded.config.llm, whole, args.device, revision=loaded.config.llm_revision)
    if case.llm == "autocast":
        cast_frozen_weights(llm)
    model = AlarmModel(loaded.audio_embedder, llm).eval()
    embeddings, losses, tokens = [], [], []
    with torch.inference_mode():
        for index in range(min(args.rows, len(examples))):
            batch = collate([examples[index]])
            pieces = zip(batch.starts, batch.mains, batch.outputs, strict=True)
            features = loaded.feature_extractor(batch.waveforms)
            with torch.autocast(args.device, torch.bfloat16) if case.autocast else nullcontext():
                audio = model.audio_embedder(features)
                total, count = model.target_loss(
                    model.splice_audio([TokenizedTurn(*piece) for piece in pieces], audio)
                )
            embeddings.append(audio[0].float().cpu())
            losses.append(float(total) / count)
            tokens.append(count)
    return Computed(embeddings, losses, tokens)


def differences(found: Computed, exact: Computed) -> dict[str, float]:
    """Of losses, and of embeddings: root mean square relative to their own, and the least cosine of a frame."""
    import torch

    ours, theirs = torch.cat(found.embeddings), torch.cat(exact.embeddings)
    rows = [abs(one - other) for one, other in zip(found.losses, exact.losses, strict=True)]
    return {
        "loss": found.loss,
        "loss_difference": found.loss - exact.loss,
        "largest_row_difference": max(rows),
        "embeddings_relative": float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()),
        "least_cosine": float(torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min()),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        Path(row["checkpoint"]).name,
        row["keys"],
        f"{row['loss']:.4f}",
        f"{row['loss_difference']:+.5f}",
        f"{row['largest_row_difference']:.4f}",
        f"{100 * row['embeddings_relative']:.3f} %",
        f"{row['least_cosine']:.5f}",
    ]


if __name__ == "__main__":
    run_cli(main)
