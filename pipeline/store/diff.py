"""What has to be encoded, and which rows have to go: the corpus compared with the table.

The table is the truth. A document is its id's hash and its content's hash, 16 bytes each, in compact arrays that are
sorted and searched, never in a Python set. Pure numpy; called by the index flow in a task of its own, so
that the driver's memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.store.hashes import Hashes, ShardScan
from pipeline.store.known import KnownRows

_Mask = NDArray[np.bool_]
_Positions = NDArray[np.intp]
# Entries that are sorted at once; about 60 bytes of scratch each.
_BUCKET_ENTRIES = 2**23


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        selected: For each shard, whether each of its documents is to be encoded, bool [documents].
        duplicates: For each shard, whether a document's id was seen before it, bool [documents].
        first_shards: For each shard, the shard that holds the first of each of its duplicates, int32 [duplicates].
        digests: For each shard, `ShardScan.digest` of what was compared: what is encoded must be the same.
        obsolete: Row ids to delete before publishing, uint64, sorted.
        num_unchanged: Documents already in the table as they are.
        num_deleted: Documents in the table whose id is not in the corpus.
        num_changed: Documents to be encoded whose id is in the table with other content.
        num_known: Distinct documents in the table.
    """

    selected: list[_Mask]
    duplicates: list[_Mask]
    first_shards: list[NDArray[np.int32]]
    digests: list[bytes]
    obsolete: NDArray[np.uint64]
    num_unchanged: int
    num_deleted: int
    num_changed: int
    num_known: int

    @property
    def num_selected(self) -> int:
        """Documents to be encoded."""
        return int(sum(mask.sum() for mask in self.selected))


class _Verdict:
    """What the buckets have said so far of every document and every row."""

    def __init__(self, num_documents: int, num_rows: int) -> None:
        self.is_first = np.zeros(num_documents, np.bool_)
        self.select = np.zeros(num_documents, np.bool_)
        self.keep = np.zeros(num_rows, np.bool_)
        self.duplicates: list[_Positions] = []
        self.firsts: list[_Positions] = []
        self.num_unchanged = self.num_deleted = self.num_changed = self.num_known = 0


def decide(scans: Sequence[ShardScan], known: KnownRows, *, delete_missing: bool) -> Plan:
    """Compares a corpus with a table.

    Of documents with one id the first in shard order is kept, the rest are duplicates. A kept document whose content is
    in the table is unchanged; any other is encoded. Rows of changed, and with `delete_missing` of absent, documents are
    obsolete, and so are rows that repeat a row.

    Memory: 35 bytes a document and 45 a row of the table, beside the scans (32 a document) and the rows (44 each) in
    the object store, what `join_known` copied of these, and scratch that does not grow: 100 million documents of one
    chunk each take 13 GB and 8 GB of object store.

    Args:
        scans: One a shard, in the corpus's order.
        known: The table's rows.
        delete_missing: Whether documents absent from the corpus are to disappear.
    """
    none = np.empty((0, 2), np.uint64)
    corpus = ShardScan(
        np.concatenate([none, *(s.ids for s in scans)]), np.concatenate([none, *(s.contents for s in scans)])
    )
    verdict = _Verdict(len(corpus.ids), len(known.ids))
    for documents, rows in _buckets(corpus.ids, known.ids):
        _decide_bucket(corpus, known, documents, rows, verdict, delete_missing)
    bounds = np.cumsum([len(s.ids) for s in scans])[:-1]
    masks = np.split(~verdict.is_first, bounds) if scans else []
    return Plan(
        selected=list(np.split(verdict.select, bounds)) if scans else [],
        duplicates=list(masks),
        first_shards=_first_shards(verdict, bounds, masks),
        digests=[scan.digest() for scan in scans],
        obsolete=np.sort(known.row_ids[~verdict.keep]),
        num_unchanged=verdict.num_unchanged,
        num_deleted=verdict.num_deleted if delete_missing else 0,
        num_changed=verdict.num_changed,
        num_known=verdict.num_known,
    )


def _buckets(documents: Hashes, rows: Hashes) -> Iterator[tuple[_Positions, _Positions]]:
    """Positions of documents and rows, by the leading bits of their ids' hashes: equal ids share a bucket."""
    num_bits = ((len(documents) + len(rows)) // _BUCKET_ENTRIES).bit_length()
    if num_bits == 0:
        yield np.arange(len(documents)), np.arange(len(rows))
        return
    shift = np.uint64(64 - num_bits)
    for bucket in range(2**num_bits):
        yield np.flatnonzero(documents[:, 0] >> shift == bucket), np.flatnonzero(rows[:, 0] >> shift == bucket)


def _decide_bucket(
    corpus: ShardScan, known: KnownRows, documents: _Positions, rows: _Positions, verdict: _Verdict, delete: bool
) -> None:
    """The comparison for some ids, all of whose documents and rows are named."""
    num_documents = len(documents)
    ids = np.concatenate([corpus.ids[documents], known.ids[rows]])
    # the smallest position of each id: documents stand before rows, so it is the first document where there is one
    number, smallest = _number(ids)
    of_document, of_row = number[:num_documents], number[num_documents:]
    in_corpus = smallest < num_documents
    in_table = np.zeros(len(smallest), np.bool_)
    in_table[of_row] = True

    first = np.zeros(num_documents, np.bool_)
    first[smallest[in_corpus]] = True
    fits = in_corpus[of_row]
    wanted = corpus.contents[documents[smallest[of_row[fits]]]]
    fits[fits] = (wanted == known.contents[rows[fits]]).all(axis=1)
    present = np.zeros(len(smallest), np.bool_)
    present[of_row[fits]] = True

    select = first & ~present[of_document]
    keep = fits | (~in_corpus[of_row] & (not delete))
    if in_table.sum() < len(rows):  # else no id has two rows, and none can repeat another
        key = (of_row.astype(np.uint64) << np.uint64(32)) | known.chunks[rows].astype(np.uint64)
        keep &= _first_of_each(key, known.contents[rows])
    verdict.is_first[documents] = first
    verdict.select[documents] = select
    verdict.keep[rows] = keep
    verdict.duplicates.append(documents[~first])
    verdict.firsts.append(documents[smallest[of_document[~first]]])
    verdict.num_unchanged += int((first & present[of_document]).sum())
    verdict.num_deleted += int((in_table & ~in_corpus).sum())
    verdict.num_changed += int((in_table[of_document] & select).sum())
    verdict.num_known += int(in_table.sum())


def _number(ids: Hashes) -> tuple[_Positions, _Positions]:
    """A number for each id, 0 to distinct ids - 1, and the smallest position of each number."""
    high, low = np.ascontiguousarray(ids[:, 0]), np.ascontiguousarray(ids[:, 1])
    order = np.argsort(high)
    same, alike = _repeats(high, order), _repeats(low, order)
    if (same & ~alike).any():  # two ids share their first 64 bits: sorted by these alone they may lie mixed
        order = np.lexsort((low, high))
        same, alike = _repeats(high, order), _repeats(low, order)
    starts = np.flatnonzero(~(same & alike))
    number = np.empty(len(ids), np.intp)
    number[order] = np.cumsum(~(same & alike)) - 1
    smallest = np.minimum.reduceat(order, starts) if len(starts) else np.empty(0, np.intp)
    return number, smallest


def _repeats(words: NDArray[np.uint64], order: _Positions) -> _Mask:
    """For each place of an order, whether it holds what the place before it holds."""
    ordered = words[order]
    repeats = np.zeros(len(order), np.bool_)
    repeats[1:] = ordered[1:] == ordered[:-1]
    return repeats


def _first_of_each(keys: NDArray[np.uint64], contents: Hashes) -> _Mask:
    """Whether each entry is the first with its key and content."""
    first = np.ones(len(keys), np.bool_)
    order = np.argsort(keys)
    repeats = _repeats(keys, order)
    if not repeats.any():  # as good as always
        return first
    repeats[:-1] |= repeats[1:]
    shared = np.sort(order[repeats])
    words = (contents[shared, 1], contents[shared, 0], keys[shared])
    by_all = np.lexsort(words)  # stable: equal entries stay in their order
    first[shared[by_all[np.logical_and.reduce([_repeats(word, by_all) for word in words])]]] = False
    return first


def _first_shards(verdict: _Verdict, bounds: _Positions, masks: Sequence[_Mask]) -> list[NDArray[np.int32]]:
    """For each shard, where the first of each of its duplicates is."""
    if not masks:
        return []
    duplicates, firsts = np.concatenate(verdict.duplicates), np.concatenate(verdict.firsts)
    shards = np.searchsorted(bounds, firsts[np.argsort(duplicates)], side="right").astype(np.int32)
    return list(np.split(shards, np.cumsum([mask.sum() for mask in masks])[:-1]))
