"""``scripts/check_server.py`` at a tiny size, against the server over fakes: hostile clients change no answer."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

import pytest

from src.serving.config import Limits, ServeConfig
from tests.serving.client import running, script
from tests.serving.fakes import engine
from tests.support.hostile_clients import Watch, broken, check, silence, tree_memory

LIMITS = Limits(
    decoders=2, body_mib=1.0, text_mib=0.1, samples=3_000_000, request_samples=3_000_000, body_seconds=2.0
)


def arguments(url: str) -> argparse.Namespace:
    return argparse.Namespace(
        url=url,
        pid=None,
        seconds=2.0,
        idle=40,
        body_mib=0.9,
        silence_seconds=5.0,
        slowdown=1e9,  # times on a busy machine are no matter of a test
        health=1e9,
        memory=1e9,
    )


@pytest.mark.slow
def test_hostile_clients_change_no_answer_of_a_normal_one() -> None:
    made = engine(script, context=20_000, seconds=0.0005)
    with running(ServeConfig(limits=LIMITS), made) as (address, _):
        args = arguments(address)
        found = check(args)
    assert broken(found, args) == [] and min(found["answers"]) >= 1
    statuses = set(found["attacks"])
    assert {"silence 400", "body 413"} <= statuses <= {"silence 400", "body 413", "body closed", "silence closed"}


def test_every_bound_can_be_broken() -> None:
    args = argparse.Namespace(slowdown=2.0, health=0.2, memory=1536.0)
    good = {"slowdown": 1.0, "health_slowest_s": 0.1, "memory_mib": 10, "wrong_answers": 0, "health_failed": 0}
    assert broken(good, args) == []
    for name, value in {
        "slowdown": 3,
        "health_slowest_s": 1,
        "memory_mib": 2000,
        "wrong_answers": 1,
        "health_failed": 1,
    }.items():
        assert broken({**good, name: value}, args) == [name]


def test_memory_counts_children() -> None:
    assert tree_memory(os.getpid()) > 10
    assert tree_memory(2**22 + 1) == 0.0  # there is no such process


def test_silence_is_small_for_its_length() -> None:
    assert len(silence(30.0)) < 100_000


def test_a_wrong_answer_is_noticed() -> None:
    with running(ServeConfig(limits=replace(LIMITS, clips=1))) as (address, _):
        watch = Watch(address, "m", None)
        assert watch.ask()[1]
        watch._body["messages"] = []
        assert not watch.ask()[1]
