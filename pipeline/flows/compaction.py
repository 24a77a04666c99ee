"""Small fragments of the documents table become few, in tasks of the cluster: while a run adds others, and at its end.

While it adds, because each commit writes the names of all fragments. At the end, before indexes are built, because what
is new and without an index is then merged without touching one, each index gets its rows from few fragments, and what
the gate reads is what readers will. `store.compaction` says when; a kill costs what was rewritten, and the same command
again begins with what is there. Called by the index flow.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.errors import StorageError
from pipeline.flows.cluster import call_remotely, start_remotely
from pipeline.flows.writing import Say, check_token
from pipeline.settings import CompactionSettings
from pipeline.storage import redact
from pipeline.store.compaction import CompactionBounds, choose_runs
from pipeline.store.database import Database, Table
from pipeline.store.rewrites import commit_rewrites, measure_fragments, rewrite_run
from pipeline.store.transactions import Writer

_log = logging.getLogger(__name__)
# Times that fragments are written anew because a commit could not begin.
_ATTEMPTS = 3
# How long the end of a run waits for a merge; a process that hangs must not keep what is encoded from being published.
_MERGE_SECONDS = 600.0
# While a run encodes; beyond that they wait for each other, and what grows meanwhile is merged the next time.
_MERGES_AT_ONCE = 4


class BackgroundCompaction:
    """Merges what a run adds while it adds more, so that a commit names few fragments however many there were.

    Only fragments that no index covers: to merge others, an index has to be written anew. What it leaves, or fails to
    do, is `compact`'s.

    Args:
        database: Whose documents table it is.
        settings: As for `compact`.
        writer: Of the run that holds the lease.
    """

    def __init__(self, database: Database, settings: CompactionSettings, *, writer: Writer) -> None:
        self._database = database
        self._bounds = _bounds(settings)
        self._writer = writer
        self._enabled = settings.enabled
        self._rewriter: Any = None
        self._parts: list[Any] = []
        self._due = 0  # fragments of a table that is worth a look

    def step(self, dataset: Table) -> Table:
        """Begins a merge where there is one to do, and commits one that is done; waits for none.

        Args:
            dataset: The latest version.

        Returns:
            The version that is the latest now.

        Raises:
            LeaseLost: another run took the table over.
            StorageError: the store failed for long.
        """
        if self._parts:
            ready, _ = ray.wait(self._parts, num_returns=len(self._parts), timeout=0)
            return self.finish(dataset) if len(ready) == len(self._parts) else dataset
        if self._enabled and len(dataset.get_fragments()) >= self._due:
            self._begin(dataset)
        return dataset

    def finish(self, dataset: Table) -> Table:
        """As `step`, but waits for the merge that is under way, and begins no other."""
        if not self._parts:
            return dataset
        parts, self._parts = self._parts, []
        try:
            rewrites = [rewrite for part in ray.get(parts, timeout=_MERGE_SECONDS) for rewrite in part]
        except RayError as error:
            self._give_up(error)
            return dataset
        uri, writer = self._database.documents_uri, self._writer
        if commit_rewrites(uri, rewrites, before=writer.confirm, patience=writer.patience) is None:
            _log.info("%s did not take merged fragments; they are merged again", redact(uri))
        self._due = 0
        return self._database.open("documents")

    def _give_up(self, error: Exception) -> None:
        """Encoding does not depend on it, and the end of the run tries again."""
        why = redact(str(error).strip().rpartition("\n")[2])
        _log.warning("fragments are not merged while documents are encoded, but afterwards: %s", why)
        self._enabled = False

    def _begin(self, dataset: Table) -> None:
        try:
            sizes = measure_fragments(dataset)
        except StorageError as error:
            self._give_up(error)
            return
        is_indexed = {size.number: bool(size.segments) for size in sizes}
        runs = [run for run in choose_runs(sizes, self._bounds) if not is_indexed[run[0]]]
        if runs and self._rewriter is None:
            # without a CPU of its own, or it would wait until the pool has ended; and one, as to start it takes seconds
            self._rewriter = ray.remote(
                num_cpus=0, max_restarts=-1, max_task_retries=2, max_concurrency=_MERGES_AT_ONCE
            )(_Rewriter).remote()
        self._parts = [
            self._rewriter.rewrite.remote(self._database, int(dataset.version), run, self._bounds) for run in runs
        ]
        self._due = len(sizes) + self._bounds.min_fragments


def compact(database: Database, dataset: Table, settings: CompactionSettings, *, writer: Writer, say: Say) -> Table:
    """Merges the fragments that are small and many; the version that has few, which is the same where none are.

    Args:
        database: Whose documents table it is.
        dataset: Its latest version.
        settings: Whether, and how large fragments become.
        writer: Of the run that holds the lease.
        say: Hears what is compacted.
    """
    if not settings.enabled:
        return dataset
    bounds = _bounds(settings)
    for _ in range(_ATTEMPTS):
        sizes = {size.number: size for size in measure_fragments(dataset)}
        runs = choose_runs(list(sizes.values()), bounds)
        if not runs:
            return dataset
        read = [sizes[number] for run in runs for number in run]
        say(
            f"compaction: {len(read):,} of {len(sizes):,} fragments, "
            f"{sum(size.num_bytes for size in read) / 1e6:,.1f} MB, become {len(runs):,}"
        )
        writer.confirm()
        parts = [start_remotely(_rewrite, database, int(dataset.version), run, bounds) for run in runs]
        version = call_remotely(_commit, database, writer.token, *parts)
        if version is not None:
            return database.open("documents", version=version)
        dataset = database.open("documents")
    raise StorageError(
        f"compacted fragments were lost or refused {_ATTEMPTS} times by {redact(database.documents_uri)}; "
        "run the same command again later"
    )


def _bounds(settings: CompactionSettings) -> CompactionBounds:
    return CompactionBounds(settings.max_fragment_bytes, min_fragments=settings.min_fragments)


def _rewrite(database: Database, version: int, run: tuple[int, ...], bounds: CompactionBounds) -> list[str]:
    return rewrite_run(database.open("documents", version=version), run, bounds=bounds)


class _Rewriter:
    def rewrite(self, database: Database, version: int, run: tuple[int, ...], bounds: CompactionBounds) -> list[str]:
        return _rewrite(database, version, run, bounds)


def _commit(database: Database, token: int, *parts: list[str]) -> int | None:
    """All parts as one version, only while the lease is still the run's; None where they have to be written anew."""
    rewrites = [rewrite for part in parts for rewrite in part]
    committed = commit_rewrites(
        database.documents_uri, rewrites, before=lambda: check_token(database, token, undone="nothing was compacted")
    )
    return None if committed is None else int(committed.version)
