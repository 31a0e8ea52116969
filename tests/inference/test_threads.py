"""Threads that encode share the cores with an engine that decodes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from src.inference.engine import Engine
from src.inference.scheduler import StepOutput
from src.inference.threads import share_cores
from src.inference.types import Request, Sampling
from tests.generation.fakes import ScriptedBackend
from tests.serving.fakes import engine

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is changed beside a GPU")


def _count() -> int:
    return torch.get_num_threads()


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch._C.set_num_threads(4)
    yield
    torch._C.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_half_of_the_threads_while_the_engine_is_busy_in_this_thread_only() -> None:
    with ThreadPoolExecutor(1) as encoding, ThreadPoolExecutor(1) as decoding:
        assert decoding.submit(_count).result() == 4
        for busy, expected in ((False, 4), (True, 2), (True, 2), (False, 4), (True, 2)):
            encoding.submit(share_cores, busy).result()
            assert encoding.submit(_count).result() == expected
            assert _count() == decoding.submit(_count).result() == 4
        with ThreadPoolExecutor(1) as later:
            assert later.submit(_count).result() == 4, "threads to come have all of them"


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.usefixtures("four_threads")
def test_one_that_encodes_and_one_that_decodes_use_half_of_the_threads_each(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedBackend, "shares_cores", shared)
    decoded: list[int] = []
    step = ScriptedBackend.step

    def counted(backend: ScriptedBackend) -> list[StepOutput]:
        decoded.append(_count())
        return step(backend)

    monkeypatch.setattr(ScriptedBackend, "step", counted)
    tested: Engine = engine(lambda prompt: "yes")

    def encode() -> int:
        with tested.encoding():
            decoding.submit(tested.step).result()
            return _count()

    with ThreadPoolExecutor(1) as encoding, ThreadPoolExecutor(1) as decoding:
        scheduler = tested.scheduler()
        scheduler.submit(Request("busy", ([1, 2],)), Sampling(9))
        assert encoding.submit(encode).result() == (2 if shared else 4)
        decoding.submit(tested.step).result()
        scheduler.clear()
        assert encoding.submit(encode).result() == 4, "nobody decodes"
    assert decoded[:2] == ([2, 4] if shared else [4, 4]), "while clips are encoded, and afterwards"


@pytest.mark.usefixtures("four_threads")
def test_a_run_gives_the_threads_back() -> None:
    before, tested = _count(), engine(lambda prompt: "yes")
    requests = (Request(str(number), ([1, number],)) for number in range(20))
    assert len(list(tested.run(requests, Sampling(9)))) == 20
    assert _count() == before
