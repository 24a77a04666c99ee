"""What the documents table holds, in compact arrays: one side of what `diff` compares, and what an evaluation records.

Called by the index flow in tasks of their own, several where the table is large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
from numpy.typing import NDArray

from pipeline.records import id_hash
from pipeline.store.hashes import ID_HASH, Hashes, Some, as_hashes, as_id_hashes, fixed_bytes, pick

_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class KnownRows:
    """The rows of a table version: hash of id and content, chunk number, and stable row id, each [rows, ...]."""

    ids: Hashes
    contents: Hashes
    chunks: NDArray[np.int32]
    row_ids: NDArray[np.uint64]

    def take(self, at: Some) -> KnownRows:
        """Some of them, in this order."""
        return KnownRows(pick(self.ids, at), pick(self.contents, at), pick(self.chunks, at), pick(self.row_ids, at))


def read_known(dataset: lance.LanceDataset, *, fragments: Sequence[int] | None = None) -> KnownRows:
    """Hashes and row ids of the rows of a version; reads ids and hashes only, never texts or vectors.

    Args:
        dataset: A version of the documents table.
        fragments: Numbers of those that are read; None for all.
    """
    some = None if fragments is None else [dataset.get_fragment(number) for number in fragments]
    num_rows = dataset.count_rows() if some is None else sum(fragment.count_rows() for fragment in some)
    ids, contents = np.empty((num_rows, 2), np.uint64), np.empty((num_rows, 2), np.uint64)
    chunks, row_ids = np.empty(num_rows, np.int32), np.empty(num_rows, np.uint64)
    begin = 0
    columns = {"id_hash": ID_HASH, "content_hash": "content_hash", "chunk": "chunk"}
    scanner = dataset.scanner(columns=columns, with_row_id=True, batch_size=_BATCH_ROWS, fragments=some)
    for batch in scanner.to_batches():
        at = slice(begin, begin + batch.num_rows)
        ids[at] = as_id_hashes(batch.column("id_hash"))
        contents[at] = as_hashes(fixed_bytes(batch.column("content_hash")))
        chunks[at] = batch.column("chunk").to_numpy()
        row_ids[at] = batch.column("_rowid").to_numpy()
        begin += batch.num_rows
    return KnownRows(ids, contents, chunks, row_ids)


def join_known(parts: Sequence[KnownRows]) -> KnownRows:
    """The rows of several parts of one version; copies them where there is more than one."""
    if len(parts) == 1:
        return parts[0]
    none = np.empty((0, 2), np.uint64)
    return KnownRows(
        np.concatenate([none, *(part.ids for part in parts)]),
        np.concatenate([none, *(part.contents for part in parts)]),
        np.concatenate([np.empty(0, np.int32), *(part.chunks for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.row_ids for part in parts)]),
    )


def count_documents(known: KnownRows) -> int:
    """Documents, each counted once whatever its chunks."""
    return len(np.unique(known.ids, axis=0))


def hash_documents(known: KnownRows) -> str:
    """SHA-256, in hexadecimal, of every document's id and content, whatever the order of the rows."""
    documents = np.unique(np.hstack([known.ids, known.contents]), axis=0)
    return hashlib.sha256(documents.tobytes()).hexdigest()


def absent_ids(known: KnownRows, ids: Sequence[str]) -> list[str]:
    """Those of some ids that no row has, in their order."""
    wanted = as_hashes(b"".join(id_hash(id) for id in ids))
    candidates = known.ids[np.isin(known.ids[:, 0], wanted[:, 0])]
    there = set(map(tuple, candidates.tolist()))
    return [id for id, pair in zip(ids, map(tuple, wanted.tolist()), strict=True) if pair not in there]
