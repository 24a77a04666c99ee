"""Which keys a version holds: how many documents, and whether an (id, chunk) comes twice.

Read from ids and chunk numbers alone, without an index and without a Python object an id. Called by the gate.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import lance
import numpy as np
from numpy.typing import NDArray

from pipeline.retry import retrying
from pipeline.store.hashes import ID_HASH, as_id_hashes

_BATCH_ROWS = 65_536
# Odd, so that no two chunks of a document get the same number.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """What the keys of some rows are.

    Attributes:
        num_rows: Chunks.
        num_documents: Distinct ids.
        num_repeated: Rows whose (id, chunk) is there already.
        rows_digest: Names the rows that were read.
    """

    num_rows: int
    num_documents: int
    num_repeated: int
    rows_digest: str

    def is_of(self, dataset: lance.LanceDataset) -> bool:
        """Whether a version has exactly the rows that were read, whatever its indexes are."""
        return self.rows_digest == _digest_rows(dataset)


def count_keys(dataset: lance.LanceDataset) -> KeyCounts:
    """Counts the keys of a version; takes 20 bytes a row."""
    return retrying(lambda: _count_keys(dataset), what=f"counting the keys of version {dataset.version}")


def _count_keys(dataset: lance.LanceDataset) -> KeyCounts:
    num_rows, begin = dataset.count_rows(), 0
    one, two, chunks = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64), np.empty(num_rows, np.int32)
    for batch in dataset.to_batches(columns={"id_hash": ID_HASH, "chunk": "chunk"}, batch_size=_BATCH_ROWS):
        at = slice(begin, begin + batch.num_rows)
        one[at], two[at] = as_id_hashes(batch.column("id_hash")).T
        chunks[at] = batch.column("chunk").to_numpy()
        begin += batch.num_rows
    num_documents, num_repeated = _count_distinct(one, two), 0
    if num_documents < num_rows:  # else no id has two rows, and none repeats
        num_repeated = num_rows - _count_distinct(one + chunks.astype(np.uint64) * _GOLDEN, two)
    return KeyCounts(num_rows, num_documents, num_repeated, _digest_rows(dataset))


def _digest_rows(dataset: lance.LanceDataset) -> str:
    """Changes with any row: of the files and the deleted rows of every fragment."""
    known = (fragment.metadata.to_json() for fragment in dataset.get_fragments())
    parts = sorted(json.dumps([f["id"], f["files"], f["overlays"], f["deletion_file"]], sort_keys=True) for f in known)
    return hashlib.sha256("\n".join([dataset.uri, *parts]).encode()).hexdigest()


def _count_distinct(one: _Words, two: _Words) -> int:
    """Distinct pairs: sorted by the first word, and by the second only where the first is shared."""
    ordered = np.sort(one)
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return len(one)
    order = np.argsort(one)
    shared = np.zeros(len(one), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    among = np.unique(np.column_stack([ordered[shared], two[order[shared]]]), axis=0)
    return len(one) - int(shared.sum()) + len(among)
