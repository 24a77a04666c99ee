"""What has to be encoded, and which rows have to go: the corpus compared with the table.

The table is the truth. A document is its id's hash and its content's hash, 16 bytes each, in compact arrays that are
sorted and searched, never in a Python set. Pure numpy but for `read_known`; called by the index flow in a task of its
own, so that the driver's memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
from numpy.typing import NDArray

from pipeline.records import HASH_BYTES, id_hash

# One hash as two unsigned integers, [rows, 2]; compared and sorted as a pair.
Hashes = NDArray[np.uint64]
_BATCH_ROWS = 65_536


def as_hashes(raw: bytes) -> Hashes:
    """Concatenated 16-byte hashes as [rows, 2]."""
    return np.frombuffer(raw, dtype=np.uint64).reshape(-1, HASH_BYTES // 8)


@dataclass(frozen=True, slots=True)
class ShardScan:
    """The documents of one shard, in the order they are read.

    Attributes:
        ids: Hash of each document's id, [documents, 2].
        contents: Hash of each document's content, [documents, 2].
    """

    ids: Hashes
    contents: Hashes


@dataclass(frozen=True, slots=True)
class KnownRows:
    """The rows of a table version: hash of id and content, chunk number, and stable row id, each [rows, ...]."""

    ids: Hashes
    contents: Hashes
    chunks: NDArray[np.int32]
    row_ids: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        selected: For each shard, whether each of its documents is to be encoded, bool [documents].
        duplicates: For each shard, whether a document's id was seen before it, bool [documents].
        obsolete: Row ids to delete before publishing, uint64, sorted.
        num_unchanged: Documents already in the table as they are.
        num_deleted: Documents in the table whose id is not in the corpus.
        num_changed: Documents to be encoded whose id is in the table with other content.
        num_known: Distinct documents in the table.
    """

    selected: list[NDArray[np.bool_]]
    duplicates: list[NDArray[np.bool_]]
    obsolete: NDArray[np.uint64]
    num_unchanged: int
    num_deleted: int
    num_changed: int
    num_known: int

    @property
    def num_selected(self) -> int:
        """Documents to be encoded."""
        return int(sum(mask.sum() for mask in self.selected))


def read_known(dataset: lance.LanceDataset) -> KnownRows:
    """Hashes and row ids of every row of a version; reads ids and hashes only, never texts or vectors."""
    ids, contents, chunks, rows = [], [], [], []
    for batch in dataset.to_batches(columns=["id", "content_hash", "chunk"], with_row_id=True, batch_size=_BATCH_ROWS):
        ids.append(b"".join(map(id_hash, batch.column("id").to_pylist())))
        contents.append(b"".join(batch.column("content_hash").to_pylist()))
        chunks.append(batch.column("chunk").to_numpy())
        rows.append(batch.column("_rowid").to_numpy())
    return KnownRows(
        as_hashes(b"".join(ids)),
        as_hashes(b"".join(contents)),
        np.concatenate(chunks) if chunks else np.empty(0, np.int32),
        np.concatenate(rows) if rows else np.empty(0, np.uint64),
    )


def decide(scans: Sequence[ShardScan], known: KnownRows, *, delete_missing: bool) -> Plan:
    """Compares a corpus with a table.

    Of documents with one id the first in shard order is kept, the rest are duplicates. A kept document whose content is
    in the table is unchanged; any other is encoded. Rows of changed, and with `delete_missing` of absent, documents are
    obsolete, and so are rows that repeat a row.

    Args:
        scans: One a shard, in the corpus's order.
        known: The table's rows.
        delete_missing: Whether documents absent from the corpus are to disappear.
    """
    ids = np.concatenate([s.ids for s in scans]) if scans else np.empty((0, 2), np.uint64)
    contents = np.concatenate([s.contents for s in scans]) if scans else np.empty((0, 2), np.uint64)
    _, number = np.unique(np.concatenate([ids, known.ids]), axis=0, return_inverse=True)
    corpus_id, table_id = np.split(number.reshape(-1), [len(ids)])
    first = _first_of_each(corpus_id)

    wanted = np.zeros((int(number.max()) + 1 if number.size else 0, 2), np.uint64)
    in_corpus = np.zeros(len(wanted), np.bool_)
    wanted[corpus_id[first]] = contents[first]
    in_corpus[corpus_id[first]] = True
    fits = in_corpus[table_id] & (wanted[table_id] == known.contents).all(axis=1)
    present = np.zeros(len(wanted), np.bool_)
    present[table_id[fits]] = True
    in_table = np.zeros(len(wanted), np.bool_)
    in_table[table_id] = True

    select = first & ~present[corpus_id]
    keep = fits | (~in_corpus[table_id] & (not delete_missing))
    keep &= _first_rows(table_id, known)
    bounds = np.cumsum([len(s.ids) for s in scans])[:-1]
    return Plan(
        selected=list(np.split(select, bounds)) if scans else [],
        duplicates=list(np.split(~first, bounds)) if scans else [],
        obsolete=np.sort(known.row_ids[~keep]),
        num_unchanged=int((first & present[corpus_id]).sum()),
        num_deleted=int((in_table & ~in_corpus).sum()) if delete_missing else 0,
        num_changed=int((in_table[corpus_id] & select).sum()),
        num_known=int(in_table.sum()),
    )


def _first_of_each(number: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each entry is the first with its number."""
    first = np.zeros(len(number), np.bool_)
    first[np.unique(number, return_index=True)[1]] = True
    return first


def _first_rows(table_id: NDArray[np.intp], known: KnownRows) -> NDArray[np.bool_]:
    """Whether each row is the first of its (id, content, chunk)."""
    if not len(table_id):
        return np.zeros(0, np.bool_)
    key = np.column_stack([table_id.astype(np.uint64), known.contents, known.chunks.astype(np.uint64)])
    first = np.zeros(len(key), np.bool_)
    first[np.unique(key, axis=0, return_index=True)[1]] = True
    return first
