"""One page over corpora: rows, lengths, prompts' variety, responses before and after rephrasing, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.benchmarks.intervals import wilson
from src.common.errors import UserError
from src.common.files import write_text
from src.prompts.reasoning import Reasoning, split_response
from src.prompts.texts import Prompts, load_prompts
from src.report.charts import Histogram, histogram_chart
from src.report.spectrogram import read_sound, spectrogram_uri
from src.report.templating import fill_page, mark_leaks, mark_words, run_style

Findings = Mapping[str, Any]
PARTS = ("thoughts", "answer", "response")
MOST_PHRASES = 12
COLUMNS = 900
"""Widest picture of a clip, in pixels."""


@dataclass
class ByteBudget:
    """Bytes that clips may still take."""

    left: int

    def take(self, text: str) -> bool:
        """Whether a text fits; if so, its bytes are taken."""
        if len(text) > self.left:
            return False
        self.left -= len(text)
        return True


def write_corpus_page(findings: Findings, out: Path, audio_mb: float = 40.0) -> None:
    """Write the page over the results of ``src.corpus.analysis``, atomically.

    Clips are embedded while they fit into ``audio_mb`` megabytes; the page says which were left out.
    """
    room = ByteBudget(int(audio_mb * 1e6))
    corpora = [_section(corpus, room) for corpus in findings["corpora"]]
    names = [corpus["name"] for corpus in findings["corpora"]]
    page = fill_page(
        "corpora.html.j2",
        ("report.css", "curves.css", "corpora.css"),
        ("report.js",),
        title=names[0] if len(names) == 1 else f"{len(names)} corpora",
        corpora=corpora,
        groups=_groups(findings["corpora"]),
        **{key: findings[key] for key in ("written_at", "limit", "seed")},
    )
    write_text(out, page)


def _groups(corpora: Sequence[Findings]) -> list[dict[str, Any]]:
    """Rows and hours of every group, and of all."""
    lines: dict[str, dict[str, Any]] = {}
    for corpus in corpora:
        for title in (corpus["group"], "all"):
            line = lines.setdefault(title, {"title": title, "corpora": 0, "rows": 0, "hours": None})
            line["corpora"] += 1
            line["rows"] += corpus["raw"]["rows"]
            if corpus["raw"]["hours"] is not None:
                line["hours"] = (line["hours"] or 0.0) + corpus["raw"]["hours"]
    return [*(line for title, line in lines.items() if title != "all"), lines["all"]]


def _section(corpus: Findings, room: ByteBudget) -> dict[str, Any]:
    raw, sets = corpus["raw"], corpus["responses"]
    styles = {numbers["folder"]: run_style(place) for place, numbers in enumerate(sets, start=1)}
    pair = [numbers for name in corpus["pair"] or () for numbers in sets if numbers["folder"] == name]
    prompts = load_prompts(str(sets[0]["prompt_set"]) if sets else "full")
    return {
        "corpus": corpus,
        "anchor": f"corpus-{corpus['name']}",
        "levels": [
            {"title": level["title"], "split": split, **part}
            for level in raw["levels"]
            for split, part in level["splits"].items()
        ],
        "left_out": {stage: reasons for stage, reasons in raw["left_out"].items() if reasons},
        "charts": [chart for chart in _charts(corpus, styles) if chart["svg"]],
        "sets": [_set_row(numbers, styles[numbers["folder"]]) for numbers in sets],
        "phrases": _phrases(pair),
        "examples": _examples(corpus["examples"]),
        "before_after": [_rates(numbers) for numbers in pair],
        "samples": [_sample_card(sample, prompts, room) for sample in corpus["samples"]],
    }


def _charts(corpus: Findings, styles: Mapping[str, str]) -> list[dict[str, Any]]:
    raw, prompts, sets = corpus["raw"], corpus["prompts"], corpus["responses"]
    texts = raw["descriptions"]
    charts = [_chart("Clips", "seconds", [("clips", raw["durations"], "run0")])]
    if texts:
        title = "Questions" if texts["column"] == "question" else "Descriptions"
        charts.append(_chart(title, "characters", [(title.lower(), texts["characters"], "run0")]))
    if prompts and prompts.get("words"):
        charts.append(_chart("Prompts", "words", [("prompts", prompts["words"], "run0")]))
    for unit in ("tokens", "words"):
        found = [numbers for numbers in sets if numbers["unit"] == unit]
        bands = {(each["title"], each["low"], each["high"]): None for numbers in found for each in numbers["windows"]}
        series = [(numbers["folder"], numbers["lengths"], styles[numbers["folder"]]) for numbers in found]
        charts.append(_chart("Responses, thoughts and answer", unit, series, list(bands)))
    for part, title in (("thoughts", "Thoughts"), ("answer", "Answers")):
        series = [(numbers["folder"], numbers[f"{part}_words"], styles[numbers["folder"]]) for numbers in sets]
        charts.append(_chart(title, "words", series))
    return charts


def _chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Findings | None, str]],
    bands: Sequence[tuple[str, float, float]] = (),
) -> dict[str, Any]:
    known = [(label, numbers, style) for label, numbers, style in series if numbers]
    drawn = [Histogram(label, found["edges"], found["counts"], found["n"], style) for label, found, style in known]
    return {
        "title": title,
        "unit": unit,
        "svg": histogram_chart(drawn, unit, f"{title}: {unit}", bands),
        "series": [{"label": label, "style": style, **found} for label, found, style in known],
        "bands": [{"title": label, "low": low, "high": high} for label, low, high in bands],
    }


def _set_row(numbers: Findings, style: str) -> dict[str, Any]:
    ok = numbers["status"].get("ok", numbers["rows"] if not numbers["status"] else 0)
    lengths = numbers["lengths"]
    return {
        "numbers": numbers,
        "style": style,
        "kind": _kind(numbers),
        "ok": wilson(ok, numbers["rows"]),
        "failed": {status: count for status, count in numbers["status"].items() if status != "ok"},
        "cut": numbers["finish_reason"].get("length", 0),
        "windows": [{**each, "share": each["inside"] / lengths["n"]} for each in numbers["windows"] if lengths],
        "filter": [{"split": split, **part} for split, part in (numbers["filter"] or {}).items()],
        "rates": _rates(numbers)["rates"],
        "checker": [{**each, "share": wilson(each["betraying"], each["checked"])} for each in numbers["checker"]],
    }


def _kind(numbers: Findings) -> str:
    words = ["rephrased"] * bool(numbers["rephrased"]) + ["checked"] * bool(numbers["checked"])
    return " and ".join(words) or "as generated"


def _rates(numbers: Findings) -> dict[str, Any]:
    found = numbers["rates"]
    return {
        "title": _kind(numbers),
        "folder": numbers["folder"],
        "rates": {part: wilson(found[part]["betraying"], found[part]["n"]) for part in PARTS},
    }


def _phrases(pair: Sequence[Findings]) -> list[dict[str, Any]]:
    """Counts of texts with each phrase, before and after, most frequent first; nothing without a pair."""
    if len(pair) != 2:
        return []
    tables = [{phrase["words"]: phrase for phrase in numbers["phrases"]} for numbers in pair]
    words = dict.fromkeys([phrase["words"] for numbers in pair for phrase in numbers["phrases"][:MOST_PHRASES]])
    nothing = {"thoughts": 0, "answer": 0}
    return [{"words": each, "before": tables[0].get(each, nothing), "after": tables[1].get(each, nothing)}
            for each in words]  # fmt: skip


def _examples(found: Findings | None) -> dict[str, list[dict[str, Any]]]:
    return {
        side: [{**each, **{when: mark_words(each[when], each["words"]) for when in ("before", "after")}}
               for each in pairs]
        for side, pairs in (found or {}).items()
    }  # fmt: skip


def _sample_card(sample: Mapping[str, Any], prompts: Prompts, room: ByteBudget) -> dict[str, Any]:
    """A sample as the template shows it; ``problem`` says why a clip is missing, it is not an error."""
    sound, picture, problem, seconds = "", "", "", sample["seconds"]
    if not sample["audio"]:
        problem = "this set holds no audio"
    else:
        try:
            found = read_sound(sample["audio"], f"{sample['split']}, {sample['key']}")
            # counted as written into the page: base64, a third more than the clip
            if room.take(found.data_uri()):
                sound, picture, seconds = found.data_uri(), spectrogram_uri(found, COLUMNS), found.seconds
            else:
                problem = "no room left for the clip (--audio-mb)"
        except UserError as error:
            problem = str(error)
    replies = []
    for reply in sample["replies"]:
        parts = split_response(reply["text"], Reasoning.of_record(reply))
        replies.append(
            {
                "folder": reply["folder"],
                "status": reply["status"] if reply["status"] != "ok" or reply["text"] else "missing",
                "thoughts": mark_leaks(parts.thoughts, prompts),
                "answer": mark_leaks(parts.answer, prompts),
            }
        )
    return {
        "where": f"{sample['split']} · {sample['key']}", "seconds": seconds, "sound": sound, "picture": picture,
        "problem": problem, "description": sample["description"],
        "prompt": sample["prompt"] if sample["prompt"] != sample["description"] else "", "replies": replies,
    }  # fmt: skip
