"""The first pass over a corpus: hash every document, set bad rows aside, decide what is to be encoded.

It costs a read and two hashes a document, needs no model, and makes everything after it exact: the totals, the
duplicates, the deletions and what a re-run can skip. Hashes stay in Ray's object store; the driver holds counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from pipeline.corpus.read import read_shard
from pipeline.flows.cluster import READ_CPUS
from pipeline.records import FieldMap, Rejected, Shard, content_hash, id_hash
from pipeline.store.database import Database
from pipeline.store.diff import KnownRows, Plan, ShardScan, as_hashes, decide, read_known

_MAX_RETRIES = 3
# Scans in flight a CPU: enough to hide storage latency, few enough to keep rejected rows bounded.
_IN_FLIGHT_PER_CPU = 4


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What one shard held: documents, and rows that could not become one."""

    num_documents: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The counts of a `Plan`, small enough for the driver."""

    num_documents: int
    num_selected: int
    num_unchanged: int
    num_changed: int
    num_deleted: int
    num_duplicates: int
    num_known: int
    num_obsolete_rows: int
    shards_to_read: tuple[int, ...]


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES, num_returns=2)  # type: ignore[untyped-decorator]
def _scan_shard(shard: Shard, fields: FieldMap, max_text_chars: int, limit: int | None) -> tuple[ShardScan, ScanCounts]:
    ids, contents, rejected = bytearray(), bytearray(), []
    num_documents = 0
    for row in read_shard(shard, fields, max_text_chars=max_text_chars):
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        ids += id_hash(row.id)
        contents += content_hash(row.title, row.text, row.metadata)
        num_documents += 1
        if limit is not None and num_documents >= limit:
            break
    return ShardScan(as_hashes(bytes(ids)), as_hashes(bytes(contents))), ScanCounts(num_documents, tuple(rejected))


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES, num_returns=2)  # type: ignore[untyped-decorator]
def _decide(
    scans: list[Any], database: Database, fingerprint: str, delete_missing: bool, limit: int | None
) -> tuple[Plan, PlanSummary]:
    found: list[ShardScan] = ray.get(scans)
    if limit is not None:
        found = _cut(found, limit)
    plan = decide(found, _known(database, fingerprint), delete_missing=delete_missing)
    summary = PlanSummary(
        num_documents=sum(len(s.ids) for s in found),
        num_selected=plan.num_selected,
        num_unchanged=plan.num_unchanged,
        num_changed=plan.num_changed,
        num_deleted=plan.num_deleted,
        num_duplicates=int(sum(mask.sum() for mask in plan.duplicates)),
        num_known=plan.num_known,
        num_obsolete_rows=len(plan.obsolete),
        shards_to_read=tuple(i for i, mask in enumerate(plan.selected) if mask.any()),
    )
    return plan, summary


def _known(database: Database, fingerprint: str) -> KnownRows:
    dataset = database.open_fingerprint(fingerprint)
    if dataset is not None:
        return read_known(dataset)
    empty = np.empty((0, 2), np.uint64)
    return KnownRows(empty, empty, np.empty(0, np.int32), np.empty(0, np.uint64))


def _cut(scans: Sequence[ShardScan], limit: int) -> list[ShardScan]:
    kept, left = [], limit
    for scan in scans:
        take = min(left, len(scan.ids))
        kept.append(ShardScan(scan.ids[:take], scan.contents[:take]))
        left -= take
    return kept


def scan_shards(
    shards: Sequence[Shard], fields: FieldMap, *, max_text_chars: int, limit: int | None, num_cpus: float
) -> Iterator[tuple[int, Any, ScanCounts]]:
    """Scans shards in parallel, a bounded number at a time.

    Yields:
        As they finish: the shard's position, a reference to its `ShardScan`, and what it held.
    """
    in_flight = max(2, int(num_cpus * _IN_FLIGHT_PER_CPU))
    waiting = iter(enumerate(shards))
    pending: dict[Any, tuple[int, Any]] = {}
    while True:
        while len(pending) < in_flight:
            item = next(waiting, None)
            if item is None:
                break
            position, shard = item
            scan, counts = _scan_shard.remote(shard, fields, max_text_chars, limit)
            pending[counts] = (position, scan)
        if not pending:
            return
        (done,), _ = ray.wait(list(pending), num_returns=1)
        position, scan = pending.pop(done)
        yield position, scan, ray.get(done)


def decide_remotely(
    scans: Sequence[Any], database: Database, *, fingerprint: str, delete_missing: bool, limit: int | None
) -> tuple[Any, PlanSummary]:
    """Compares the scans with the table in a task of its own.

    Returns:
        A reference to the `Plan`, and its counts.
    """
    plan, summary = _decide.remote(list(scans), database, fingerprint, delete_missing, limit)
    return plan, ray.get(summary)


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def obsolete_rows(plan: Plan) -> Any:
    """The row ids that a plan deletes, uint64."""
    return plan.obsolete
