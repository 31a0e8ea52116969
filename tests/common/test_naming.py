"""Folder names: written and read back as the published system has them."""

from __future__ import annotations

import pytest

from src.common.errors import UserError
from src.common.naming import ResponseName, generated_name, model_short_name


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (
            "cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512",
            ResponseName("cameo", "Qwen3-4B-Thinking-2507", 512, True, 1536),
        ),
        ("cameo_Qwen3-4B-Thinking-2507_512", ResponseName("cameo", "Qwen3-4B-Thinking-2507", 512)),
        (
            "heysquad_human_filtered_Qwen3-4B-Thinking-2507_512",
            ResponseName("heysquad_human", "Qwen3-4B-Thinking-2507", 512, checked=True),
        ),
        ("globe_v3_rephrased_llm_64", ResponseName("globe_v3", "llm", 64, True, -1)),
        ("mini_rephrased_8_filtered_llm_64", ResponseName("mini", "llm", 64, True, 8, True)),
    ],
)
def test_response_names_go_both_ways(folder: str, expected: ResponseName) -> None:
    assert ResponseName.parse(folder) == expected
    assert expected.format() == folder


def test_a_name_of_another_form_is_refused_with_the_form() -> None:
    with pytest.raises(UserError, match=r"'cameo' is not a response folder name; expected NAME"):
        ResponseName.parse("cameo")
    with pytest.raises(UserError, match="underscore"):
        ResponseName("cameo", "my_llm").format()


def test_generated_names() -> None:
    assert generated_name("mmau", "Blinorot/ALARM-CA", 8192, 1024) == "mmau_Blinorot_ALARM-CA_8192_1024"
    assert generated_name("mmau", ["a/b", "c"], 16, 8, seed=0) == "mmau_a_b_c_seed_0_16_8"
    assert model_short_name("Qwen/Qwen3-4B-Thinking-2507") == "Qwen3-4B-Thinking-2507"
    assert model_short_name("assets/mini/llm/") == "llm"
