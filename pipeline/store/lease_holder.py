"""Who holds a lease, and whether that process is alive.

Known for certain of a process of this machine that has ended; of any other only by watching whether its record stirs.
Says so in sentences for people. Called by `lease`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import LeaseHeld, StorageError
from pipeline.storage import redact
from pipeline.store.database import Database
from pipeline.store.lease_record import HELD, RELEASED, LeaseRecord, read_record

# Goes on while the machine sleeps, where the system has such a clock: what expired in a closed laptop is noticed.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_MAX_POLL_S = 2.0


def new_record(claim: str, *, run_id: str, token: int, ttl_s: float) -> LeaseRecord:
    """What this process writes down when it takes a lease."""
    pid, now = os.getpid(), time.time()
    return LeaseRecord(
        claim, run_id, socket.gethostname(), pid, process_start(pid), machine_id(), token, now, now, ttl_s
    )


def watch(
    database: Database, record: LeaseRecord, *, version: int, say: Callable[[str], None]
) -> tuple[int, LeaseRecord | None]:
    """Waits until a holder stirs, ends or has been silent for as long as its lease lasts.

    Returns:
        The latest version and record, which may be replaced.

    Raises:
        LeaseHeld: it is alive.
    """
    say(
        f"the lease of {redact(database.uri)} is held by {describe(record)}, last renewed {moment(record.renewed_at)}; "
        f"waiting up to {record.ttl_s:g} s to see whether it is alive"
    )
    until_s = now_s() + record.ttl_s
    while (left_s := until_s - now_s()) > 0:
        time.sleep(min(left_s, _MAX_POLL_S, record.ttl_s / 10))
        try:
            found, latest = read_record(database)
        except StorageError:
            continue  # to look again is comfort: the write that follows is what must not find another version
        if latest is None or latest.state == RELEASED or is_gone(latest):
            return found, latest
        if found != version:
            raise LeaseHeld(held_message(database, latest))
    return version, record


def is_gone(record: LeaseRecord) -> bool:
    """Whether the holder's process has certainly ended; False wherever that cannot be known from here."""
    if not record.machine or (record.host, record.machine) != (socket.gethostname(), machine_id()):
        return False
    try:
        os.kill(record.pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and there
    started = process_start(record.pid)
    return started != "" and started != record.process_start


def machine_id() -> str:
    """This boot of this machine and the namespace of its process ids: containers share the first, not the second.

    Empty where the system does not say; then nobody's death is known and a lease is watched instead.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """Clock ticks between boot and a process's start, which setting the clock does not move; "" if unknown.

    One that ended and was not yet waited for gives "ended". See proc(5), /proc/pid/stat, fields 3 and 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    values = stat.rpartition(")")[2].split()
    return "ended" if values[0] in "ZX" else values[19]


def now_s() -> float:
    """Seconds on a clock that nobody sets."""
    return time.clock_gettime(_CLOCK)


def describe(record: LeaseRecord) -> str:
    """A holder, in a sentence."""
    return f"run {record.run_id} on {record.host} (process {record.pid})"


def moment(seconds: float) -> str:
    """Seconds since 1970 as people write them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def held_message(database: Database, holder: LeaseRecord) -> str:
    """For who came too late."""
    return (
        f"{redact(database.uri)} is being written by {describe(holder)} since {moment(holder.acquired_at)}; wait until "
        "it has ended, or end it and run this again"
    )


def lost_message(database: Database, holder: LeaseRecord | None) -> str:
    """For who held the lease and does no longer; `holder` is who has it now."""
    taker = "others have written since"
    if holder is not None and holder.state == HELD:
        taker = f"{describe(holder)} took it"
    return (
        f"this run was paused or cut off for so long that it lost the lease of {redact(database.uri)}: {taker}; "
        "nothing more is committed; run the same command again when the other has ended"
    )
