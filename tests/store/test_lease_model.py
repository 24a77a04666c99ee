"""Runs that come, pause, go on, fail and die in any order, against a model that knows whose turn it is."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from pipeline.errors import LeaseHeld, LeaseLost
from pipeline.store import lease, lease_holder
from pipeline.store.database import Database
from pipeline.store.lease import Lease, read_lease
from tests.store.leases import TTL_S, Clock


class Runs(RuleBasedStateMachine):
    """Time passes only in `pass_time` and while somebody watches; whoever is awake then shows signs of life."""

    awake = Bundle("awake")
    paused = Bundle("paused")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        for module in (lease, lease_holder):
            self.patch.setattr(module, "time", self.clock)
        self.patch.setattr(lease, "_RENEW_SHARE", 1e4)
        self.database = Database.at(f"{self.folder.name}/db")
        self.all: list[Lease] = []
        self.asleep: list[Lease] = []
        self.owner: Lease | None = None
        self.fence_due = False

    def teardown(self) -> None:
        for held in self.all:
            held.release()
        self.patch.undo()
        self.folder.cleanup()

    def _show_life(self) -> None:
        if self.owner is not None and self.owner not in self.asleep:
            self.owner.check()

    @precondition(lambda self: self.owner is None or self.owner in self.asleep)
    @rule(target=awake)
    def acquire(self) -> Lease:
        held = Lease.acquire(self.database, run_id=f"run-{len(self.all)}", ttl_s=TTL_S)
        assert held.took_over == (self.owner is not None or self.fence_due)
        assert all(held.token > before.token for before in self.all)
        self.all.append(held)
        self.owner, self.fence_due = held, False
        return held

    @precondition(lambda self: self.owner is not None and self.owner not in self.asleep)
    @rule()
    def come_too_late(self) -> None:
        assert self.owner is not None
        self.clock.meanwhile = [self._show_life] * 8
        with pytest.raises(LeaseHeld, match=f"by run {self.owner.run_id} "):
            Lease.acquire(self.database, run_id="late", ttl_s=TTL_S)
        self.clock.meanwhile.clear()

    @rule(target=paused, held=consumes(awake))
    def pause_or_die(self, held: Lease) -> Lease:
        self.asleep.append(held)
        return held

    @rule(target=awake, held=consumes(paused))
    def go_on(self, held: Lease) -> Lease:
        self.asleep.remove(held)
        self.check(held)
        return held

    @rule(held=awake)
    def check(self, held: Lease) -> None:
        if held is self.owner:
            held.check()
        else:
            with pytest.raises(LeaseLost):
                held.check()

    @rule(held=awake, ended_well=st.booleans())
    def release(self, held: Lease, ended_well: bool) -> None:
        held.release(ended_well=ended_well)
        if held is self.owner:
            self.owner, self.fence_due = None, not ended_well

    @rule(share=st.floats(0.05, 3.0))
    def pass_time(self, share: float) -> None:
        self.clock.now_s += share * TTL_S
        self._show_life()

    @invariant()
    def the_record_names_the_owner(self) -> None:
        found = read_lease(self.database)
        assert (found and found.token) == (self.owner and self.owner.token)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
