"""Multiple choice with options shown in another order: what is asked, how replies are read, what is saved."""

from __future__ import annotations

from typing import Any

import pytest

from src.benchmarks.scoring import is_unparsed
from src.generation.config import DatasetConfig, RunConfig
from src.generation.task_types import MULTIPLE_CHOICE, ChoiceTask
from src.prompts import load_prompts
from src.prompts.reasoning import THINKING

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
    task, orders = ChoiceTask(5), set()
    for row in ROWS:
        content = task.content(row, "question", PROMPTS)
        shown = [line.split(" ", 1)[1] for line in content.splitlines() if line.startswith("(Option_")]
        for place, text in enumerate(shown):
            saved = task.columns(row, "question", record(str(place)), "none", THINKING)
            assert saved["llm_answer"] == text and saved["parse_status"] == "index"
            assert saved["choices"] == row["choices"], "saved in the data set's order, so that answers join"
            assert [row["choices"][number] for number in saved["shown_order"]] == shown
        orders.add(tuple(saved["shown_order"]))
    assert len(orders) > 10


def test_without_a_seed_nothing_changes() -> None:
    assert "shown_order" not in MULTIPLE_CHOICE.columns(ROWS[0], "question", record("0"), "none", THINKING)


def test_shuffled_runs_have_folders_of_their_own() -> None:
    def name(**settings: Any) -> str:
        return RunConfig(DatasetConfig("x"), checkpoint_name="A", **settings).output_name()

    names = [name(), name(options_seed=0), name(options_seed=1), name(options_seed=1, run_tag="t")]
    assert names == [f"x_A_8192_1024{tag}" for tag in ("", "_options_0", "_options_1", "_t_options_1")]


@pytest.mark.parametrize(("fallback", "answer"), [("none", None), ("option_0", "red")])
def test_an_unreadable_reply_is_option_0_only_on_request(fallback: str, answer: str | None) -> None:
    saved = MULTIPLE_CHOICE.columns(ROWS[0], "question", record("B"), fallback, THINKING)  # type: ignore[arg-type]
    assert (saved["llm_answer"], saved["parse_status"]) == (answer, "letter")


def test_likelihood_chooses_by_mean_or_sum_and_the_reply_is_kept() -> None:
    row = {**ROWS[3], "choices": ["red", "green", "blue"]}
    scored = {**record("1"), "option_logprobs": [[-3.0], [-1.0, -1.0, -1.5], [-2.0, -2.0]]}
    for seed in (None, 7):
        mean, total = ChoiceTask(seed, "likelihood"), ChoiceTask(seed, "likelihood_sum")
        saved = mean.columns(row, "question", scored, "none", THINKING)
        assert (saved["llm_answer"], saved["parse_status"]) == ("green", "likelihood")
        assert (saved["likelihood_answer"], saved["likelihood_sum_answer"]) == ("green", "red")
        assert (saved["option_logprobs"], saved["option_tokens"]) == ([-3.0, -3.5, -4.0], [1, 3, 2])
        assert saved["written_status"] == "index" and saved["written_answer"] in row["choices"]
        assert total.columns(row, "question", scored, "none", THINKING)["llm_answer"] == "red"
    missing = mean.columns(row, "question", record("1"), "none", THINKING)
    assert (missing["llm_answer"], missing["parse_status"]) == (None, "not_scored")
    assert not is_unparsed({"model_prediction": "green", "parse_status": "likelihood"})
    assert is_unparsed({"model_prediction": None, "parse_status": "not_scored"})
