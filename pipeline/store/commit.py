"""The one committer: fragments that many workers wrote become versions of the documents table, in bounded intervals.

Only the process that holds the table's lease has a `Committer`; how a commit happens exactly once is `transactions`'
affair.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.database import Database
from pipeline.store.fragments import WrittenFragments, parse_fragments
from pipeline.store.schema import read_fingerprint
from pipeline.store.transactions import RUN_KEY, Writer, read_key

# Row ids named in one condition; one of this many is parsed in well under a second.
_DELETE_BATCH = 5_000
# A row's address is its fragment's number, then this many bits of its place in the fragment.
_ROW_BITS = 32


@dataclass(frozen=True, slots=True)
class CommitBounds:
    """When pending fragments are committed: whichever is reached first.

    Attributes:
        max_rows: Rows that are pending.
        max_bytes: Their bytes.
        max_seconds: Seconds since the first of them.
    """

    max_rows: int
    max_bytes: int
    max_seconds: float


class Committer:
    """Collects fragments and commits them in intervals.

    Args:
        database: Whose documents table is written.
        writer: Commits, in the name of a run that holds the table's lease.
        schema: Of the vectors to be written; names their fingerprint.
        bounds: Of an interval.
    """

    def __init__(self, database: Database, *, writer: Writer, schema: pa.Schema, bounds: CommitBounds) -> None:
        self.schema = schema
        self.writer = writer
        self.bounds = bounds
        self._pending: list[WrittenFragments] = []
        self._pending_since = 0.0
        self._dataset = self._begin(database)

    @property
    def version(self) -> int:
        """The latest version this committer made or found."""
        return int(self._dataset.version)

    @property
    def dataset(self) -> lance.LanceDataset:
        """The latest version, opened."""
        return self._dataset

    def _begin(self, database: Database) -> lance.LanceDataset:
        """Opens the table; makes a version without rows when it has none with this fingerprint's vectors.

        The version that readers see stays tagged, so the old vectors serve until the new ones are published. Where the
        latest version is another encoder's that was given up, the published one becomes the latest again.
        """
        latest = int(database.open("documents").version) if database.exists("documents") else 0
        found = database.open_fingerprint(read_fingerprint(self.schema))
        if found is None:
            return self.writer.commit(lance.LanceOperation.Overwrite(self.schema, []), read_version=latest)
        if found.version == latest:
            return found
        return self.writer.commit(lance.LanceOperation.Restore(found.version), read_version=latest)

    def go_on_from(self, dataset: lance.LanceDataset) -> None:
        """Takes a version that this run made otherwise, by a compaction, as the latest."""
        self._dataset = dataset

    def add(self, written: WrittenFragments) -> bool:
        """Takes fragments; commits when a bound is reached and says whether it did."""
        if written.num_rows:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.append(written)
        return self.flush() if self._is_due() else False

    def _is_due(self) -> bool:
        bounds = self.bounds
        return bool(self._pending) and (
            sum(w.num_rows for w in self._pending) >= bounds.max_rows
            or sum(w.size_bytes for w in self._pending) >= bounds.max_bytes
            or time.monotonic() - self._pending_since >= bounds.max_seconds
        )

    def flush(self) -> bool:
        """Commits what is pending; says whether there was anything."""
        if not self._pending:
            return False
        fragments = parse_fragments([f for written in self._pending for f in written.fragments])
        self._dataset = self.writer.commit(lance.LanceOperation.Append(fragments), read_version=self.version)
        self._pending.clear()
        return True

    def delete_rows(self, row_ids: NDArray[np.uint64]) -> int:
        """Deletes rows by their stable ids; returns how many went.

        Args:
            row_ids: uint64 [rows].
        """
        before = self._dataset.count_rows()
        rows: dict[int, list[NDArray[np.uint64]]] = {}
        for predicate in _predicates(row_ids):
            found = self._dataset.to_table(columns=[], filter=predicate, with_row_id=True, with_row_address=True)
            fragments = found.column("_rowaddr").to_numpy() >> _ROW_BITS
            for number in np.unique(fragments).tolist():
                rows.setdefault(number, []).append(found.column("_rowid").to_numpy()[fragments == number])
        if rows:
            self._delete({number: np.concatenate(found) for number, found in rows.items()})
        return int(before - self._dataset.count_rows())

    def _delete(self, rows: dict[int, NDArray[np.uint64]]) -> None:
        """One version without these rows: all or none, or a kill could leave some chunks of a document.

        Made by fragments, because `LanceDataset.delete` cannot name its run.
        """
        left = {
            number: self._dataset.get_fragment(number).delete(" OR ".join(_predicates(row_ids)))
            for number, row_ids in rows.items()
        }
        updated = [fragment for fragment in left.values() if fragment is not None]
        emptied = [number for number, fragment in left.items() if fragment is None]
        operation = lance.LanceOperation.Delete(updated, emptied, "rows that the corpus no longer has")
        self._dataset = self.writer.commit(operation, read_version=self.version)


def _predicates(row_ids: NDArray[np.uint64]) -> list[str]:
    """Conditions that name these rows, each short enough to be parsed quickly."""
    parts = (row_ids[begin : begin + _DELETE_BATCH] for begin in range(0, len(row_ids), _DELETE_BATCH))
    return [f"_rowid IN ({','.join(map(str, part.tolist()))})" for part in parts]


def committed_runs(dataset: lance.LanceDataset, versions: Sequence[int]) -> dict[int, str]:
    """The run id behind each of these versions, where its transaction is still there."""
    keys = {version: read_key(dataset, version) for version in versions}
    return {version: key[RUN_KEY] for version, key in keys.items() if RUN_KEY in key}
