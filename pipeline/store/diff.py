"""What has to be encoded, and which rows have to go: the corpus compared with the table.

The table is the truth. A document is its id's hash and its content's hash, 16 bytes each, in compact arrays that are
compared bucket by bucket (`buckets`, `verdicts`), here or by a cluster, and assembled here. Pure numpy; called by the
index flow in tasks, so that the driver's memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.store.buckets import count_bits, numbers_of, shards_of, split_documents, split_rows
from pipeline.store.hashes import ShardScan
from pipeline.store.known import KnownRows
from pipeline.store.verdicts import Verdict, decide_bucket

_Mask = NDArray[np.bool_]
_Value = TypeVar("_Value", bound=np.generic)
# Entries that are gathered at once; about 50 bytes of scratch each, with the copy.
ENTRIES_A_BUCKET = 2**23
# Of a shard's documents: with more of them to be read, passing over the rest is not worth their offsets.
_SMALL_SHARE = 0.5
# And of any shard; a reading task holds them as a set, of some 70 bytes each.
_MAX_OFFSETS = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        selected: For each shard, whether each of its documents is to be encoded, bool [documents].
        duplicates: For each shard, whether a document's id was seen before it, bool [documents].
        first_shards: For each shard, the shard that holds the first of each of its duplicates, int32 [duplicates].
        digests: For each shard that is read again, `ShardScan.digest` of those documents that are read, as they were
            when they were compared: it must be the same.
        obsolete: Row ids to delete before publishing, uint64, sorted.
        num_unchanged: Documents already in the table as they are.
        num_deleted: Documents in the table whose id is not in the corpus.
        num_changed: Documents to be encoded whose id is in the table with other content.
        num_known: Distinct documents in the table.
        offsets: For each shard of which only some documents are read again, their `Document.offset`.
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
    offsets: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def num_selected(self) -> int:
        """Documents to be encoded."""
        return int(sum(mask.sum() for mask in self.selected))


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a plan says of a shard whatever it is compared with: its documents, and `ShardScan.digest`."""

    num_documents: int
    digest: bytes


def describe(scan: ShardScan) -> ShardFacts:
    """The facts of one shard."""
    return ShardFacts(len(scan.ids), scan.digest())


def decide(
    scans: Sequence[ShardScan],
    known: Sequence[KnownRows],
    *,
    delete_missing: bool,
    entries_a_bucket: int = ENTRIES_A_BUCKET,
) -> Plan:
    """Compares a corpus with a table.

    Of documents with one id the first in shard order is kept, the rest are duplicates. A kept document whose content is
    in the table is unchanged; any other is encoded. Rows of changed, and with `delete_missing` of absent, documents are
    obsolete, and so are rows that repeat a row.

    Memory, beside the scans (32 bytes a document, 40 with offsets) and the rows (44 each) in the object store: a plan
    of two bytes a document, and for a moment some twenty for each duplicate and each row that goes; the number of the
    bucket, of one byte a document or row (two where there are more than 256 buckets); and scratch of one bucket, which
    does not grow: 0.5 GB at 20 million documents and as many rows, 0.7 GB at 50 million.

    Args:
        scans: One a shard, in the corpus's order.
        known: The table's rows, in parts.
        delete_missing: Whether documents absent from the corpus are to disappear.
        entries_a_bucket: Documents and rows that are compared at once, about.
    """
    num_entries = sum(len(scan.ids) for scan in scans) + sum(len(part.ids) for part in known)
    num_bits = count_bits(num_entries, entries_a_bucket=entries_a_bucket)
    plan = assemble(
        [ShardFacts(len(scan.ids), b"") for scan in scans],
        _verdicts(scans, known, num_bits=num_bits, delete_missing=delete_missing),
    )
    digests = [scan.digest() if mask.any() else b"" for scan, mask in zip(scans, plan.selected, strict=True)]
    return replace(plan, digests=digests)


def _verdicts(
    scans: Sequence[ShardScan], known: Sequence[KnownRows], *, num_bits: int, delete_missing: bool
) -> Iterator[Verdict]:
    """Of each bucket, which is gathered from where its entries lie."""
    documents = split_documents(enumerate(scans), num_bits=num_bits)
    rows = [split_rows(part, num_bits=num_bits) for part in known]
    for some in documents:
        yield decide_bucket([some], [next(part) for part in rows], delete_missing=delete_missing)


def assemble(shards: Sequence[ShardFacts], verdicts: Iterable[Verdict]) -> Plan:
    """The plan that the verdicts of all buckets make, in whatever order they come; one is held at a time.

    Args:
        shards: Of the corpus, in its order.
        verdicts: One a bucket; each document is in one of them.
    """
    begins = np.cumsum([0, *(shard.num_documents for shard in shards)])
    select, repeat = np.zeros(begins[-1], np.bool_), np.zeros(begins[-1], np.bool_)
    duplicates, first_shards = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    obsolete = [np.empty(0, np.uint64)]
    counts = np.zeros(4, np.int64)
    for verdict in verdicts:
        for mask, places in ((select, verdict.selected), (repeat, verdict.duplicates)):
            mask[begins[shards_of(places)] + numbers_of(places)] = True
        # copies: a view of an object of Ray's store would keep the whole verdict there
        duplicates.append(verdict.duplicates.copy())
        first_shards.append(verdict.first_shards.copy())
        obsolete.append(verdict.obsolete.copy())
        counts += (verdict.num_unchanged, verdict.num_deleted, verdict.num_changed, verdict.num_known)
    masks = _by_shard(repeat, begins)
    firsts = np.concatenate(first_shards)[np.argsort(np.concatenate(duplicates))]
    num_unchanged, num_deleted, num_changed, num_known = counts.tolist()
    return Plan(
        _by_shard(select, begins), masks, _by_shard(firsts, np.cumsum([0, *(mask.sum() for mask in masks)])),
        [shard.digest for shard in shards], np.sort(np.concatenate(obsolete)),
        num_unchanged, num_deleted, num_changed, num_known,
    )  # fmt: skip


def narrow(plan: Plan, scans: Iterable[tuple[int, ShardScan]]) -> Plan:
    """The same plan, which reads no more of a shard than is encoded, where that is a small part of it.

    Args:
        plan: From `assemble`.
        scans: Of some shards, each with its shard's position. One that kept no offsets is read whole, and so is one
            that is not what was compared: Ray has made it again, of a shard that was perhaps rewritten.
    """
    digests, offsets = list(plan.digests), dict(plan.offsets)
    for position, scan in scans:
        some, compared = np.flatnonzero(plan.selected[position]), scan.first(len(plan.selected[position]))
        is_little = 0 < len(some) <= min(_MAX_OFFSETS, _SMALL_SHARE * len(compared.ids))
        if compared.offsets is not None and is_little and compared.digest() == digests[position]:
            offsets[position] = compared.offsets[some]
            digests[position] = compared.take(some).digest()
    return replace(plan, digests=digests, offsets=offsets)


def _by_shard(values: NDArray[_Value], begins: NDArray[np.int64]) -> list[NDArray[_Value]]:
    """The values of each shard, as views."""
    return [values[begin:end] for begin, end in pairwise(begins)]
