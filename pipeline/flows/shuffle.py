"""The comparison of more than one task can hold: the corpus and the table shuffled by id, a task a bucket.

Tasks split the scans and the table's rows by bucket, where they lie; a task a bucket says what becomes of it. What a
bucket is and what is said of it lies in `store.buckets` and `store.verdicts`. Called by `compare`, within the task
that makes the plan: it owns the pieces, so neither they nor their references are in the driver's memory. A task that
Ray repeats gives the same again, for it does nothing but compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ray

from pipeline.flows.scan_cache import Pack
from pipeline.store.buckets import PlacedDocuments, split_documents, split_rows
from pipeline.store.diff import ShardFacts, describe
from pipeline.store.known import KnownRows
from pipeline.store.verdicts import Verdict, decide_bucket

_MAX_RETRIES = 3
# These compute and wait for nothing; so there are no more of them on a node, with their scratch, than it has CPUs.
_CPUS = 1


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How a comparison is spread over tasks.

    Attributes:
        num_bits: Of a bucket's number; at least 1.
        packs_a_task: Packs that one task splits: more where they are small, for each makes a piece a bucket.
        delete_missing: Whether documents absent from the corpus are to disappear.
        most: For each shard, how many of its documents count; None where all do.
    """

    num_bits: int
    packs_a_task: int
    delete_missing: bool
    most: Sequence[int] | None


def cut(pack: Pack, most: Sequence[int] | None) -> Pack:
    """The documents of a pack that count; see `Shuffle`."""
    return pack if most is None else [(position, scan.first(most[position])) for position, scan in pack]


def decide_buckets(
    packs: Sequence[Any], known: Sequence[Any], how: Shuffle
) -> tuple[dict[int, ShardFacts], Iterator[Verdict]]:
    """Starts the tasks.

    Args:
        packs: References to `Pack`s.
        known: References to `KnownRows`, in the table's order.
        how: See there.

    Returns:
        The facts of the shards in the packs, by position; and the verdicts, of which those taken are let go.
    """
    num_buckets, shared = 2**how.num_bits, ray.put(how)
    groups = [packs[begin : begin + how.packs_a_task] for begin in range(0, len(packs), how.packs_a_task)]
    split = _split_packs.options(num_returns=1 + num_buckets)
    documents = [split.remote(shared, *some) for some in groups]
    facts = [pieces.pop(0) for pieces in documents]
    rows = [_split_known.options(num_returns=num_buckets).remote(part, how.num_bits) for part in known]
    verdicts = deque(
        _decide_bucket.remote(how.delete_missing, len(documents), *pieces)
        for pieces in zip(*documents, *rows, strict=True)
    )
    # the tasks alone hold the pieces now: each goes when its bucket is decided
    return dict(chain.from_iterable(ray.get(facts))), _taken(verdicts)


def _taken(verdicts: deque[Any]) -> Iterator[Verdict]:
    while verdicts:
        yield ray.get(verdicts.popleft())


@ray.remote(num_cpus=_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _split_packs(how: Shuffle, *packs: Pack) -> Iterator[list[tuple[int, ShardFacts]] | PlacedDocuments]:
    """The facts of the shards in some packs, and then their documents, bucket after bucket."""
    scans = cut(list(chain.from_iterable(packs)), how.most)
    yield [(position, describe(scan)) for position, scan in scans]
    yield from split_documents(scans, num_bits=how.num_bits)


@ray.remote(num_cpus=_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _split_known(rows: KnownRows, num_bits: int) -> Iterator[KnownRows]:
    yield from split_rows(rows, num_bits=num_bits)


@ray.remote(num_cpus=_CPUS, max_retries=_MAX_RETRIES)  # type: ignore[untyped-decorator]
def _decide_bucket(delete_missing: bool, num_parts: int, *pieces: Any) -> Verdict:
    """The verdict on a bucket, of which so many pieces are documents and the rest rows."""
    return decide_bucket(pieces[:num_parts], pieces[num_parts:], delete_missing=delete_missing)
