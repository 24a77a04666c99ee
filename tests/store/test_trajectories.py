"""The cache of trajectories: what goes in comes out, once, whoever else writes, is killed, or gets no answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.s3.fault_plans import Fault, Rule, scripted
from infra.s3.faults import FaultProxy, running_proxy
from infra.s3.server import S3Server
from pipeline.errors import SettingsError, TableError
from pipeline.records import FinishReason
from pipeline.store import swaps
from pipeline.store.database import Database
from pipeline.store.trajectories import _MAX_SMALL, TrajectoryCache
from pipeline.store.trajectory_rows import Cached, prune_condition, to_cached, to_rows
from tests.store.trajectory_rows import cached, key

SCRIPT = Path(__file__).with_name("trajectory_process.py")
ROOT = Path(__file__).resolve().parents[2]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture
def cache(database: Database) -> TrajectoryCache:
    return TrajectoryCache(database)


def _start(uri: str, first: int, num: int, at_once: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), uri, str(first), str(num), str(at_once)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _say(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _keys(cache: TrajectoryCache) -> list[str]:
    return sorted(key for batch in cache.batches(columns=["key"]) for key in batch["key"].to_pylist())


def _numbers(*numbers: int) -> list[str]:
    return sorted(map(key, numbers))


def test_an_absent_table_holds_nothing(cache: TrajectoryCache) -> None:
    assert (cache.count(), cache.find(["k"]), list(cache.batches()), cache.size_bytes()) == (0, {}, [], 0)
    assert cache.add([]) == 0
    assert cache.set_vectors({key(1): np.ones(2, np.float32)}, encoder="f") == 0


def test_what_is_added_is_found_once(cache: TrajectoryCache) -> None:
    blank = replace(cached(3), vector=None, encoder="")
    assert cache.add([cached(1), cached(2), blank, cached(1)]) == 3
    assert cache.add([replace(cached(1), encoder="later"), cached(4)]) == 1
    found = cache.find([key(1), key(3), "absent"])
    assert set(found) == {key(1), key(3)}
    assert (found[key(1)].trajectory, found[key(1)].encoder) == (cached(1).trajectory, "e")
    np.testing.assert_array_equal(found[key(1)].vector, [1, 1])
    assert found[key(3)].vector is None
    assert cache.count() == 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(FinishReason), st.none() | st.lists(st.floats(width=32)))))
def test_rows_round_trip(parts: list[tuple[str, str, FinishReason, list[float] | None]]) -> None:
    rows = [
        Cached(
            replace(cached(number).trajectory, query=query, text=text, finish_reason=finish, sample=number),
            None if vector is None else np.asarray(vector, np.float32),
        )
        for number, (query, text, finish, vector) in enumerate(parts)
    ]
    back = to_cached(to_rows(rows))
    assert [row.trajectory for row in back] == [row.trajectory for row in rows]
    for row, made in zip(rows, back, strict=True):
        assert (row.vector is None) == (made.vector is None)
        if row.vector is not None:
            np.testing.assert_array_equal(made.vector, row.vector)


def test_another_encoders_vectors_take_the_place_of_the_first(cache: TrajectoryCache) -> None:
    cache.add([cached(number) for number in range(5)])
    vectors = {key(number): np.full(3, 9, np.float32) for number in (1, 3, 77)}
    assert cache.set_vectors(vectors, encoder="f") == 2
    assert cache.set_vectors(vectors, encoder="f") == 0
    found = cache.find(_numbers(*range(5)))
    assert {number: found[key(number)].encoder for number in range(5)} == {0: "e", 1: "f", 2: "e", 3: "f", 4: "e"}
    np.testing.assert_array_equal(found[key(3)].vector, [9, 9, 9])
    np.testing.assert_array_equal(found[key(4)].vector, [4, 1])
    assert found[key(3)].trajectory == cached(3).trajectory
    assert cache.set_vectors({key(4): None, key(0): np.ones(2, np.float32)}, encoder="g") == 2
    found = cache.find(_numbers(0, 4))
    assert (found[key(4)].vector, found[key(4)].encoder) == (None, "g")
    np.testing.assert_array_equal(found[key(0)].vector, [1, 1])
    assert _keys(cache) == _numbers(*range(5))


def test_many_small_fragments_are_written_together(cache: TrajectoryCache) -> None:
    numbers = range(_MAX_SMALL + 2)
    assert sum(cache.add([cached(number)]) for number in numbers) == len(numbers)
    dataset = cache._swapper.open()
    assert dataset is not None
    assert len(dataset.get_fragments()) < _MAX_SMALL
    assert _keys(cache) == _numbers(*numbers)


def test_prune_deletes_what_meets_every_condition(cache: TrajectoryCache) -> None:
    cut = FinishReason.LENGTH
    cache.add([cached(1), cached(2, finish=cut), cached(3, reasoner="it's"), cached(4, reasoner="it's", finish=cut)])
    assert cache.prune(prune_condition(older_than=timedelta(days=1))) == 0
    assert cache.prune(prune_condition(reasoners=["it's"], finish_reasons=[cut])) == 1
    assert cache.prune(prune_condition(keep_reasoners=["it's"])) == 2
    assert [row["query"] for batch in cache.batches() for row in batch.to_pylist()] == ["what is 3?"]
    assert cache.prune(prune_condition(older_than=timedelta(0))) == 1
    assert cache.count() == 0
    with pytest.raises(SettingsError, match="nothing says which"):
        prune_condition()


def test_a_table_with_other_columns_is_refused(database: Database, cache: TrajectoryCache) -> None:
    database.append("trajectories", pa.table({"key": ["k"]}))
    with pytest.raises(TableError, match="another release"):
        cache.find(["k"])


OTHERS: dict[str, Callable[[TrajectoryCache], object]] = {
    "add": lambda cache: cache.add([cached(0), cached(5), cached(6)]),
    "vectors": lambda cache: cache.set_vectors({key(0): np.zeros(2, np.float32)}, encoder="g"),
    "prune": lambda cache: cache.prune(f"key = '{key(0)}'"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("mine", OTHERS)
def test_a_change_that_came_first_is_seen(
    database: Database, cache: TrajectoryCache, monkeypatch: pytest.MonkeyPatch, mine: str, other: str
) -> None:
    cache.add([cached(0), cached(1)])
    real, raced = swaps._commit, []

    def commit(*arguments: object) -> object:
        if not raced:
            raced.append(True)
            OTHERS[other](TrajectoryCache(database))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(swaps, "_commit", commit)
    OTHERS[mine](cache)
    found = _keys(cache)
    assert raced
    assert len(found) == len(set(found))
    added = {5, 6} if "add" in (mine, other) else set()
    # what was deleted before it was added is there again
    stays = set() if "prune" in (mine, other) and (mine, other) != ("add", "prune") else {0}
    # an add that was planned while the row was there plans again once it is gone
    assert found == _numbers(1, *added, *stays)


def test_processes_that_add_the_same_keys_at_once_leave_one_of_each(database: Database) -> None:
    writers = [_start(database.uri, first, 30, 3) for first in (0, 10, 20)]
    assert [_say(writer) for writer in writers] == ["ready"] * 3
    for writer in writers:
        _go(writer)
    written = 0
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        written += sum(map(int, output.split()))
    assert _keys(TrajectoryCache(database)) == _numbers(*range(50))
    assert written == 50


def test_a_killed_writers_rows_are_there_or_are_added_again(database: Database) -> None:
    writer = _start(database.uri, 0, 400, 2)
    assert _say(writer) == "ready"
    _go(writer)
    said = [_say(writer) for _ in range(3)]
    writer.kill()
    writer.communicate()
    cache = TrajectoryCache(database)
    before = cache.count()
    assert said == ["2"] * 3
    assert 6 <= before < 400
    assert cache.add([cached(number) for number in range(400)]) == 400 - before
    assert _keys(cache) == _numbers(*range(400))


@pytest.fixture
def proxy(s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with running_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.mark.s3
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.RESET, Fault.LOST_ERROR, Fault.SLOW_DOWN])
@pytest.mark.parametrize("path", [r"_versions/\d", "data/"])
def test_a_lost_answer_doubles_nothing(s3: str, proxy: FaultProxy, fault: Fault, path: str) -> None:
    cache = TrajectoryCache(Database.at(s3))
    assert cache.add([cached(1)]) == 1
    proxy.plan = scripted(Rule(fault, "PUT", path), Rule(Fault.RESET, "HEAD", path, times=4))
    assert cache.add([cached(1), cached(2)]) == 1
    assert proxy.injected()
    assert cache.set_vectors({key(2): np.zeros(2, np.float32)}, encoder="f") == 1
    assert _keys(cache) == _numbers(1, 2)
