"""The scanned corpus compared with the table, in a task of its own: the driver sees counts.

Called by the index flow. What is compared and how lies in `store.diff`; more than one task can hold goes through
`shuffle`, to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import ray

from pipeline.errors import ClusterError
from pipeline.flows.duplicates import holds_new_duplicates
from pipeline.flows.shares import READ_CPUS
from pipeline.flows.shuffle import Shuffle, cut, decide_buckets
from pipeline.retry import retrying
from pipeline.store.buckets import count_bits
from pipeline.store.database import Database
from pipeline.store.diff import ENTRIES_A_BUCKET, Plan, assemble, decide, describe, narrow
from pipeline.store.hashes import ShardScan
from pipeline.store.known import KnownRows, read_known

_MAX_RETRIES = 3
# Half a second of a core: less is read sooner than a process for it would have started.
_KNOWN_ROWS_A_TASK = 2_500_000
# 0.7 GB, which a task that reads them holds twice for a moment.
_MAX_KNOWN_ROWS_A_TASK = 2**24


@dataclass(frozen=True, slots=True)
class EntryBounds:
    """How many entries, that is documents and rows of the table, are dealt with together.

    Attributes:
        a_comparison: In one task at most, all of them: 10 GB, in the object store of one node.
        a_split: Documents that one task splits, about.
        a_bucket: Entries that one task compares, about.
    """

    a_comparison: int = 2**28
    a_split: int = 2**23
    a_bucket: int = ENTRIES_A_BUCKET


_BOUNDS = EntryBounds()


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
        num_documents: For each shard, how many the scan found in it; exact where there is a limit.
        fresh: Positions of the shards that this run has read itself.
    """

    delete_missing: bool
    limit: int | None
    num_documents: Sequence[int]
    fresh: frozenset[int]

    @property
    def most(self) -> list[int] | None:
        """For each shard, how many of its documents count; None where all do."""
        if self.limit is None:
            return None
        before = [min(self.limit, total) for total in accumulate(self.num_documents, initial=0)]
        return [end - begin for begin, end in pairwise(before)]


@dataclass(frozen=True, slots=True)
class KnownReading:
    """What the table holds of an encoder, on its way into Ray's object store.

    Attributes:
        parts: References to `KnownRows`, whose rows together are the table's, in their order.
        num_rows: Of all parts; at most, for deleted ones are counted.
    """

    parts: Sequence[Any] = ()
    num_rows: int = 0


def start_reading(database: Database, fingerprint: str, *, num_cpus: float) -> KnownReading:
    """Begins to read what the table holds of this encoder, while the corpus is scanned.

    Args:
        database: Whose documents table.
        fingerprint: Of the encoder.
        num_cpus: Of the cluster, as many tasks at most: the scan of what changed is often done long before them.
    """
    dataset = retrying(lambda: database.open_fingerprint(fingerprint), what=f"opening {database.documents_uri}")
    if dataset is None:
        return KnownReading()
    fragments = dataset.get_fragments()
    rows = [fragment.metadata.physical_rows for fragment in fragments]
    parts = [
        _read_known.remote(database, int(dataset.version), [fragments[place].fragment_id for place in part])
        for part in divide(rows, most=max(1, int(num_cpus)))
    ]
    return KnownReading(parts, sum(rows))


def divide(rows: Sequence[int], *, most: int) -> list[list[int]]:
    """Fragments in parts of about as many rows each, as many parts as are worth a task.

    Args:
        rows: Of each fragment.
        most: Parts, unless these would be larger than a task should hold.

    Returns:
        Places in `rows`, each once, in their order.
    """
    counts = np.array(rows, np.int64)
    total = int(counts.sum())
    num_parts = min(most, max(1, -(-total // _KNOWN_ROWS_A_TASK)))
    num_parts = max(num_parts, -(-total // _MAX_KNOWN_ROWS_A_TASK))
    middles = np.cumsum(counts) - counts / 2
    part_of = np.minimum(middles * num_parts // max(1, total), num_parts - 1)
    return [part for number in range(num_parts) if (part := np.flatnonzero(part_of == number).tolist())]


def decide_remotely(
    packs: Sequence[Any], known: KnownReading, how: Comparison, *, packs_with_offsets: Mapping[int, Any] | None = None
) -> tuple[Any, PlanSummary]:
    """Compares the scans with the table in a task of its own, or in many where that would hold too much.

    Args:
        packs: References to `Pack`s; a shard that is in none has no documents.
        known: From `start_reading`.
        how: What is made of the two.
        packs_with_offsets: Those of shards of which only what is encoded need be read again, by position.

    Returns:
        A reference to the `Plan`, and its counts.
    """
    if known.parts:
        # a task that waits for them itself makes Ray start another process, for a second of a core; scans are done
        ray.wait(list(known.parts), num_returns=len(known.parts), fetch_local=False)
    spread = _spread(packs, known, how)
    plan, summary = _decide.remote(list(packs), list(known.parts), how, spread, dict(packs_with_offsets or {}))
    return plan, ray.get(summary)


def _spread(packs: Sequence[Any], known: KnownReading, how: Comparison) -> Shuffle | None:
    """How the comparison is spread over tasks; None where one task holds it."""
    num_documents = sum(how.num_documents)
    num_entries = num_documents + known.num_rows
    if num_entries <= _BOUNDS.a_comparison:
        return None
    num_bits = max(1, count_bits(num_entries, entries_a_bucket=_BOUNDS.a_bucket))
    packs_a_task = max(1, len(packs) * _BOUNDS.a_split // max(1, num_documents))
    return Shuffle(num_bits, packs_a_task, how.delete_missing, how.most)


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES, num_returns=2)  # type: ignore[untyped-decorator]
def _decide(
    packs: list[Any], known: list[Any], how: Comparison, spread: Shuffle | None, packs_with_offsets: dict[int, Any]
) -> tuple[Plan, PlanSummary]:
    num_shards = len(how.num_documents)
    nothing = ShardScan(*np.empty((2, 0, 2), np.uint64))
    if spread is None:
        scans = dict(cut(list(chain.from_iterable(ray.get(packs))), how.most))
        found = [scans.get(position, nothing) for position in range(num_shards)]
        plan = decide(found, ray.get(known), delete_missing=how.delete_missing)
    else:
        facts, verdicts = decide_buckets(packs, known, spread)
        no_documents = describe(nothing)
        plan = assemble([facts.get(position, no_documents) for position in range(num_shards)], verdicts)
    read_again = (pack for position, pack in packs_with_offsets.items() if plan.selected[position].any())
    plan = narrow(plan, chain.from_iterable(map(ray.get, read_again)))
    return plan, _summarise(plan, how)


def _summarise(plan: Plan, how: Comparison) -> PlanSummary:
    positions = range(len(plan.selected))
    return PlanSummary(
        num_documents=sum(map(len, plan.selected)),
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


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _read_known(database: Database, version: int, fragments: list[int]) -> KnownRows:
    def read() -> KnownRows:
        return read_known(database.open("documents", version=version), fragments=fragments)

    return retrying(read, what=f"reading {database.documents_uri}")


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _obsolete_rows(plan: Plan) -> Any:
    return plan.obsolete


def read_obsolete(plan: Any, summary: PlanSummary) -> Any:
    """The row ids that a plan deletes, uint64 [rows].

    Args:
        plan: Reference to a `Plan`.
        summary: Its counts, as they were when it was made.

    Raises:
        ClusterError: the plan was lost with its node, and is not the same now that Ray has made it again: the stored
            scans that it was made from may have been replaced since.
    """
    rows = ray.get(_obsolete_rows.remote(plan))
    if len(rows) != summary.num_obsolete_rows:
        raise ClusterError(
            f"a node went, and with it what {summary.num_obsolete_rows:,} rows are to be deleted; nothing was deleted "
            "or published: run the same command again, which goes on from here"
        )
    return rows
