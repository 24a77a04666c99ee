"""The lease between real processes of one machine: killed, paused, gone on with, their numbers used again."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from pipeline.store import lease, lease_holder
from pipeline.store.database import Database
from pipeline.store.lease import Lease, read_lease
from pipeline.store.lease_holder import is_gone
from tests.store.leases import Clock, holder, record_of, rewrite

_HOUR_S = 3600.0


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


def test_exactly_one_of_many_at_once(database: Database) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        holders = list(pool.map(lambda n: stack.enter_context(holder(database, f"run-{n}", ttl_s=_HOUR_S)), range(4)))
        said = sorted(one.said for one in holders)
        assert [text.split()[0] for text in said] == ["acquired", "held:", "held:", "held:"]
        (winner,) = (one for one in holders if one.said.startswith("acquired"))
        assert all(f"(process {winner.process.pid})" in text for text in said[1:])
        assert winner.ask("check") == "done"


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_dead_process_is_replaced_at_once(
    database: Database, waited_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with holder(database, "one", ttl_s=_HOUR_S) as one:
        one.process.kill()
        if waited_for:
            one.process.wait()
        else:  # it stays in the table of processes as a zombie
            os.waitid(os.P_PID, one.process.pid, os.WEXITED | os.WNOWAIT)
        found = read_lease(database)
        assert found is not None
        assert found.expired
        monkeypatch.setattr(lease_holder, "time", clock)
        with Lease.acquire(database, run_id="two") as two:
            assert two.took_over
        assert clock.slept == 0


def test_a_process_number_that_was_used_again(database: Database) -> None:
    Lease.acquire(database, run_id="one").release()
    assert not is_gone(record_of(database))
    assert is_gone(rewrite(database, process_start="1"))
    assert not is_gone(rewrite(database, process_start="1", machine="another boot or container"))
    assert not is_gone(rewrite(database, process_start="1", machine=""))


def test_a_paused_process_finds_out(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEW_SHARE", 0.05)
    with holder(database, "one", ttl_s=1.0) as one:
        _stop(one.process.pid)
        said: list[str] = []
        with Lease.acquire(database, run_id="two", say=said.append) as two:
            assert two.took_over
            assert "waiting up to 1 s" in said[0]
            os.kill(one.process.pid, signal.SIGCONT)
            assert one.ask("check").startswith("lost: this run was paused or cut off for so long")
            assert one.ask("release") == "done"
            two.check()


def test_a_paused_process_that_nobody_replaced_goes_on(database: Database) -> None:
    with holder(database, "one", ttl_s=0.2) as one:
        _stop(one.process.pid)
        time.sleep(0.3)  # time itself is what has to pass
        os.kill(one.process.pid, signal.SIGCONT)
        assert one.ask("check") == "done"
        assert one.ask("release") == "done"
    assert record_of(database).state == "released"
