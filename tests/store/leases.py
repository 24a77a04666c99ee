"""What the tests of the lease share: a clock that is moved, holders in other processes and on other machines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.store.database import Database
from pipeline.store.lease import Lease
from pipeline.store.lease_record import LeaseRecord, read_record, swap_record

TTL_S = 12.0
_ROOT = Path(__file__).parents[2]


@dataclass
class Clock:
    """Stands for the `time` module: sleeping moves it on and lets others act."""

    now_s: float = 100.0
    slept: int = 0
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def clock_gettime(self, _: int) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept += 1
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def time(self) -> float:
        return time.time()


def record_of(database: Database) -> LeaseRecord:
    _, record = read_record(database)
    assert record is not None
    return record


def rewrite(database: Database, **changes: object) -> LeaseRecord:
    """The next record, as another machine would write it: with a claim of its own unless told otherwise."""
    version, record = read_record(database)
    assert record is not None
    changed = replace(record, **{"claim": f"other {version}", **changes})
    assert swap_record(database, changed, read_version=version) == version + 1
    return changed


def take_elsewhere(database: Database, **changes: object) -> LeaseRecord:
    """The lease, held by a run on another machine that says nothing more unless it is renewed by `rewrite`."""
    Lease.acquire(database, run_id="remote", ttl_s=TTL_S).release()
    return rewrite(database, **{"state": "held", "host": "elsewhere", "machine": "another boot", **changes})


@dataclass
class Holder:
    process: subprocess.Popen[str]
    said: str

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def holder(database: Database, run_id: str, *, ttl_s: float = TTL_S) -> Iterator[Holder]:
    """A process that holds the lease; killed at the end."""
    command = [sys.executable, "-m", "tests.store.lease_process", database.uri, run_id, str(ttl_s)]
    with subprocess.Popen(
        command, cwd=_ROOT, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Holder(process, process.stdout.readline().strip())
        finally:
            process.kill()
