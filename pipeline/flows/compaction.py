"""Small fragments of the documents table become few, in tasks of the cluster, before indexes are built over them.

Before, because what is new and without an index is then merged without touching one, each index gets its rows from few
fragments, and what the gate reads is what readers will. `store.compaction` says when; a kill costs what was rewritten,
and the same command again begins with what is there. Called by the index flow.
"""

from __future__ import annotations

from pipeline.errors import StorageError
from pipeline.flows.cluster import call_remotely, start_remotely
from pipeline.flows.writing import Say, check_token
from pipeline.settings import CompactionSettings
from pipeline.storage import redact
from pipeline.store.compaction import CompactionBounds, choose_runs
from pipeline.store.database import Database, Table
from pipeline.store.rewrites import commit_rewrites, measure_fragments, rewrite_run
from pipeline.store.transactions import Writer

# Times that fragments are written anew because a commit could not begin.
_ATTEMPTS = 3


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
    bounds = CompactionBounds(settings.max_fragment_bytes, min_fragments=settings.min_fragments)
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
        f"compacted fragments were lost {_ATTEMPTS} times before {redact(database.documents_uri)} took them; "
        "run the same command again later"
    )


def _rewrite(database: Database, version: int, run: tuple[int, ...], bounds: CompactionBounds) -> list[str]:
    return rewrite_run(database.open("documents", version=version), run, bounds=bounds)


def _commit(database: Database, token: int, *parts: list[str]) -> int | None:
    """All parts as one version, only while the lease is still the run's; None where they have to be written anew."""
    rewrites = [rewrite for part in parts for rewrite in part]
    committed = commit_rewrites(
        database.documents_uri, rewrites, before=lambda: check_token(database, token, undone="nothing was compacted")
    )
    return None if committed is None else int(committed.version)
