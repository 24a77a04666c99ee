"""One writer a database: a lease with a fencing token, kept in the database itself.

Clocks of two machines are never compared. A holder whose process is known to have ended is replaced at once; any other
is watched for as long as its lease lasts, and replaced only if it did not stir. Called by the flows that write, which
ask `check` before each commit; `lease_record` has what is written down.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType

from pipeline.errors import LeaseHeld, LeaseLost, StorageError
from pipeline.retry import Clock, is_transient, retrying
from pipeline.storage import redact
from pipeline.store.database import Database
from pipeline.store.lease_holder import describe, held_message, is_gone, lost_message, new_record, now_s, watch
from pipeline.store.lease_record import HELD, RELEASED, LeaseRecord, clean_records, read_record, swap_record

# Shares of the time to live. Renewing more often than `check` asks for it keeps `check` free of I/O.
_RENEW_SHARE = 1 / 4
_TRUST_SHARE = 1 / 3
_RETRY_SHARE = 1 / 12
_CLEAN_EVERY = 50


class Lease:
    """The right to write a database, until it is released or lost. Made by `acquire`; also a context manager.

    Attributes:
        token: Grows from holder to holder.
        run_id: Of this holder.
        took_over: The holder before this one did not end well: it never released, or did so because of an error. What
            it sent may still arrive, so the documents table has to be fenced before it is read.
    """

    def __init__(
        self, database: Database, record: LeaseRecord, *, version: int, renewed_s: float, took_over: bool
    ) -> None:
        self.token = record.token
        self.run_id = record.run_id
        self.took_over = took_over
        self._database = database
        self._record = record
        self._version = version
        self._renewed_s = renewed_s
        self._num_renewals = 0
        self._loss = ""  # why nothing may be written any more
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_renewing, name="t1-lease", daemon=True)

    @classmethod
    def acquire(
        cls, database: Database, *, run_id: str, ttl_s: float = 60.0, say: Callable[[str], None] | None = None
    ) -> Lease:
        """Takes the lease; waits at most as long as a silent holder's lease lasts.

        Args:
            database: What is to be written; need not exist yet.
            run_id: Names this holder to others.
            ttl_s: Seconds without renewal after which others may take the lease, > 0.
            say: Told in one sentence what is waited for.

        Raises:
            LeaseHeld: another run is writing; the message says who, where and since when.
            StorageError: the store refused, or failed for long.
        """
        tell = say or _say_nothing
        claim = secrets.token_hex(8)
        while True:
            version, previous = read_record(database)
            if previous is not None and previous.state == HELD and not is_gone(previous):
                version, previous = watch(database, previous, version=version, say=tell)
            took_over = previous is not None and (previous.state == HELD or not previous.ended_well)
            if previous is not None and previous.state == HELD:
                tell(f"{describe(previous)} did not release the lease of {redact(database.uri)}; taking it over")
            record = new_record(claim, run_id=run_id, token=version + 1, ttl_s=ttl_s)
            began_s = now_s()
            written = _swap_patiently(database, record, read_version=version)
            if written is not None:
                break
            _, winner = read_record(database)
            if winner is not None and winner.state == HELD:
                raise LeaseHeld(held_message(database, winner))
        lease = cls(database, record, version=written, renewed_s=began_s, took_over=took_over)
        clean_records(database)
        lease._heartbeat.start()
        return lease

    def check(self) -> None:
        """Makes sure that this process holds the lease: at once while its renewal is young, else by renewing.

        A store that does not answer is asked again until the lease's time has passed since the last renewal.

        Raises:
            LeaseLost: it does not, or can no longer be sure; nothing more may be committed.
        """
        with self._lock:
            wait_s = self._record.ttl_s * _RETRY_SHARE / 8
            while True:
                if self._loss:
                    raise LeaseLost(self._loss)
                if self._age_s() < self._record.ttl_s * _TRUST_SHARE:
                    return
                try:
                    self._renew()
                except StorageError as error:
                    self._raise_if_old(error)
                    time.sleep(wait_s)
                    wait_s = min(2 * wait_s, self._record.ttl_s * _RETRY_SHARE)

    def release(self, *, ended_well: bool = True) -> None:
        """Gives the lease back; a store that refuses is not waited for, as the lease expires by itself.

        Args:
            ended_well: False makes the next holder fence, as after a death: something of this run may still arrive.
        """
        self._ending.set()
        with self._lock:
            if not self._loss:
                self._loss = f"run {self.run_id} has released the lease of {redact(self._database.uri)}"
                record = replace(self._record, state=RELEASED, ended_well=ended_well, renewed_at=time.time())
                with suppress(StorageError):
                    swap_record(self._database, record, read_version=self._version)
        self._heartbeat.join()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(ended_well=kind is None)

    def _age_s(self) -> float:
        return now_s() - self._renewed_s

    def _raise_if_old(self, error: StorageError) -> None:
        if self._age_s() >= self._record.ttl_s:
            raise LeaseLost(
                f"the lease of {redact(self._database.uri)} could not be renewed for {self._age_s():.0f} s: {error}; "
                "nothing more is committed; run the same command again once the store answers"
            ) from error

    def _renew(self) -> None:
        """One renewal, the lock being held; its time is when it was sent, so that others never count from earlier."""
        began_s = now_s()
        record = replace(self._record, renewed_at=time.time())
        version = swap_record(self._database, record, read_version=self._version)
        if version is None:
            self._loss = lost_message(self._database, None)
            with suppress(StorageError):
                self._loss = lost_message(self._database, read_record(self._database)[1])
            raise LeaseLost(self._loss)
        self._record, self._version, self._renewed_s = record, version, began_s
        self._num_renewals += 1
        if self._num_renewals % _CLEAN_EVERY == 0:
            clean_records(self._database)

    def _keep_renewing(self) -> None:
        share = _RENEW_SHARE
        while not self._ending.wait(self._record.ttl_s * share):
            with self._lock:
                if self._loss:
                    return
                try:
                    self._renew()
                    share = _RENEW_SHARE
                except LeaseLost:
                    return  # noted; `check` says so
                except StorageError:
                    share = _RETRY_SHARE


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """Who holds a lease, for people to read.

    Attributes:
        run_id: Of the holder.
        host: Its machine.
        pid: Its process there.
        token: Its fencing token.
        acquired_at: By the holder's clock.
        renewed_at: By the holder's clock.
        ttl_s: Seconds without renewal after which others may take it.
        expired: Its process is gone or, by this machine's clock, its last renewal is older than `ttl_s`. A guess where
            clocks differ; only `Lease.acquire`, which watches, is sure.
    """

    run_id: str
    host: str
    pid: int
    token: int
    acquired_at: datetime
    renewed_at: datetime
    ttl_s: float
    expired: bool


def read_lease(database: Database) -> LeaseInfo | None:
    """Who holds a database's lease; None when nobody does.

    Raises:
        StorageError: the store refused.
    """
    _, record = read_record(database)
    if record is None or record.state == RELEASED:
        return None
    acquired_at, renewed_at = (datetime.fromtimestamp(at, UTC) for at in (record.acquired_at, record.renewed_at))
    expired = is_gone(record) or time.time() - record.renewed_at > record.ttl_s
    return LeaseInfo(
        record.run_id, record.host, record.pid, record.token, acquired_at, renewed_at, record.ttl_s, expired
    )


def _swap_patiently(database: Database, record: LeaseRecord, *, read_version: int) -> int | None:
    """As `swap_record`, tried again while the store fails in a way that may pass.

    Safe to do twice: whichever attempt took effect, the latest version then shows this holder's claim.
    """

    def attempt() -> int | None:
        try:
            return swap_record(database, record, read_version=read_version)
        except StorageError as error:
            if error.__cause__ is not None and is_transient(error.__cause__):
                raise error.__cause__ from None  # why, without the verdict, for `retrying` to judge
            raise

    what = f"taking the lease of {redact(database.uri)}"
    return retrying(attempt, what=what, clock=Clock(now=now_s, sleep=time.sleep))


def _say_nothing(sentence: str) -> None:
    pass
