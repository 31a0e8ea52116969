"""Multiple choice with options shown in another order: what is asked, how replies are read, what is saved."""

from __future__ import annotations

from typing import Any

import pytest

from src.generation.config import DatasetConfig, RunConfig
from src.generation.tasks import MULTIPLE_CHOICE, shuffled_choice
from src.prompts import load_prompts

PROMPTS = load_prompts("full")
ROWS = [
    {"id": f"r{number}", "dataset_index": number, "question": "which?", "choices": ["red", "green", "blue", "red"]}
    for number in range(30)
]


def record(reply: str) -> dict[str, object]:
    return {
        "response": f"so.</think><answer>{reply}</answer>", "finish_reason": "stop", "budget_hit": False,
        "num_tokens": 3, "seconds": 0.1, "error": None,
    }  # fmt: skip


def test_the_reply_names_the_option_as_it_was_shown() -> None:
    task, orders = shuffled_choice(5), set()
    for row in ROWS:
        content = task.content(row, "question", PROMPTS)
        shown = [line.split(" ", 1)[1] for line in content.splitlines() if line.startswith("(Option_")]
        for place, text in enumerate(shown):
            saved = task.columns(row, "question", record(str(place)), "none", True)
            assert saved["llm_answer"] == text and saved["parse_status"] == "index"
            assert saved["choices"] == row["choices"], "saved in the data set's order, so that answers join"
            assert [row["choices"][number] for number in saved["shown_order"]] == shown
        orders.add(tuple(saved["shown_order"]))
    assert len(orders) > 10


def test_without_a_seed_nothing_changes() -> None:
    assert shuffled_choice(None) is MULTIPLE_CHOICE
    assert "shown_order" not in MULTIPLE_CHOICE.columns(ROWS[0], "question", record("0"), "none", True)


def test_shuffled_runs_have_folders_of_their_own() -> None:
    def name(**settings: Any) -> str:
        return RunConfig(DatasetConfig("x"), checkpoint_name="A", **settings).output_name()

    names = [name(), name(options_seed=0), name(options_seed=1), name(options_seed=1, run_tag="t")]
    assert names == [f"x_A_8192_1024{tag}" for tag in ("", "_options_0", "_options_1", "_t_options_1")]


@pytest.mark.parametrize(("fallback", "answer"), [("none", None), ("option_0", "red")])
def test_an_unreadable_reply_is_option_0_only_on_request(fallback: str, answer: str | None) -> None:
    saved = MULTIPLE_CHOICE.columns(ROWS[0], "question", record("B"), fallback, True)  # type: ignore[arg-type]
    assert (saved["llm_answer"], saved["parse_status"]) == (answer, "letter")
