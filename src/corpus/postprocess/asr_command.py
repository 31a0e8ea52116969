"""Options and command of the speech recognition filter."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from src.common.cli import add_overwrite, row_limit
from src.common.naming import model_short_name
from src.corpus.postprocess.asr_score import NORMALISATIONS
from src.corpus.postprocess.commands import for_each
from src.corpus.targets.engine_pool import Placement, add_placement
from src.corpus.targets.llm_settings import read_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the filter."""
    add = parser.add_argument
    add(
        "--model",
        default="openai/whisper-large-v3",
        help="speech recognition: folder or Hub id (default: %(default)s)",
    )
    add("--language", default="english", help="of the clips, or auto (default: %(default)s)")
    add("--max-wer", type=_limit, default=0.5, metavar="RATE", help="most word errors, or none (default: 0.5)")
    add("--max-cer", type=_limit, metavar="RATE", help="most character errors, or none (default: none)")
    add("--threshold", type=float, metavar="RATE", help="the only limit: of the rate that --threshold-type names")
    add("--threshold-type", "--threshold_type", choices=("wer", "cer"), default="wer", help="default: %(default)s")
    add("--normalisation", choices=sorted(NORMALISATIONS), default="letters",
        help="of both texts: letters (default; lower case, a to z), unicode (any script, digits), none")  # fmt: skip
    add("--text-column", metavar="COLUMN", help="what should be said (default: question, else text)")
    add("--batch-size", type=int, default=64, metavar="N", help="clips transcribed at once (default: %(default)s)")
    add("--num-gpus", type=int, metavar="N", help="the same as --cuda-devices 0,1,… with N of them")
    add("--llm", "--model-name", metavar="MODEL", help="filter the responses of this model only (default: of all)")
    add("--max-tokens", type=int, metavar="N", help="filter the responses of this limit only (default: of all)")
    add_placement(parser)
    add("--limit", type=row_limit, metavar="N",
        help="a trial: only the first N rows of every split, and no set is written; below 1: all")  # fmt: skip
    add_overwrite(parser, "filter again where another program's result exists")


def _limit(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def filter_command(args: argparse.Namespace, show: Callable[[str], None]) -> int:
    """Filter the named sets, the model loaded once; the exit code, 1 if one set failed."""
    from src.corpus.postprocess.asr_filter import AnswerChoice, AsrLimits, filter_by_asr
    from src.corpus.postprocess.transcribe import AsrSettings, RowTranscriber

    limits = AsrLimits(args.max_wer, args.max_cer, args.normalisation, args.text_column)
    if args.threshold is not None:
        rates = {"max_wer": None, "max_cer": None, f"max_{args.threshold_type}": args.threshold}
        limits = replace(limits, **rates)
    elif args.threshold_type == "cer":
        limits = replace(limits, max_wer=None, max_cer=args.max_wer if args.max_cer is None else args.max_cer)
    if args.num_gpus is not None and args.num_gpus > 1 and args.cuda_devices is None:
        args.cuda_devices = ",".join(map(str, range(args.num_gpus)))
    answers = AnswerChoice(model_short_name(args.llm) if args.llm else None, args.max_tokens)
    settings = AsrSettings(args.model, None if args.language == "auto" else args.language, args.batch_size)
    transcribe = RowTranscriber(settings, open_workers=read_arguments(args, Placement).open_workers())

    def work(name: str) -> dict[str, object]:
        return filter_by_asr(name, settings, limits, transcribe, args.limit, args.overwrite, answers)

    return for_each(args.names or ["heysquad_human"], work, show)
