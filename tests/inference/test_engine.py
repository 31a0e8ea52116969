"""The step loop, on a scripted backend."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from src.inference.engine import Engine
from src.inference.types import Request, RequestError, Result, Sampling, validate_prompt
from tests.generation.fakes import WIDTH, ScriptedBackend
from tests.prompts.fakes import CharTokenizer


def ids(text: str) -> list[int]:
    return list(map(ord, text))


def prompts(*texts: str) -> list[Request]:
    return [Request(str(number), (ids(text),), seed=number) for number, text in enumerate(texts)]


def run(backend: ScriptedBackend, requests: list[Request], sampling: Sampling, **options: int) -> dict[str, Result]:
    results = list(Engine(backend, CharTokenizer(), **options).run(iter(requests), sampling))
    assert len(results) == len(requests)
    return {result.key: result for result in results}


def test_every_request_is_answered_and_short_ones_first() -> None:
    backend = ScriptedBackend(lambda prompt: "x" * int(prompt))
    keys = [result.key for result in Engine(backend, CharTokenizer()).run(prompts("30", "3", "10"), Sampling(100))]
    assert keys == ["1", "2", "0"]


def test_text_is_given_without_the_end_of_turn_and_tokens_with_it() -> None:
    result = run(ScriptedBackend(lambda prompt: "hm</think>\n\na"), prompts("p"), Sampling(100))["0"]
    assert result.text == "hm</think>\n\na"
    assert (result.finish_reason, result.num_tokens, result.error) == ("stop", len("hm</think>\n\na") + 1, None)


def test_budget_not_reached_leaves_one_pass() -> None:
    backend = ScriptedBackend(lambda prompt: "hm</think>\n\na")
    result = run(backend, prompts("p"), Sampling(100, max_thinking_tokens=50))["0"]
    assert [call.max_tokens for call in backend.calls] == [50]
    assert not result.budget_hit and result.text == "hm</think>\n\na"


def test_budget_reached_in_thoughts_closes_them_and_goes_on() -> None:
    backend = ScriptedBackend(lambda prompt: "answer" if "</think>" in prompt else "z" * 500)
    sampling = Sampling(100, max_thinking_tokens=5, budget_closing=" stop.</think>\n")
    result = run(backend, prompts("p"), sampling)["0"]
    assert result.text == "zzzzz stop.</think>\nanswer"
    assert result.budget_hit and result.finish_reason == "stop"
    assert [call.max_tokens for call in backend.calls] == [5, 100]  # the second pass has all of max_tokens again
    assert backend.calls[1].segments[0] == ids("p")
    assert [call.seed for call in backend.calls] == [0, 2834028759]  # as in runs that were begun before


def test_budget_reached_in_the_answer_continues_it_without_the_closing() -> None:
    whole = "hm</think>" + "a" * 30
    backend = ScriptedBackend(lambda prompt: whole[len(prompt) - 1 :])
    result = run(backend, prompts("p"), Sampling(100, max_thinking_tokens=15))["0"]
    assert result.text == whole
    assert not result.budget_hit


def test_budget_of_zero_closes_the_thoughts_at_once() -> None:
    backend = ScriptedBackend(lambda prompt: "answer")
    result = run(backend, prompts("p"), Sampling(100, max_thinking_tokens=0, budget_closing="</think>"))["0"]
    assert result.text == "</think>answer" and result.budget_hit
    assert len(backend.calls) == 1


def test_second_pass_may_be_cut_too() -> None:
    backend = ScriptedBackend(lambda prompt: "z" * 500)
    result = run(backend, prompts("p"), Sampling(7, max_thinking_tokens=5, budget_closing="</think>"))["0"]
    assert result.text == "zzzzz</think>zzzzzzz"
    assert result.finish_reason == "length"


def test_models_that_do_not_think_get_no_closing() -> None:
    backend = ScriptedBackend(lambda prompt: "abcdefghij"[len(prompt) - 1 :])
    tokenizer = CharTokenizer(header="<|im_start|>assistant\n")
    (result,) = Engine(backend, tokenizer).run(prompts("p"), Sampling(100, max_thinking_tokens=4))
    assert result.text == "abcdefghij" and not result.budget_hit


def test_context_bounds_both_passes() -> None:
    backend = ScriptedBackend(lambda prompt: "z" * 500, context=40)
    sampling = Sampling(100, max_thinking_tokens=20, budget_closing="</think>")
    result = run(backend, prompts("p" * 10), sampling)["0"]
    assert [call.max_tokens for call in backend.calls] == [20, 2]
    assert result.num_tokens == 30 and result.finish_reason == "length"
    # no room for closing and answer: the thoughts stay open
    result = run(ScriptedBackend(lambda prompt: "z" * 500, context=35), prompts("p" * 10), sampling)["0"]
    assert result.text == "z" * 20 and not result.budget_hit


def test_bad_requests_become_errors_and_never_reach_the_core() -> None:
    good = torch.randn(3, WIDTH)
    bad = good.clone()
    bad[1, 2] = float("nan")
    requests = [
        Request("good", (ids("p"), good)),
        Request("nan", (ids("p"), bad)),
        Request("width", (ids("p"), torch.randn(3, WIDTH + 1))),
        Request("long", (ids("p" * 50),)),
        Request("empty", ()),
        Request("vocabulary", ([1, 0x110000],)),
        Request("negative", ([-1],)),
        Request("unreadable", error=RequestError("unreadable_audio", "file is broken")),
        Request("refused", (ids("refuse me"),)),
    ]
    backend = ScriptedBackend(lambda prompt: "a", context=40, refuse="refuse")
    results = run(backend, requests, Sampling(5))
    assert [call.key.split(":")[1] for call in backend.calls] == ["good"]
    errors = {key: result.error for key, result in results.items() if result.error is not None}
    assert errors.keys() == {request.key for request in requests[1:]}
    assert "not finite" in errors["nan"] and "3x9" in errors["width"] and "context of 40" in errors["long"]
    assert errors["unreadable"] == "file is broken" and "not this one" in errors["refused"]


def test_prompt_lengths_are_bounded_by_the_context() -> None:
    assert validate_prompt((ids("p" * 39),), WIDTH, 256, 40) is None
    assert validate_prompt((ids("p" * 40),), WIDTH, 256, 40) is not None


def test_requests_are_pulled_only_a_few_ahead() -> None:
    pulled = []

    def source() -> Iterator[Request]:
        for request in prompts(*["10"] * 40):
            pulled.append(request.key)
            yield request

    backend = ScriptedBackend(lambda prompt: "x" * int(prompt))
    engine = Engine(backend, CharTokenizer(), max_in_flight=4, ahead=2)
    finished = 0
    for _ in engine.run(source(), Sampling(100)):
        finished += 1
        # in flight, in the queue, one in the thread's hands
        assert len(pulled) <= finished + 4 + 2 + 2
    assert finished == 40 and backend.most_active <= 4


def test_preparing_overlaps_with_decoding() -> None:
    """While the source waits for its second item, the first is decoded to its end."""
    decoded = threading.Event()

    def source() -> Iterator[Request]:
        yield Request("first", (ids("p"),))
        assert decoded.wait(5)
        yield Request("second", (ids("p"),))

    keys = []
    for result in Engine(ScriptedBackend(lambda prompt: "abc"), CharTokenizer()).run(source(), Sampling(10)):
        keys.append(result.key)
        decoded.set()
    assert keys == ["first", "second"]


def test_leaving_early_drops_what_is_in_flight_and_ends_the_thread() -> None:
    backend = ScriptedBackend(lambda prompt: "x" * int(prompt))
    results = Engine(backend, CharTokenizer(), max_in_flight=4).run(prompts("2", *["50"] * 100), Sampling(100))
    assert next(results).key == "0"
    results.close()
    assert not backend.active
    deadline = time.monotonic() + 5
    while any(thread.name == "prefetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_of_the_source_is_raised_after_what_was_finished() -> None:
    def source() -> Iterator[Request]:
        yield Request("first", (ids("p"),))
        raise OSError("disk is gone")

    results = Engine(ScriptedBackend(lambda prompt: "a"), CharTokenizer()).run(source(), Sampling(10))
    with pytest.raises(OSError, match="disk is gone"):
        list(results)


def test_engine_can_run_again() -> None:
    engine = Engine(ScriptedBackend(lambda prompt: "a"), CharTokenizer())
    for _ in range(2):
        assert [result.key for result in engine.run(prompts("p"), Sampling(5))] == ["0"]


def test_tokens_are_told_as_they_are_written_with_the_closing_between_passes() -> None:
    backend = ScriptedBackend(lambda prompt: "answer" if "</think>" in prompt else "z" * 500)
    scheduler = Engine(backend, CharTokenizer()).scheduler()
    told: list[list[int]] = []
    request = Request("p", (ids("p"),), seed=0)
    assert scheduler.submit(request, Sampling(100, 5, budget_closing="|</think>"), told.append) is None
    results: list[Result] = []
    while scheduler:
        results += scheduler.step()
    assert results[0].text == "zzzzz|</think>answer"
    assert told[:6] == [*([ord("z")] for _ in range(5)), ids("|</think>")]
    assert [token for tokens in told for token in tokens] == list(results[0].token_ids)


def test_requests_of_a_flight_have_settings_of_their_own_and_can_be_dropped() -> None:
    backend = ScriptedBackend(lambda prompt: prompt * 50)
    scheduler = Engine(backend, CharTokenizer()).scheduler()
    for name, most in (("a", 4), ("b", 7), ("c", 50)):
        assert scheduler.submit(Request(name, (ids(name),)), Sampling(most)) is None
    scheduler.step()
    scheduler.abort("c")
    scheduler.abort("nobody")
    assert len(scheduler) == len(backend.active) == 2
    results: list[Result] = []
    while scheduler:
        results += scheduler.step()
    assert [result.text for result in results] == ["aaaa", "bbbbbbb"]
    refused = scheduler.submit(Request("d", ([-1],)), Sampling(4))
    assert refused is not None and refused.status == "bad_prompt" and not scheduler


@pytest.mark.parametrize(
    ("most", "text"), [(3, "zzz"), (5, "zzzzz"), (13, "zzzzz"), (14, "zzzzz</think>.a"), (60, "")]
)
def test_the_whole_response_can_be_bounded(most: int, text: str) -> None:
    backend = ScriptedBackend(lambda prompt: "answer" if "</think>" in prompt else "z" * 500)
    sampling = Sampling(100, 5, budget_closing="</think>", max_total_tokens=most)
    result = run(backend, prompts("p"), sampling)["0"]
    assert result.text == (text.replace(".", "") or "zzzzz</think>answer")
    assert result.num_tokens <= most and (result.finish_reason == "length") == bool(text)


def test_options_are_scored_behind_the_thoughts_of_the_response() -> None:
    backend = ScriptedBackend(lambda prompt: "hm</think>\n\n<answer>x</answer>" if prompt == "p" else "z" * 99)
    requests = [Request(text, (ids(text),), options=(ids("red"), ids("eel"))) for text in ("p", "q")]
    sampling = Sampling(100, max_thinking_tokens=5, budget_closing=" stop.</think>\n")
    results = run(backend, requests, Sampling(50, budget_closing=" stop.</think>\n"))
    assert results["p"].option_logprobs == ((-2.0, -1.0, -2.0), (-1.0, -1.0, -2.0))
    assert results["p"].text.endswith("<answer>x</answer>")
    unfinished = "q" + "z" * 50 + " stop.</think>\n"
    asked = [f"{start}|{option}" for start in ("phm</think>\n\n", unfinished) for option in ("red", "eel")]
    assert sorted(backend.scored) == sorted(asked)
    backend.scored.clear()
    assert run(backend, requests[1:], sampling)["q"].budget_hit
    assert set(backend.scored) == {f"qzzzzz stop.</think>\n|{option}" for option in ("red", "eel")}


def test_a_model_without_thoughts_is_scored_at_once() -> None:
    backend = ScriptedBackend(lambda prompt: "some words")
    engine = Engine(backend, CharTokenizer("<|im_start|>assistant\n"))
    [result] = engine.run([Request("a", (ids("p"),), options=(ids("e"),))], Sampling(100))
    assert backend.scored == ["p|e"] and result.option_logprobs == ((-1.0,),)
    assert result.text == "some words"


@pytest.mark.parametrize("options", [(), ([],), ([1] * 5000,)])
def test_options_that_cannot_be_scored_leave_the_response(options: tuple[list[int], ...]) -> None:
    backend = ScriptedBackend(lambda prompt: "hm</think>a")
    result = run(backend, [Request("a", (ids("p"),), options=options)], Sampling(100))["a"]
    assert result.option_logprobs is None and result.text == "hm</think>a" and result.error is None
