"""The scanned corpus compared with the table, in a task of its own: the driver sees counts.

Called by the index flow. What is compared and how lies in `store.diff`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import ray

from pipeline.flows.cluster import READ_CPUS
from pipeline.flows.duplicates import holds_new_duplicates
from pipeline.retry import retrying
from pipeline.store.database import Database
from pipeline.store.diff import Plan, decide
from pipeline.store.hashes import ShardScan
from pipeline.store.known import KnownRows, join_known, read_known

_MAX_RETRIES = 3
# A second of a core: less is read sooner than a process for it would have started.
_KNOWN_ROWS_A_TASK = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The counts of a `Plan`, small enough for the driver; and which shards are to be read again, for what."""

    num_documents: int
    num_selected: int
    num_unchanged: int
    num_changed: int
    num_deleted: int
    num_duplicates: int
    num_known: int
    num_obsolete_rows: int
    shards_to_read: tuple[int, ...]
    shards_with_duplicates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the scans are compared with the table.

    Attributes:
        delete_missing: Whether documents absent from the corpus are to disappear.
        limit: Documents that count, in the corpus's order; None for all.
        num_shards: Shards of the corpus.
        fresh: Positions of the shards that this run has read itself.
    """

    delete_missing: bool
    limit: int | None
    num_shards: int
    fresh: frozenset[int]


def start_reading(database: Database, fingerprint: str, *, num_cpus: float) -> list[Any]:
    """Begins to read what the table holds of this encoder, while the corpus is scanned.

    Args:
        database: Whose documents table.
        fingerprint: Of the encoder.
        num_cpus: Of the cluster, as many tasks at most: the scan of what changed is often done long before them.

    Returns:
        References to `KnownRows`, whose rows together are the table's; none where it has none.
    """
    dataset = retrying(lambda: database.open_fingerprint(fingerprint), what=f"opening {database.documents_uri}")
    if dataset is None:
        return []
    fragments = dataset.get_fragments()
    parts = divide([fragment.metadata.physical_rows for fragment in fragments], most=max(1, int(num_cpus)))
    return [
        _read_known.remote(database, int(dataset.version), [fragments[place].fragment_id for place in part])
        for part in parts
    ]


def divide(rows: Sequence[int], *, most: int) -> list[list[int]]:
    """Fragments in parts of about as many rows each, as many parts as are worth a task.

    Args:
        rows: Of each fragment.
        most: Parts.

    Returns:
        Places in `rows`, each once, in their order.
    """
    counts = np.array(rows, np.int64)
    total = int(counts.sum())
    num_parts = min(most, max(1, -(-total // _KNOWN_ROWS_A_TASK)))
    middles = np.cumsum(counts) - counts / 2
    part_of = np.minimum(middles * num_parts // max(1, total), num_parts - 1)
    return [part for number in range(num_parts) if (part := np.flatnonzero(part_of == number).tolist())]


def decide_remotely(packs: Sequence[Any], known: Sequence[Any], how: Comparison) -> tuple[Any, PlanSummary]:
    """Compares the scans with the table in a task of its own.

    Args:
        packs: References to `Pack`s; a shard that is in none has no documents.
        known: From `start_reading`.
        how: What is made of the two.

    Returns:
        A reference to the `Plan`, and its counts.
    """
    plan, summary = _decide.remote(list(packs), list(known), how)
    return plan, ray.get(summary)


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES, num_returns=2)  # type: ignore[untyped-decorator]
def _decide(packs: list[Any], known: list[Any], how: Comparison) -> tuple[Plan, PlanSummary]:
    none = np.empty((0, 2), np.uint64)
    found = [ShardScan(none, none)] * how.num_shards
    for position, scan in chain.from_iterable(ray.get(packs)):
        found[position] = scan
    if how.limit is not None:
        found = _cut(found, how.limit)
    plan = decide(found, join_known(ray.get(known)), delete_missing=how.delete_missing)
    positions = range(how.num_shards)
    summary = PlanSummary(
        num_documents=sum(len(s.ids) for s in found),
        num_selected=plan.num_selected,
        num_unchanged=plan.num_unchanged,
        num_changed=plan.num_changed,
        num_deleted=plan.num_deleted,
        num_duplicates=int(sum(mask.sum() for mask in plan.duplicates)),
        num_known=plan.num_known,
        num_obsolete_rows=len(plan.obsolete),
        shards_to_read=tuple(i for i in positions if plan.selected[i].any()),
        shards_with_duplicates=tuple(i for i in positions if holds_new_duplicates(plan, i, how.fresh)),
    )
    return plan, summary


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _read_known(database: Database, version: int, fragments: list[int]) -> KnownRows:
    def read() -> KnownRows:
        return read_known(database.open("documents", version=version), fragments=fragments)

    return retrying(read, what=f"reading {database.documents_uri}")


def _cut(scans: Sequence[ShardScan], limit: int) -> list[ShardScan]:
    kept, left = [], limit
    for scan in scans:
        take = min(left, len(scan.ids))
        kept.append(ShardScan(scan.ids[:take], scan.contents[:take]))
        left -= take
    return kept


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def obsolete_rows(plan: Plan) -> Any:
    """The row ids that a plan deletes, uint64."""
    return plan.obsolete
