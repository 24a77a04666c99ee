"""Drivers that are killed and started again, and what must be true afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.crash.corpora import write_corpus
from tests.flows.corpora import record_rows, table_rows

DRIVER = Path(__file__).with_name("driver.py")
ROOT = DRIVER.parents[2]
COMMIT_ROWS = 160
WINDOW_DOCUMENTS = 16
RUN_TIMEOUT_S = 200
# A Ray whose driver is gone ends by itself within seconds, but for agents of its raylet, which notice after minutes.
_ORPHANS_END_S = 5
# How often a parent looks at what its run has done so far.
_LOOK_S = 0.01


@dataclass(slots=True)
class Trial:
    """One database, the runs that were started on it, and what they encoded.

    Attributes:
        folder: For logs.
        corpus: Path or URI of the corpus.
        db: Path or URI of the database.
        address: Of the Ray to join; each run starts a local one when None.
        window_s: How long encoding a window takes at least.
        direct: So many documents are encoded by one task and committed at once, without a pool; 0 for never. What such
            a task has done is not counted.
    """

    folder: Path
    corpus: str
    db: str
    address: str | None
    window_s: float = 0.0
    direct: int = 0
    num_runs: int = 0
    num_kills: int = 0
    encoded: list[Counter[str]] = field(default_factory=list)
    num_kills_before: int = 0

    def begin(self, edition: int) -> None:
        """Another edition of the corpus; what it takes from the one before it is encoded anew, and rightly."""
        write_corpus(self.corpus, edition=edition)
        self.encoded.clear()
        self.num_kills_before = self.num_kills

    @property
    def log(self) -> Path:
        """What the encoders of the current run finished, a line a document."""
        return self.folder / str(self.num_runs) / "encoded"

    @property
    def said(self) -> Path:
        """What the current run says."""
        return self.folder / str(self.num_runs) / "stderr"

    def settings(self) -> dict[str, Any]:
        """Of every run, as `load_settings` takes them: commits and windows are tiny, few fragments are many."""
        return {
            "corpus.uris": [self.corpus], "db": self.db, "encoder.model": "hashing://512",
            "encoder.chunk_tokens": 64, "encoder.overlap_tokens": 8, "pool.address": self.address,
            "pool.window_documents": WINDOW_DOCUMENTS, "commit.max_rows": self.direct or COMMIT_ROWS,
            "pool.direct_documents": self.direct, "compaction.min_fragments": 4,
        }  # fmt: skip

    @contextmanager
    def started(self, kill: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """A run, in a session of its own; whatever is left of it afterwards is ended."""
        self.num_runs += 1
        self.said.parent.mkdir(parents=True)
        orders = {
            "settings": self.settings(), "folder": str(self.log.parent), "kill": kill, "window_s": self.window_s,
        }  # fmt: skip
        with self.said.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, str(DRIVER), json.dumps(orders)], cwd=ROOT, stdout=subprocess.PIPE, stderr=said,
                stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            yield process
        finally:
            _end(process)
            self.encoded.append(Counter(self.log.read_text().splitlines() if self.log.exists() else ()))

    def ends_at(self, point: str) -> bool:
        """A run that kills itself at a point; False where it ended well because it never came to it."""
        with self.started(point) as process:
            out, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        if process.returncode == 0:
            return False
        assert process.returncode == -signal.SIGKILL, f"on the way to {point}: {out.decode()}{self.tail()}"
        self.num_kills += 1
        return True

    def ends_after(self, num_events: int, *, whole: bool = False) -> bool:
        """A run that is killed once it has done so many things; False where it ended well before.

        Args:
            num_events: Things done: lines said, windows encoded, files made in a local database.
            whole: Kill the Ray that it started in the same moment, as a power cut would.
        """
        with self.started() as process:
            self.await_in(process, lambda: self._num_events() >= num_events)
            if process.poll() is not None:
                assert process.returncode == 0, self.tail()
                return False
            for pid in [process.pid, *(_members(process.pid) if whole else [])]:
                os.kill(pid, signal.SIGKILL)
        self.num_kills += 1
        return True

    def _num_events(self) -> int:
        num_lines = self.said.read_bytes().count(b"\n")
        return num_lines + self.num_windows() + sum(len(files) for _, _, files in os.walk(self.db))

    def num_windows(self) -> int:
        """Windows that the current run has encoded."""
        return self.log.read_bytes().count(b"\n") // WINDOW_DOCUMENTS if self.log.exists() else 0

    def await_in(self, process: subprocess.Popen[bytes], condition: Callable[[], Any]) -> Any:
        """What a condition gives, once it gives something; None when the run ended before."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while process.poll() is None:
            if found := condition():
                return found
            assert time.monotonic() < deadline, f"nothing happened{self.tail()}"
            time.sleep(_LOOK_S)
        return None

    def finishes(self) -> dict[str, Any]:
        """A run that nobody disturbs; returns its report, which adds up."""
        with self.started() as process:
            return self.report_of(process)

    def report_of(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The report of a run that ends well."""
        out, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        assert process.returncode == 0, self.tail()
        # nothing else on stdout, whatever Ray had to say of processes that died
        report: dict[str, Any] = json.loads(out)
        parts = ("encoded", "unchanged", "duplicate", "quarantined")
        assert report["documents_read"] == sum(report[f"documents_{part}"] for part in parts)
        return report

    def tail(self) -> str:
        """The end of what the current run said."""
        return "\n" + self.said.read_text()[-3_000:]

    def num_repeated(self) -> int:
        """Rows of this edition that were encoded although a run, this or one before, had encoded them already."""
        total: Counter[str] = sum(self.encoded, Counter())
        return sum((times - 1) * int(line.split()[-1]) for line, times in total.items())


def _members(session: int) -> list[int]:
    """Processes of a session, but for its leader, and for those that only wait to be noticed by their parent."""
    return [pid for pid in psutil.pids() if pid != session and _lives_in(pid, session)]


def _lives_in(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a driver that still runs, and what is left of the Ray that it started, if any."""
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    deadline = time.monotonic() + _ORPHANS_END_S
    while orphans := _members(process.pid):
        if time.monotonic() > deadline:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
        time.sleep(10 * _LOOK_S)


@dataclass(frozen=True, slots=True)
class Table:
    """What a database holds for its readers, whatever became of the runs that wrote it.

    Attributes:
        rows: Of the version at `live`, by id and chunk, without the run that wrote them.
        set_aside: Rows that were ever quarantined: file, offset, reason.
    """

    rows: list[dict[str, Any]]
    set_aside: set[tuple[str, int, str]]

    @classmethod
    def of(cls, db: str) -> Table:
        """Reads it; a shard is named without the place that its corpus is at."""
        rows = table_rows(db)
        for row in rows:
            del row["run_id"]
            row["shard"] = row["shard"].rpartition("/")[2]
        aside = record_rows(db, "quarantine")
        return cls(rows, {(row["shard"].rpartition("/")[2], row["offset"], row["reason"]) for row in aside})


def assert_as_if_undisturbed(trial: Trial, undisturbed: Mapping[int, Table], *, edition: int = 1) -> None:
    """Nothing lost, nothing doubled, little paid for twice, and the account of the runs readable."""
    found, wanted = Table.of(trial.db), undisturbed[edition]
    keys = [(row["id"], row["chunk"]) for row in found.rows]
    assert len(set(keys)) == len(keys)
    assert keys == [(row["id"], row["chunk"]) for row in wanted.rows]
    assert found.rows == wanted.rows
    # what one edition set aside is kept when the next comes
    assert wanted.set_aside <= found.set_aside <= undisturbed[2].set_aside
    runs = record_rows(trial.db, "runs")
    assert runs
    assert {run["status"] for run in runs} == {"published"}  # a run that was killed has said nothing
    assert trial.num_repeated() <= (trial.num_kills - trial.num_kills_before) * COMMIT_ROWS
    assert "would leave encoders waiting" not in trial.said.read_text(), "the bound is another"
