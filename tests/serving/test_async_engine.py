"""The engine and the audio batcher, each in its thread."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from src.audio.waveform import Waveform
from src.inference.types import Request, Result, Sampling
from src.serving.async_engine import AsyncEngine, RequestHandle
from src.serving.audio_batcher import AudioBatcher
from src.serving.clip_decoder import ApiError
from tests.serving.fakes import FakeEnsemble, engine


def request(key: str, prompt: str = "p") -> Request:
    return Request(key, (list(map(ord, prompt)),))


async def whole(handle: RequestHandle) -> tuple[list[int], Result]:
    tokens: list[int] = []
    while True:
        event = await asyncio.wait_for(handle.events.get(), 10)
        if isinstance(event, Result):
            return tokens, event
        tokens += event


def test_many_wait_at_once_and_each_gets_its_own() -> None:
    async def run() -> None:
        served = AsyncEngine(engine(lambda prompt: prompt * 3, max_in_flight=5, seconds=0.0))
        handles = [served.submit(request(str(n), f"<{n}>"), Sampling(100), streamed=n % 2 == 0) for n in range(40)]
        found = await asyncio.gather(*map(whole, handles))
        for number, (tokens, result) in enumerate(found):
            assert result.text == f"<{number}>" * 3 and result.key == str(number)
            assert tokens == (list(result.token_ids) if number % 2 == 0 else [])
        await served.close()

    asyncio.run(run())
    assert not any(thread.name == "engine" for thread in threading.enumerate())


def test_tokens_come_while_it_writes_and_settings_are_each_ones_own() -> None:
    async def run() -> None:
        served = AsyncEngine(engine(lambda prompt: prompt * 200))
        long = served.submit(request("long", "a"), Sampling(100), streamed=True)
        short = served.submit(request("short", "b"), Sampling(3), streamed=False)
        assert (await whole(short))[1].text == "bbb"
        assert isinstance(await long.events.get(), list)
        assert (await whole(long))[1].num_tokens == 100
        await served.close()

    asyncio.run(run())


def test_tokens_of_many_are_told_together() -> None:
    """Forty streams write a thousand tokens a second each: each is told of many at a time, and of all in order."""

    async def run() -> None:
        served = AsyncEngine(engine(lambda prompt: prompt * 5, seconds=0.001))
        text = "".join(map(chr, range(97, 117)))
        handles = [served.submit(request(str(n), text), Sampling(100), streamed=True) for n in range(40)]

        async def tellings(handle: RequestHandle) -> list[list[int]]:
            found: list[list[int]] = []
            while not isinstance(event := await handle.events.get(), Result):
                found.append(event)
            assert [token for each in found for token in each] == list(event.token_ids)
            assert event.num_tokens == 100
            return found

        for found in await asyncio.gather(*map(tellings, handles)):
            assert 2 <= len(found) <= 50
        await served.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_aborted_requests_leave_the_engine() -> None:
    async def run() -> None:
        made = engine(lambda prompt: prompt * 5000, max_in_flight=2)
        served = AsyncEngine(made)
        handles = [served.submit(request(str(n)), Sampling(4000), streamed=True) for n in range(4)]
        await handles[0].events.get()
        for handle in (handles[0], handles[3], handles[3]):  # one that runs, one that waits, and again
            served.abort(handle)
        while len(made.backend.calls) < 3:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        served.abort(handles[1])
        served.abort(handles[2])
        while made.backend.active:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        assert len(made.backend.calls) == 3  # type: ignore[attr-defined]
        await served.close()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_closing_finishes_what_runs() -> None:
    async def run() -> None:
        served = AsyncEngine(engine(lambda prompt: "x" * 100, max_in_flight=1))
        handles = [served.submit(request(str(n)), Sampling(200), streamed=False) for n in range(2)]
        await served.close()
        assert [(await whole(handle))[1].text for handle in handles] == ["x" * 100] * 2
        assert "ended" in str((await whole(served.submit(request("late"), Sampling(2), False)))[1].error)

    asyncio.run(run())


def test_a_failing_engine_is_told_to_all_who_wait() -> None:
    async def run() -> None:
        served = AsyncEngine(engine(lambda prompt: "x" * 100, max_in_flight=2, fails_at=5))
        handles = [served.submit(request(str(n)), Sampling(200), streamed=True) for n in range(4)]
        for handle in handles:
            assert "engine failed" in str((await whole(handle))[1].error)
        assert "RuntimeError" in str(served.failure)
        assert "engine failed" in str((await whole(served.submit(request("late"), Sampling(2), False)))[1].error)
        await served.close()

    asyncio.run(run())


def tone(seconds: float, loud: float = 0.5) -> Waveform:
    return Waveform(torch.full((1, round(1000 * seconds)), loud), 1000)


class GatedEnsemble(FakeEnsemble):
    """Waits before its first batch, so that others arrive meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()

    def encode(self, waveforms: Any) -> Any:
        self.entered.set()
        self.gate.wait(10)
        return super().encode(waveforms)


def embed(batcher: AudioBatcher, clip: Waveform, model: str = "m") -> Any:
    return batcher.embed(model, clip, f"{clip.duration} {float(clip.samples.abs().max())}")


def test_what_waits_together_is_encoded_together() -> None:
    ensembles, sizes = GatedEnsemble(), []
    batcher = AudioBatcher(
        {"m": ensembles, "other": ensembles}, 4, on_batch=lambda size: nullcontext(sizes.append(size))
    )
    first = embed(batcher, tone(1))
    assert ensembles.entered.wait(10)
    futures = [embed(batcher, tone(1 + n / 10), "m" if n % 3 else "other") for n in range(9)]
    cancelled = embed(batcher, tone(7))
    cancelled.cancel()
    ensembles.gate.set()
    assert len(first.result(10)[0]) == 10
    assert [len(future.result(10)[0]) for future in futures] == [10 + n for n in range(9)]
    batcher.close()
    assert sizes[0] == 1 and max(sizes) == 4 and len(sizes) <= 5
    assert all(7.0 not in batch for batch in ensembles.batches)


def test_a_long_clip_is_not_padded_around_many() -> None:
    ensembles = GatedEnsemble()
    batcher = AudioBatcher({"m": ensembles}, 4)
    blocked = embed(batcher, tone(0.5))
    assert ensembles.entered.wait(10)
    futures = [embed(batcher, tone(seconds)) for seconds in (100, 1, 2, 3)]
    ensembles.gate.set()
    for future in (blocked, *futures):
        future.result(10)
    assert ensembles.batches[1:] == [[100.0], [1.0, 2.0, 3.0]]
    batcher.close()


def test_the_oldest_clip_is_encoded_with_those_of_similar_length() -> None:
    ensembles = GatedEnsemble()
    batcher = AudioBatcher({"m": ensembles}, 3)
    blocked = embed(batcher, tone(0.5))
    assert ensembles.entered.wait(10)
    futures = [embed(batcher, tone(seconds)) for seconds in (4, 1, 9, 3.8, 1.2, 4.1, 8)]
    ensembles.gate.set()
    for future in (blocked, *futures):
        future.result(10)
    assert ensembles.batches[1:] == [[4.0, 4.1, 3.8], [1.0, 1.2, 8.0], [9.0]]
    batcher.close()


def test_clips_wait_for_others_only_while_the_engine_has_work() -> None:
    ensembles, busy = FakeEnsemble(), threading.Event()
    busy.set()
    batcher = AudioBatcher({"m": ensembles}, 2, may_wait=busy.is_set)
    few = [embed(batcher, tone(seconds)) for seconds in (1, 3, 1.1)]
    time.sleep(0.2)
    assert not ensembles.batches
    busy.clear()
    assert [len(future.result(10)[0]) for future in few] == [10, 30, 11]
    assert ensembles.batches == [[1.0, 1.1], [3.0]]
    busy.set()
    assert len(embed(batcher, tone(3)).result(10)[0]) == 30, "what is in the cache does not wait"
    many = [embed(batcher, tone(seconds)) for seconds in (2, 4, 5, 2.2, 4.2, 5.2, 6, 7)]
    many[0].result(10)
    assert ensembles.batches[2] == [2.0, 2.2], "enough to choose from"
    batcher.close()
    assert all(future.done() for future in many)


def test_one_bad_clip_costs_one_request_and_known_clips_cost_nothing() -> None:
    ensembles = GatedEnsemble()
    batcher = AudioBatcher({"m": ensembles}, 8)
    blocked = embed(batcher, tone(0.5))
    assert ensembles.entered.wait(10)
    good, bad, again = embed(batcher, tone(1)), embed(batcher, tone(1, 0.95)), embed(batcher, tone(2))
    ensembles.gate.set()
    blocked.result(10)
    with pytest.raises(ApiError, match="too loud"):
        bad.result(10)
    assert len(good.result(10)[0]) == 10 and len(again.result(10)[0]) == 20
    count = len(ensembles.batches)
    assert torch.equal(embed(batcher, tone(1)).result(10)[0], good.result()[0])
    assert len(ensembles.batches) == count
    batcher.close()


def test_kept_embeddings_are_bounded() -> None:
    ensembles = FakeEnsemble()
    batcher = AudioBatcher({"m": ensembles}, 8, cache_mib=0.001)  # three clips of 10 frames x 8 floats
    for loud in (0.1, 0.2, 0.3, 0.4, 0.4):
        embed(batcher, tone(1, loud)).result(10)
    assert len(ensembles.batches) == 4
    embed(batcher, tone(1, 0.1)).result(10)
    assert len(ensembles.batches) == 5
    batcher.close()
