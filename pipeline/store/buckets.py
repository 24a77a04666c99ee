"""Documents and rows of the table in buckets by the leading bits of their ids' hashes: equal ids share a bucket.

What holds a part of the corpus or the table is split by itself, wherever it lies; a bucket of the whole is the same
bucket of all the parts. Pure numpy; `diff` compares the buckets of one process, the index flow those of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.store.hashes import Hashes, ShardScan, Some, pick
from pipeline.store.known import KnownRows

# Of a bucket's number, so that it takes two bytes at most.
_MAX_BITS = 16
# The bucket of each of some ids.
_Buckets = NDArray[np.uint8] | NDArray[np.uint16]
_NUMBER_BITS = np.uint64(32)


@dataclass(frozen=True, slots=True)
class PlacedDocuments:
    """Some documents of a corpus, wherever they stand in it.

    Attributes:
        ids: Hash of each document's id, [documents, 2].
        contents: Hash of each document's content, [documents, 2].
        places: Shard's position * 2**32 + number in the shard, uint64 [documents]: sorted, the corpus's order.
    """

    ids: Hashes
    contents: Hashes
    places: NDArray[np.uint64]

    def take(self, at: Some) -> PlacedDocuments:
        """Some of them, in this order."""
        return PlacedDocuments(pick(self.ids, at), pick(self.contents, at), pick(self.places, at))


def count_bits(num_entries: int, *, entries_a_bucket: int) -> int:
    """Bits of a bucket's number, so that a bucket holds about `entries_a_bucket` documents and rows, or fewer."""
    return min(_MAX_BITS, (num_entries // entries_a_bucket).bit_length())


def shards_of(places: NDArray[np.uint64]) -> NDArray[np.int32]:
    """The shard of each place."""
    return (places >> _NUMBER_BITS).astype(np.int32)


def numbers_of(places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of each place within its shard."""
    return (places & np.uint64(2**32 - 1)).astype(np.int64)


def split_documents(scans: Iterable[tuple[int, ShardScan]], *, num_bits: int) -> Iterator[PlacedDocuments]:
    """The documents of some shards, bucket after bucket, each in the order of the shards.

    Args:
        scans: Each with its shard's position.
        num_bits: Of a bucket's number.

    Yields:
        2**num_bits buckets. Beside the scans one or two bytes a document are held, and one bucket.
    """
    shards = [(shard, scan, _leading_bits(scan.ids[:, 0], num_bits)) for shard, scan in scans]
    for bucket in range(2**num_bits):
        yield join_documents([_documents_of(shard, scan, of_each, bucket) for shard, scan, of_each in shards])


def split_rows(rows: KnownRows, *, num_bits: int) -> Iterator[KnownRows]:
    """Some rows of a table, bucket after bucket, each in their order.

    Args:
        rows: Which are split.
        num_bits: Of a bucket's number.

    Yields:
        2**num_bits buckets. Beside the rows one or two bytes a row are held, and one bucket.
    """
    of_each = _leading_bits(rows.ids[:, 0], num_bits)
    for bucket in range(2**num_bits):
        yield rows.take(_members(of_each, bucket))


def group(words: NDArray[np.uint64], *, num_bits: int) -> Iterator[Some]:
    """Where the words with each beginning are, in their order; eight bytes a word are held, unlike by `split_rows`.

    Args:
        words: Evenly spread, as hashes are.
        num_bits: Of a beginning, at most 16.

    Yields:
        For each of 2**num_bits beginnings.
    """
    beginnings = _leading_bits(words, num_bits)
    if beginnings is None:
        yield slice(None)
        return
    order = np.argsort(beginnings, kind="stable")  # of so narrow integers a radix sort: linear
    ends = np.cumsum(np.bincount(beginnings, minlength=2**num_bits))
    yield from np.split(order, ends[:-1])


def _leading_bits(words: NDArray[np.uint64], num_bits: int) -> _Buckets | None:
    """The bucket of each word; None where there is only one."""
    if num_bits == 0:
        return None
    buckets: _Buckets = np.empty(len(words), np.uint8) if num_bits <= 8 else np.empty(len(words), np.uint16)
    # into the narrow array at once: eight bytes a word are never held
    np.right_shift(words, np.uint64(64 - num_bits), out=buckets, casting="unsafe")
    return buckets


def _members(of_each: _Buckets | None, bucket: int) -> Some:
    """Where the members of a bucket are; all without a copy where there is only one."""
    return slice(None) if of_each is None else np.flatnonzero(of_each == bucket)


def _documents_of(shard: int, scan: ShardScan, of_each: _Buckets | None, bucket: int) -> PlacedDocuments:
    at = _members(of_each, bucket)
    numbers = np.arange(len(scan.ids)) if isinstance(at, slice) else at
    places = numbers.astype(np.uint64) + np.uint64(shard << 32)
    return PlacedDocuments(pick(scan.ids, at), pick(scan.contents, at), places)


def join_documents(parts: Sequence[PlacedDocuments]) -> PlacedDocuments:
    """The documents of several parts, one part after the other; copies them where there is more than one."""
    if len(parts) == 1:
        return parts[0]
    none = np.empty((0, 2), np.uint64)
    return PlacedDocuments(
        np.concatenate([none, *(part.ids for part in parts)]),
        np.concatenate([none, *(part.contents for part in parts)]),
        np.concatenate([none[:, 0], *(part.places for part in parts)]),
    )


def in_order(documents: PlacedDocuments) -> PlacedDocuments:
    """The same documents in the corpus's order; those that are in it already are not copied."""
    places = documents.places
    if (places[1:] > places[:-1]).all():
        return documents
    return documents.take(np.argsort(places))
