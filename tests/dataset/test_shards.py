"""Shard sets: what is written is what is read, over HTTP too; broken rows, broken shards and servers that fail."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.common.paths import raw_dir
from src.common.retry import RetryPolicy
from src.dataset import remote_files
from src.dataset.corpus_names import expand_mixture
from src.dataset.examples import ExampleDataset
from src.dataset.mixture import Mixture, MixtureConfig, StreamConfig, TrainDatasetConfig, open_mixture, present_only
from src.dataset.sampler import StepPlan, StepSampler
from src.dataset.shard_index import read_index
from src.dataset.shard_set import BrokenRowError
from src.dataset.shard_writer import ShardSettings, expand_numbers, index_shards, write_shards
from tests.prompts.fakes import CharTokenizer
from tests.support.shard_server import ShardServer, serve
from tests.support.tiny_corpus import RAW_COLUMNS, RESPONSES, make_corpus, make_rows, save_split, wav_bytes

SMALL = ShardSettings(shard_mb=0.5)
ROW = [RESPONSES, "WithContext", 1.0, False]


@pytest.fixture()
def shards(tmp_path: Path) -> Path:
    """Shards of the training rows of a small corpus, a few rows in each."""
    make_corpus(24, 4)
    assert write_shards(RESPONSES, tmp_path / "shards", SMALL)
    return tmp_path / "shards"


@pytest.fixture()
def server(tmp_path: Path) -> Iterator[ShardServer]:
    """A server of the test's folder."""
    with serve(tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts without a wait."""
    monkeypatch.setattr(remote_files, "RETRIES", RetryPolicy(3, 0.0, 0.0, 5.0))


def open_at(address: Path | str, mode: str = "WithContext", **options: Any) -> Mixture:
    """The rows of one shard set."""
    return open_mixture(MixtureConfig([[str(address), mode, 1.0, False]], **options))


def rewrite(tar: Path, name: str, content: bytes) -> None:
    """Replace the content of one member, of the same size."""
    with tarfile.open(tar) as archive:
        member = archive.getmember(name)
    assert len(content) <= member.size
    with tar.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(content.ljust(member.size))


def test_rows_are_those_of_the_set(shards: Path) -> None:
    rows, streamed = open_mixture(MixtureConfig([ROW])), open_at(shards)
    assert len(list(shards.glob("*.tar"))) > 3
    ours = {streamed[place].key: streamed[place] for place in range(len(streamed))}
    assert len(ours) == len(rows) == 20
    lengths = dict(zip(ours, streamed.lengths(), strict=True))
    for place in range(len(rows)):
        row = rows[place]
        other = ours[row.key]
        assert row.audio is not None and other.audio is not None
        assert other.audio["bytes"] == row.audio["bytes"] and other.audio["path"].endswith(".wav")
        assert (other.context, other.target, other.audio_description) == (
            row.context,
            row.target,
            row.audio_description,
        )
        assert lengths[row.key] == pytest.approx(rows.lengths()[place], abs=0.01)
    assert list(ours) != sorted(ours)  # shuffled over the whole set
    assert np.nansum(streamed.seconds()) == pytest.approx(np.nansum(rows.seconds()), abs=0.05)


def test_sets_of_given_answers_and_a_prompt(tmp_path: Path) -> None:
    rows = [row | {"text": f"text {place}"} for place, row in enumerate(make_rows(3))]
    save_split(raw_dir("mine"), rows, (*RAW_COLUMNS, "text"))
    write_shards("mine", tmp_path / "own", SMALL)
    streamed = open_at(tmp_path / "own", "Text", prompt="transcribe")
    assert sorted(streamed[place].target for place in range(3)) == ["text 0", "text 1", "text 2"]
    assert all(streamed[place].given and streamed[place].context == "transcribe" for place in range(3))
    with pytest.raises(UserError, match="no targets for WithContext; it has Text"):
        open_at(tmp_path / "own")
    with pytest.raises(UserError, match="rows of split 'train', 'validation' is asked for"):
        open_at(tmp_path / "own", "Text", split="validation")


def test_finished_shards_are_kept_and_killed_ones_continued(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in shards.iterdir() if path.is_file()}
    assert not write_shards(RESPONSES, shards, SMALL)
    # as a kill leaves it: two shards and half a line of the third
    (shards / "index.json").unlink()
    lines = (shards / "progress.jsonl").read_text().splitlines(keepends=True)
    (shards / "progress.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    for path in sorted(shards.glob("*.tar"))[2:]:
        path.unlink()
    assert write_shards(RESPONSES, shards, SMALL)
    assert {path.name: path.read_bytes() for path in shards.iterdir() if path.is_file()} == before
    with pytest.raises(UserError, match="overwrite"):
        write_shards(RESPONSES, shards, ShardSettings(shard_mb=0.5, seed=1))
    assert write_shards(RESPONSES, shards, ShardSettings(shard_mb=0.5, seed=1), overwrite=True)


def test_over_http_each_shard_is_fetched_once_and_the_cache_stays_small(
    shards: Path, server: ShardServer, tmp_path: Path
) -> None:
    local = open_at(shards)
    sizes = [path.stat().st_size for path in shards.glob("*.tar")]
    limit = StreamConfig(shuffle_rows=2, cache_dir=str(tmp_path / "cache"), cache_gb=sum(sorted(sizes)[-5:]) / 1e9)
    remote = open_at(f"{server.url}/shards", stream=limit)
    assert remote.order is not None and local.order is not None
    # one after another through the shards, as an evaluation does
    for place in remote.order.by_shard(None).tolist():
        assert remote[place] == local[place]
    tars = [name for name in server.asked if name.endswith(".tar")]
    assert len(tars) == len(set(tars)) == len(sizes)
    kept = [path.stat().st_size for path in (tmp_path / "cache").glob("*.shard")]
    assert sum(kept) <= limit.cache_gb * 1e9 and not list((tmp_path / "cache").glob("*.part"))
    with pytest.raises(UserError, match="cache_gb=1e-05: shuffle_rows=20 uses"):
        open_at(f"{server.url}/shards", stream=StreamConfig(20, str(tmp_path / "cache"), 1e-5))


def test_a_server_that_fails_is_asked_again_and_then_named(shards: Path, server: ShardServer) -> None:
    server.failures = 2
    rows = open_at(f"{server.url}/shards")  # the index
    server.failures = 2
    assert rows[0].target
    server.failures, server.only = 100, ".tar"
    last = len(rows) - 1
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:\d+/shards/\d+.tar: 3 attempts failed, the last with .*503"
    ):
        ExampleDataset(rows, CharTokenizer())[last]
    server.failures = 0
    with pytest.raises(UserError, match="nowhere/index.json does not exist"):
        open_at(f"{server.url}/nowhere")


@pytest.mark.parametrize("damage", ["content", "size"])
def test_a_broken_shard_is_named(shards: Path, server: ShardServer, damage: str) -> None:
    rows = open_at(f"{server.url}/shards")
    tar = shards / "00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:-1] if damage == "size" else content[:-1] + b"x")
    with pytest.raises(UserError, match="/shards/00000.tar: 3 attempts failed, .*(bytes came|sha256)"):
        rows[0]
    tar.write_bytes(content[:-1])
    with pytest.raises(UserError, match="00000.tar has .* bytes, its index says"):
        open_at(shards)[0]


def test_a_broken_row_is_replaced_by_one_of_its_shard(shards: Path) -> None:
    with tarfile.open(shards / "00001.tar") as archive:
        names = archive.getnames()
    clips = [name for name in names if name.endswith(".wav")]
    rewrite(shards / "00001.tar", names[0], b"{ not json")
    rewrite(shards / "00001.tar", clips[1], b"not audio")
    rows = open_at(shards)
    first = int(np.searchsorted(rows.order.shards, 1))  # type: ignore[union-attr]
    with pytest.raises(BrokenRowError, match="00001.tar, row 0: its texts cannot be read"):
        rows[first]
    examples = ExampleDataset(rows, CharTokenizer())
    same_shard = {rows[place].key for place in range(first + 1, len(rows)) if rows.order.shards[place] == 1}  # type: ignore[union-attr]
    for place, named in ((first, "00001.tar, row 0"), (first + 1, f"mini/{int(clips[1].split('.')[0])}")):
        example = examples[place]
        assert example.replaced[0].endswith(named) and example.key in same_shard


def test_missing_sets_and_their_names(tmp_path: Path) -> None:
    missing = TrainDatasetConfig("x", MixtureConfig([[f"{tmp_path}/absent", "Text", 1.0, False]]))
    with pytest.raises(UserError, match="1 of 1 response sets lack folders: .*absent"):
        present_only(missing)
    remote = TrainDatasetConfig("x", MixtureConfig([["http://host/set", "Text", 1.0, False]]))
    assert present_only(remote) == (remote, ())


def test_the_group_shards() -> None:
    with pytest.raises(ConfigError, match="shards: which sets"):
        expand_mixture(compose("train", ["model=mini_whisper", "dataset=shards"])["dataset"])
    with pytest.raises(ConfigError, match=r"'mine' is not an address or a path; for a folder here: ./mine"):
        expand_mixture({"name": "x", "shards": ["mine"]})
    words = ["dataset.shards=[s3://b/one,./two]", "dataset.modes=[WithContext,NoContext]"]
    words += ["dataset.eval_shards=[s3://b/held]", "dataset.stream.shuffle_rows=7"]
    found = expand_mixture(compose("train", ["model=mini_whisper", "dataset=shards", *words])["dataset"])
    assert [row[:2] for row in found["train"]["rows"]] == [
        ["s3://b/one", "WithContext"],
        ["s3://b/one", "NoContext"],
        ["./two", "WithContext"],
        ["./two", "NoContext"],
    ]
    assert found["train"]["stream"]["shuffle_rows"] == 7
    assert found["eval"]["held"]["split"] == "validation"


def test_two_modes_share_their_shards(tmp_path: Path) -> None:
    rows = make_rows(9)
    for place, row in enumerate(rows):
        row["llm_answer_no_context"] = "" if place % 3 else f"answer {place}"
    from tests.support.tiny_corpus import save_raw, save_responses

    save_raw(rows)
    save_responses(rows)
    write_shards(RESPONSES, tmp_path / "both", SMALL)
    index = read_index(str(tmp_path / "both"))
    assert sorted(index.sizes) == ["NoContext", "WithContext"]
    both = open_mixture(
        MixtureConfig([[str(tmp_path / "both"), mode, 1.0, False] for mode in ("WithContext", "NoContext")])
    )
    assert len(both) == 12 and both.order is not None
    assert set(both.order.shards[:9]) == set(range(len(index.shards)))
    assert {both[place].target for place in range(9, 12)} == {"answer 0", "answer 3", "answer 6"}
    assert all(both[place].context == "" for place in range(9, 12))


def test_shards_of_other_programs(tmp_path: Path, server: ShardServer) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"web-{number}.tar", "w") as archive:
            for place in range(3):
                clip = b"broken" if (number, place) == (1, 2) else wav_bytes(0.5, place)
                texts = {"text": f"{number} {place}", "prompt": "what?", "duration": float("nan")}
                for suffix, content in ((".wav", clip), (".json", json.dumps(texts).encode())):
                    if suffix == ".json" and number == 0:
                        suffix, content = ".txt", texts["text"].encode()
                    member = tarfile.TarInfo(f"part/{place}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    addresses = expand_numbers(f"{server.url}/web-{{0..1}}.tar")
    assert index_shards(addresses[:1], tmp_path / "sound") == {}
    assert index_shards(addresses, tmp_path / "web") == {"undecodable clip": 1}
    rows = open_at(tmp_path / "web", "Text", prompt="transcribe")
    assert [rows[place].target for place in range(6)] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    seconds = rows.seconds()
    assert seconds is not None and seconds.tolist() == pytest.approx([0.5] * 5 + [0.0])


def test_order_is_seeded_local_and_complete() -> None:
    rows = MixedOrder(shards=40, of=50, here=500)
    order = rows.order.draw(np.random.default_rng([1, 0]))
    assert sorted(order.tolist()) == list(range(2500))
    assert np.array_equal(order, rows.order.draw(np.random.default_rng([1, 0])))
    assert not np.array_equal(order, rows.order.draw(np.random.default_rng([1, 1])))
    used = [rows.order.shards[order[start : start + 10]] for start in range(0, 2500, 10)]
    first = {shard: next(place for place, step in enumerate(used) if shard in step) for shard in range(40)}
    last = {shard: max(place for place, step in enumerate(used) if shard in step) for shard in range(40)}
    at_once = max(sum(first[shard] <= place <= last[shard] for shard in range(40)) for place in range(250))
    assert 2 < at_once <= 100 / 50 + 3  # those that 100 rows of shuffling need
    here = np.flatnonzero(rows.order.shards[order] == -1)
    assert np.abs(np.histogram(here, bins=5, range=(0, 2500))[0] - 100).max() < 40


class MixedOrder:
    """An order of shards and rows on this machine."""

    def __init__(self, shards: int, of: int, here: int) -> None:
        from src.dataset.stream_order import StreamOrder

        numbers = np.concatenate([np.repeat(np.arange(shards), of), np.full(here, -1)])
        self.order = StreamOrder(numbers, shuffle_rows=100)


def test_steps_name_the_shards_that_follow() -> None:
    order = MixedOrder(shards=20, of=30, here=0).order
    sampler = StepSampler(600, StepPlan(4, grouping="none"), seed=3, world=2, stream=order)
    steps = list(sampler)
    named: set[int] = set()
    for step in steps:
        named |= set(step.upcoming)  # type: ignore[attr-defined]
        assert {int(order.shards[row]) for part in step for row in part} <= named
    assert named == set(range(20))
    assert sum(len(step.upcoming) for step in steps) == 20  # type: ignore[attr-defined]
