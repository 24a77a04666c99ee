"""The lease on a disk and in an object store: one holder at a time, whatever stalls, fails or has another clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from pipeline.errors import LeaseHeld, LeaseLost, StorageError, TableError
from pipeline.storage import open_filesystem
from pipeline.store import lease, lease_holder, lease_record
from pipeline.store.database import Database
from pipeline.store.lease import Lease, read_lease
from pipeline.store.lease_record import read_record
from tests.store.leases import TTL_S, Clock, record_of, rewrite, take_elsewhere

_YEAR_S = 365 * 86_400.0


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database.at(f"{request.getfixturevalue('s3') if request.param == 's3' else tmp_path}/db")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that only the test moves; heartbeats, which count real seconds, do not come."""
    made = Clock()
    monkeypatch.setattr(lease, "time", made)
    monkeypatch.setattr(lease_holder, "time", made)
    monkeypatch.setattr(lease, "_RENEW_SHARE", 1e4)
    return made


def _acquire(database: Database, run_id: str, *, said: list[str] | None = None) -> Lease:
    return Lease.acquire(database, run_id=run_id, ttl_s=TTL_S, say=None if said is None else said.append)


def _quick_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEW_SHARE", 0.02 / TTL_S)
    monkeypatch.setattr(lease_holder, "_MAX_POLL_S", 0.02)


def _commits_that(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Callable[[], Any]], Any]) -> None:
    """Every commit is what `outcome` makes of it."""
    commit = lance.LanceDataset.commit

    def patched(*args: Any, **kwargs: Any) -> Any:
        return outcome(partial(commit, *args, **kwargs))

    monkeypatch.setattr(lance.LanceDataset, "commit", patched)


def test_released_and_taken_again(database: Database) -> None:
    assert read_lease(database) is None
    tokens = []
    for run_id in ("one", "two", "three"):
        with _acquire(database, run_id) as held:
            found = read_lease(database)
            assert found is not None
            assert (found.run_id, found.token, found.expired) == (run_id, held.token, False)
            held.check()
            tokens.append(held.token)
            assert not held.took_over
        assert read_lease(database) is None
    assert tokens == sorted(set(tokens))


def test_a_released_lease_is_no_longer_held(database: Database) -> None:
    held = _acquire(database, "one")
    held.release()
    held.release()
    with pytest.raises(LeaseLost, match="run one has released"):
        held.check()


def test_a_run_that_failed_leaves_the_table_to_be_fenced(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), _acquire(database, "one"):
        _ = 1 / 0
    with _acquire(database, "two") as two:
        assert two.took_over
    with _acquire(database, "three") as three:
        assert not three.took_over


def test_exactly_one_of_many_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _quick_signs_of_life(monkeypatch)
    won: list[Lease] = []
    lost: list[str] = []
    together = threading.Barrier(6)

    def compete(run_id: str) -> None:
        together.wait()
        try:
            won.append(_acquire(database, run_id))
        except LeaseHeld as error:
            lost.append(str(error))

    threads = [threading.Thread(target=compete, args=(f"run-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert len(lost) == 5
    assert all(f"written by run {winner.run_id} on " in message for message in lost)
    winner.check()
    winner.release()


def test_the_loser_is_told_who_where_and_since_when(database: Database, clock: Clock) -> None:
    take_elsewhere(database, run_id="nightly", pid=41, acquired_at=0.0, renewed_at=60.0)
    clock.meanwhile = [lambda: None, lambda: _beat(database)]
    said: list[str] = []
    with pytest.raises(LeaseHeld) as raised:
        _acquire(database, "two", said=said)
    assert str(raised.value) == (
        f"{database.uri} is being written by run nightly on elsewhere (process 41) since 1970-01-01 00:00:00 UTC; wait "
        "until it has ended, or end it and run this again"
    )
    assert said == [
        f"the lease of {database.uri} is held by run nightly on elsewhere (process 41), last renewed "
        "1970-01-01 00:01:00 UTC; waiting up to 12 s to see whether it is alive"
    ]
    assert clock.slept == 2  # no longer than it took to be sure


def _beat(database: Database) -> None:
    """A sign of life of another machine, by its own clock."""
    rewrite(database, claim=record_of(database).claim, renewed_at=record_of(database).renewed_at + 1)


@pytest.mark.parametrize("skew_s", [-10 * _YEAR_S, 0.0, 10 * _YEAR_S])
def test_clocks_of_other_machines_decide_nothing(database: Database, clock: Clock, skew_s: float) -> None:
    at = clock.time() + skew_s
    take_elsewhere(database, acquired_at=at, renewed_at=at)
    clock.meanwhile = [lambda: _beat(database)]
    with pytest.raises(LeaseHeld, match="run remote on elsewhere"):
        _acquire(database, "two")

    began_s = clock.now_s
    two = _acquire(database, "two")  # this time nothing stirs
    assert clock.now_s - began_s == pytest.approx(TTL_S)
    assert two.took_over
    two.release()


def test_a_holder_that_releases_while_watched(database: Database, clock: Clock) -> None:
    take_elsewhere(database)
    clock.meanwhile = [lambda: None, lambda: _release(database)]
    with _acquire(database, "two") as two:
        assert not two.took_over
    assert clock.slept == 2


def _release(database: Database) -> None:
    rewrite(database, claim=record_of(database).claim, state="released")


def test_the_race_for_an_abandoned_lease(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    take_elsewhere(database)
    watch = lease_holder.watch

    def beaten(*args: Any, **kwargs: Any) -> Any:
        found = watch(*args, **kwargs)
        rewrite(database, run_id="faster")
        return found

    monkeypatch.setattr(lease, "watch", beaten)
    with pytest.raises(LeaseHeld, match="run faster on elsewhere"):
        _acquire(database, "two")


def test_paused_longer_than_the_lease_lasts(database: Database, clock: Clock) -> None:
    one = _acquire(database, "one")
    clock.now_s += 5 * TTL_S
    one.check()  # nobody took it
    assert record_of(database).token == one.token

    two = _acquire(database, "two")
    assert (two.took_over, two.token > one.token) == (True, True)
    for _ in range(2):
        with pytest.raises(LeaseLost, match=r"run two on .* took it; nothing more is committed"):
            one.check()
    one.release()
    clock.now_s += TTL_S
    two.check()
    two.release()


def test_a_renewal_is_trusted_for_a_third_of_the_time(database: Database, clock: Clock) -> None:
    with _acquire(database, "one") as one:
        before, _ = read_record(database)
        clock.now_s += TTL_S * 0.33
        one.check()
        assert read_record(database)[0] == before
        clock.now_s += TTL_S * 0.01
        one.check()
        assert read_record(database)[0] == before + 1


def _steal(database: Database, run_id: str) -> bool:
    version, record = read_record(database)
    assert record is not None
    stolen = replace(record, claim="other", run_id=run_id)
    return lease_record.swap_record(database, stolen, read_version=version) is not None


def test_heartbeats_renew_and_notice_a_loss(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _quick_signs_of_life(monkeypatch)
    one = _acquire(database, "one")
    while read_record(database)[0] < one.token + 3:
        one._heartbeat.join(0.01)
    while not _steal(database, "two"):
        pass  # a heartbeat was faster
    one._heartbeat.join()
    with pytest.raises(LeaseLost, match="run two on"):
        one.check()
    one.release()
    assert record_of(database).run_id == "two"


def test_writes_whose_answer_is_lost(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(commit: Callable[[], Any]) -> None:
        commit()
        raise OSError("connection reset")

    _commits_that(monkeypatch, lose)
    with _acquire(database, "one") as one:
        for _ in range(3):
            clock.now_s += TTL_S
            one.check()
    assert clock.slept == 0
    assert record_of(database).state == "released"


def test_a_write_that_takes_effect_late(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _acquire(database, "one")
    late: list[Callable[[], Any]] = []

    def delay(commit: Callable[[], Any]) -> Any:
        if not late:
            late.append(commit)
            raise OSError("timed out")
        return commit()

    _commits_that(monkeypatch, delay)
    clock.now_s += TTL_S / 2
    clock.meanwhile = [lambda: late[0]()]
    one.check()
    late.clear()
    one.release()  # is not waited for
    late[0]()
    with pytest.raises(LeaseLost):
        one.check()
    assert record_of(database).state == "released"


def test_a_store_that_fails_for_a_while(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _acquire(database, "one")
    refusals = ["503", "connection reset", "503"]

    def refuse(commit: Callable[[], Any]) -> Any:
        if refusals:
            raise OSError(refusals.pop())
        return commit()

    _commits_that(monkeypatch, refuse)
    clock.now_s += TTL_S / 2
    one.check()
    assert (clock.slept, refusals) == (3, [])
    one.release()


@pytest.mark.parametrize("lands", [False, True])
def test_a_store_that_fails_while_the_lease_is_taken(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    refusals = ["status code: 503", "connection reset"]

    def refuse(commit: Callable[[], Any]) -> Any:
        if not refusals:
            return commit()
        if lands and len(refusals) == 1:
            commit()
        raise OSError(refusals.pop(0))

    _commits_that(monkeypatch, refuse)
    with _acquire(database, "one") as one:
        assert refusals == []
        assert clock.slept == (1 if lands else 2)
        one.check()


def test_a_store_that_fails_for_long_while_the_lease_is_taken(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Callable[[], Any]) -> Any:
        raise OSError("status code: 503")

    _commits_that(monkeypatch, refuse)
    with pytest.raises(StorageError, match=r"taking the lease .*did not answer as it should \(6 attempts"):
        _acquire(database, "one")
    assert read_record(database) == (0, None)


def test_a_store_that_fails_for_good(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _acquire(database, "one")

    def refuse(_: Callable[[], Any]) -> Any:
        raise OSError("secret_access_key=hunter2 was refused")

    _commits_that(monkeypatch, refuse)
    one.check()  # still young
    began_s = clock.now_s
    clock.now_s += TTL_S / 2
    with pytest.raises(LeaseLost, match=r"could not be renewed for 1\d s: cannot write .*lease.lance") as raised:
        one.check()
    assert "hunter2" not in str(raised.value)
    assert TTL_S <= clock.now_s - began_s < 1.2 * TTL_S
    one.release()  # refused as well, and silent
    with pytest.raises(StorageError, match="cannot write"):
        _acquire(database, "two")


def test_a_version_that_was_cleaned_away_is_not_free_again(database: Database, clock: Clock) -> None:
    """Lance lets a commit fill the gap that a removed version left, and calls it a success."""
    one = _acquire(database, "one")
    two = _acquire(database, "two")
    for _ in range(3):
        clock.now_s += TTL_S
        two.check()
    database.open("lease").cleanup_old_versions(versions=[two.token])
    with pytest.raises(LeaseLost):
        one.check()
    two.check()
    two.release()
    one.release()


def test_records_do_not_pile_up(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_CLEAN_EVERY", 5)
    monkeypatch.setattr(lease_record, "_KEPT_VERSIONS", 4)
    for run_id in ("one", "two", "three"):
        with _acquire(database, run_id) as held:
            for _ in range(12):
                clock.now_s += TTL_S
                held.check()
    assert record_of(database).token > 20
    fs, path = open_filesystem(database.table_uri("lease"))
    files = fs.find(path)
    assert len(files) <= 2 * (4 + 5 + 1) + 1, files  # a manifest and a transaction each, and Lance's hint


def test_cleaning_never_fails_a_run(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("not allowed to delete")

    monkeypatch.setattr(lance.LanceDataset, "cleanup_old_versions", refuse)
    monkeypatch.setattr(lease, "_CLEAN_EVERY", 1)
    with _acquire(database, "one") as one:
        clock.now_s += TTL_S
        one.check()


def test_what_status_says(database: Database) -> None:
    take_elsewhere(database, run_id="nightly", pid=41, acquired_at=0.0, renewed_at=60.0)
    found = read_lease(database)
    assert found is not None
    assert (found.run_id, found.host, found.pid, found.ttl_s) == ("nightly", "elsewhere", 41, TTL_S)
    assert (found.acquired_at.isoformat(), found.renewed_at.minute) == ("1970-01-01T00:00:00+00:00", 1)
    assert found.expired


def test_a_table_that_is_no_lease(database: Database) -> None:
    database.append("lease", pa.table({"a": [1]}))
    with pytest.raises(TableError, match="is another table"):
        _acquire(database, "one")
