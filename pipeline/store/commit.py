"""The one committer: the only code that makes versions of the documents table.

Each commit names its run and its number in the transaction, so that what a run did can be read back. Fragments arrive
from many workers; only one process may hold a `Committer` of a table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.storage import lance_options
from pipeline.store.database import Database
from pipeline.store.fragments import WrittenFragments, parse_fragments
from pipeline.store.schema import read_fingerprint

# Row ids named in one delete; a predicate of this many is parsed in well under a second.
_DELETE_BATCH = 5_000
# A row's address is its fragment's number, then this many bits of its place in the fragment.
_ROW_BITS = 32


class Committer:
    """Collects fragments and commits them in intervals bounded by rows, bytes and seconds.

    Args:
        database: Whose documents table is written.
        schema: Of the vectors to be written; names their fingerprint.
        run_id: Written into every transaction.
        max_rows: Rows after which pending fragments are committed.
        max_bytes: Bytes after which they are.
        max_seconds: Seconds since the first pending fragment after which they are.
    """

    def __init__(
        self, database: Database, *, schema: pa.Schema, run_id: str, max_rows: int, max_bytes: int, max_seconds: float
    ) -> None:
        self.uri = database.documents_uri
        self.schema = schema
        self.run_id = run_id
        self.num_commits = 0
        self._limits = (max_rows, max_bytes, max_seconds)
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
            return self._commit(lance.LanceOperation.Overwrite(self.schema, []), read_version=latest)
        if found.version == latest:
            return found
        return self._commit(lance.LanceOperation.Restore(found.version), read_version=latest)

    def add(self, written: WrittenFragments) -> bool:
        """Takes fragments; commits when a bound is reached and says whether it did."""
        if written.num_rows:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.append(written)
        return self.flush() if self._is_due() else False

    def _is_due(self) -> bool:
        max_rows, max_bytes, max_seconds = self._limits
        return bool(self._pending) and (
            sum(w.num_rows for w in self._pending) >= max_rows
            or sum(w.size_bytes for w in self._pending) >= max_bytes
            or time.monotonic() - self._pending_since >= max_seconds
        )

    def flush(self) -> bool:
        """Commits what is pending; says whether there was anything."""
        if not self._pending:
            return False
        fragments = parse_fragments([f for written in self._pending for f in written.fragments])
        self._dataset = self._commit(lance.LanceOperation.Append(fragments), read_version=self.version)
        self._pending.clear()
        return True

    def delete_rows(self, row_ids: NDArray[np.uint64]) -> int:
        """Deletes rows by their stable ids; returns how many went.

        Args:
            row_ids: uint64 [rows].
        """
        before = self._dataset.count_rows()
        for begin in range(0, len(row_ids), _DELETE_BATCH):
            self._delete(row_ids[begin : begin + _DELETE_BATCH])
        return int(before - self._dataset.count_rows())

    def _delete(self, row_ids: NDArray[np.uint64]) -> None:
        """One version without these rows; made by fragments, because `LanceDataset.delete` cannot name its run."""
        predicate = f"_rowid IN ({','.join(map(str, row_ids.tolist()))})"
        found = self._dataset.to_table(columns=[], filter=predicate, with_row_address=True)
        touched = np.unique(found.column("_rowaddr").to_numpy() >> _ROW_BITS).tolist()
        if not touched:
            return
        left = {number: self._dataset.get_fragment(number).delete(predicate) for number in touched}
        updated = [fragment for fragment in left.values() if fragment is not None]
        emptied = [number for number, fragment in left.items() if fragment is None]
        operation = lance.LanceOperation.Delete(updated, emptied, predicate)
        self._dataset = self._commit(operation, read_version=self.version)

    def _commit(self, operation: lance.LanceOperation.BaseOperation, *, read_version: int) -> lance.LanceDataset:
        properties = {"t1.run_id": self.run_id, "t1.commit": str(self.num_commits)}
        transaction = lance.Transaction(read_version, operation, transaction_properties=properties)
        creating = isinstance(operation, lance.LanceOperation.Overwrite)
        dataset = lance.LanceDataset.commit(
            self.uri,
            transaction,
            storage_options=lance_options(self.uri),
            enable_stable_row_ids=True if creating else None,
        )
        self.num_commits += 1
        return dataset


def committed_runs(dataset: lance.LanceDataset, versions: Sequence[int]) -> dict[int, str]:
    """The run id behind each of these versions, where its transaction is still there."""
    runs = {}
    for version in versions:
        try:
            transaction = dataset.read_transaction(version)
        except (OSError, ValueError):
            continue
        if transaction is not None and transaction.transaction_properties:
            runs[version] = transaction.transaction_properties.get("t1.run_id", "")
    return runs
