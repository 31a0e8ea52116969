"""Published scores of other systems, for context next to our own, in percent. Unknown cells are missing.

Every score has the address where it was read, the edition of the benchmark and the prompt as far as that source
states them. Sources disagree by 5 to 9 points on one model and benchmark, so a system may be listed several times.
AIR-Bench Foundation: domain means recomputed from its table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOT_STATED = "not stated"


@dataclass(frozen=True)
class PublishedScore:
    """A system's published overall score and scores by group, with ``source``, ``edition`` and ``prompt``."""

    system: str
    overall: float
    groups: dict[str, float] = field(default_factory=dict)
    source: str = ""
    edition: str = NOT_STATED
    prompt: str = NOT_STATED


def published_scores(benchmark: str, split: str) -> tuple[PublishedScore, ...]:
    """Published scores for a split of a benchmark, best first; none for sets that nobody published on.

    Scores whose source does not name a split are listed for all splits that others name.
    """
    found: list[PublishedScore] = []
    if (benchmark, split) in _TABLES:
        (source, edition), names, table = _TABLES[benchmark, split]
        found = [
            PublishedScore(
                str(row[0]), float(row[1]), dict(zip(names, map(float, row[2:]), strict=False)), source, edition
            )
            for row in table
        ]
    column = _MOSS_COLUMNS.index(benchmark) if (benchmark, split) in _MOSS_SPLITS else None
    if column is not None:
        found += [
            PublishedScore(system, scores[column], source=_MOSS_SOURCE, edition="split not stated")
            for system, *scores in _MOSS
        ]
    return tuple(sorted(found, key=lambda score: -score.overall))


_Table = tuple[tuple[str, str], tuple[str, ...], tuple[tuple[str | float, ...], ...]]
_MOSS_SOURCE = "https://github.com/OpenMOSS/MOSS-Audio/blob/22181cb25df5c9422b7883d655d27eae9213defe/README.md"
_MOSS_COLUMNS = ("mmau", "mmaupro", "mmar", "mmsu")
_MOSS_SPLITS = (("mmau", "test-mini"), ("mmau", "test"), ("mmaupro", "test"), ("mmar", "test"), ("mmsu", "test"))
_MOSS: tuple[tuple[str, float, float, float, float], ...] = (
    ("Kimi-Audio 7B", 72.41, 56.58, 60.82, 54.74),
    ("Qwen2.5-Omni 7B", 65.60, 52.20, 56.70, 61.32),
    ("Audio Flamingo 3 7B", 61.23, 51.70, 57.96, 60.04),
    ("MiMo-Audio-7B", 74.90, 53.35, 61.70, 61.94),
    ("MiniCPM-o-4.5 9B", 70.97, 39.65, 55.75, 60.96),
    ("MOSS-Audio-4B-Instruct", 75.79, 58.16, 59.68, 59.68),
    ("MOSS-Audio-4B-Thinking", 77.64, 60.75, 63.91, 71.20),
    ("MOSS-Audio-8B-Instruct", 77.03, 57.48, 64.42, 66.36),
    ("MOSS-Audio-8B-Thinking", 77.13, 64.29, 65.73, 76.06),
    ("Qwen3-Omni-30B-A3B-Instruct", 75.00, 61.22, 66.40, 69.00),
    ("Step-Audio-R1.1 33B", 72.18, 60.80, 68.75, 64.18),
    ("Step-Audio-R1 33B", 78.67, 59.68, 69.15, 75.18),
    ("GPT4o-Audio", 65.66, 52.30, 59.78, 58.76),
    ("Gemini-3-Pro", 80.15, 68.28, 81.73, 81.28),
    ("Gemini-3.1-Pro", 81.10, 73.47, 83.70, 81.30),
)
_DESTA = ("https://github.com/kehanlu/DeSTA2.5-Audio", "v05.15.25")
_MMAR = ("https://github.com/ddlBoJack/MMAR", NOT_STATED)
_MMSU = ("https://github.com/dingdongwang/MMSU", NOT_STATED)
_AIRBENCH = ("https://github.com/OFA-Sys/AIR-Bench", "Foundation")
_MMAU = ("speech", "sound", "music")
_TABLES: dict[tuple[str, str], _Table] = {
    ("mmau", "test-mini"): (
        _DESTA,
        _MMAU,
        (
            ("Audio Flamingo 3", 73.30, 66.37, 79.58, 66.77),
            ("Qwen2.5-Omni", 71.50, 70.60, 78.10, 65.90),
            ("Gemini 2.5 Pro", 71.60, 71.47, 75.08, 68.26),
            ("DeSTA2.5-Audio 8B", 66.00, 71.17, 70.57, 56.29),
            ("Kimi-Audio", 68.20, 62.16, 75.68, 66.77),
            ("Audio Reasoner", 67.70, 66.07, 67.87, 69.16),
            ("Phi-4-multimodal", 65.70, 67.27, 65.47, 64.37),
            ("GPT-4o Audio", 62.50, 66.67, 64.56, 56.29),
            ("Qwen2-Audio-Instruct", 59.60, 55.26, 67.27, 56.29),
            ("SALMONN", 34.90, 26.43, 41.14, 37.13),
            ("random choice", 25.54, 26.67, 24.96, 25.00),
        ),
    ),
    ("mmau", "test"): (
        _DESTA,
        _MMAU,
        (
            ("Audio Flamingo 3", 72.42, 66.97, 75.83, 74.47),
            ("Qwen2.5-Omni", 71.00, 68.90, 76.77, 67.33),
            ("Gemini 2.5 Pro", 69.36, 72.67, 70.63, 64.77),
            ("DeSTA2.5-Audio 8B", 65.21, 71.94, 66.83, 57.09),
            ("Kimi-Audio", 64.40, 56.57, 70.70, 65.93),
            ("Audio Reasoner", 63.78, 62.53, 67.27, 61.53),
            ("Phi-4-multimodal", 62.81, 63.80, 62.67, 61.97),
            ("GPT-4o Audio", 60.82, 69.33, 63.20, 49.93),
            ("Qwen2-Audio-Instruct", 57.40, 55.37, 61.17, 55.67),
            ("SALMONN", 36.23, 28.77, 42.10, 37.83),
        ),
    ),
    ("mmar", "test"): (
        _MMAR,
        ("sound", "music", "speech"),
        (
            ("Gemini 2.5 Pro", 74.7, 67.3, 56.8, 82.0),
            ("Qwen3-Omni-Thinking 30B-A3B", 66.4, 57.6, 44.7, 78.2),
            ("GPT-4o Audio", 63.5),
            ("Omni-R1 8.4B", 63.4, 67.3, 51.5, 64.3),
            ("Qwen2.5-Omni 10.7B", 56.7, 58.8, 40.8, 59.9),
            ("Qwen2.5-Omni 5.5B", 53.8, 53.9, 46.1, 53.7),
            ("R1-AQA", 47.6),
            ("Baichuan-Omni-1.5", 40.7),
            ("Audio-Reasoner", 36.8),
            ("SALMONN 7B", 32.8),
            ("Qwen2-Audio-Instruct", 30.0),
            ("Audio Flamingo 2 3B", 21.9),
            ("random choice", 29.3, 29.4, 25.9, 31.5),
        ),
    ),
    ("mmsu", "test"): (
        _MMSU,
        ("Perception", "Reasoning"),
        (
            ("Gemini-1.5-Pro", 60.68, 46.10, 76.16),
            ("Qwen2.5-Omni-7B", 60.57, 42.50, 79.83),
            ("Kimi-Audio", 59.28, 43.52, 76.03),
            ("Qwen2.5-Omni-3B", 56.83, 42.37, 72.76),
            ("MiniCPM-O", 56.53, 40.54, 73.57),
            ("GPT-4o-Audio", 56.38, 39.67, 71.96),
            ("Qwen2-Audio-Instruct", 53.27, 39.02, 68.90),
            ("Phi-4-Multimodal", 44.96, 33.41, 57.59),
            ("BLSP", 35.96, 28.36, 44.97),
        ),
    ),
    ("airbench", "test"): (
        _AIRBENCH,
        ("speech", "sound", "music"),
        (
            ("Qwen-Audio-Turbo", 57.8, 63.4, 61.0, 48.9),
            ("Qwen-Audio", 54.5, 58.7, 60.2, 44.8),
            ("PandaGPT", 40.2),
            ("SALMONN", 36.0, 37.8, 33.0, 37.1),
            ("NExT-GPT", 31.5),
            ("BLSP", 31.4),
            ("SpeechGPT", 30.0),
        ),
    ),
}
