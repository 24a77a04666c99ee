"""Scans of earlier runs, loaded and stored by tasks; the driver sees keys and counts.

Called by `scan`. What is stored lies in `store.scans`, which says why a row that is found is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.flows.shares import READ_CPUS
from pipeline.records import HASH_BYTES
from pipeline.store.database import Database
from pipeline.store.hashes import ShardScan
from pipeline.store.scans import KnownScan, NewScan, list_scans, load_scans, store_scans

# The scans of some shards, each with its shard's position; one object of Ray's store.
Pack = list[tuple[int, ShardScan]]
_PACK_BYTES = 32 * 2**20
_PACK_SHARDS = 2_000


@dataclass(frozen=True, slots=True)
class LoadedScans:
    """What need not be read.

    Attributes:
        packs: References to `Pack`s.
        num_documents: Of the shards in them, by position.
        rejected: Reason -> rows of these shards that are no documents.
    """

    packs: list[Any]
    num_documents: Mapping[int, int]
    rejected: Mapping[str, int]

    @property
    def positions(self) -> frozenset[int]:
        """Of the shards that need not be read."""
        return frozenset(self.num_documents)


class LoadingScans:
    """The stored scans of those shards whose key is known, on their way into Ray's object store.

    Args:
        database: Whose scans.
        keys: One a shard; b"" for one that is always read.
    """

    def __init__(self, database: Database, keys: Sequence[bytes]) -> None:
        self._database = database
        self._version, known = list_scans(database)
        hits = sorted(((known[key], position) for position, key in enumerate(keys) if key in known), key=_row)
        # Shards whose scan is there, though it may yet turn out to be damaged.
        self.positions = frozenset(position for _, position in hits)
        self._packs = list(_packs(hits))
        # one pack is loaded here, in `wait`, in less time than a task's process takes to start
        self._loading = [self._load(some) for some in self._packs] if len(self._packs) > 1 else []

    def _load(self, hits: Sequence[tuple[KnownScan, int]]) -> Any:
        return _load_remotely.remote(self._database, self._version, _places(hits))

    def wait(self) -> LoadedScans:
        """Those that are whole."""
        packs: list[Any] = []
        num_documents: dict[int, int] = {}
        rejected: Counter[str] = Counter()
        for pack, damaged, some in self._loaded():
            packs.append(pack)
            for scan, position in some:
                if position not in damaged:
                    num_documents[position] = scan.num_documents
                    rejected.update(scan.rejected)
        return LoadedScans(packs, num_documents, rejected)

    def _loaded(self) -> Iterator[tuple[Any, Container[int], Sequence[tuple[KnownScan, int]]]]:
        if len(self._packs) == 1:
            pack, damaged = _load(self._database, self._version, _places(self._packs[0]))
            yield ray.put(pack), set(damaged), self._packs[0]
        for (reference, refused), some in zip(self._loading, self._packs, strict=False):
            try:
                damaged = ray.get(refused)
            except RayError:
                continue
            yield reference, set(damaged), some


def _places(hits: Sequence[tuple[KnownScan, int]]) -> list[tuple[int, int]]:
    return [(position, scan.row) for scan, position in hits]


def _row(hit: tuple[KnownScan, int]) -> int:
    return hit[0].row


def _packs(hits: Iterable[tuple[KnownScan, int]]) -> Iterator[list[tuple[KnownScan, int]]]:
    """Hits whose hashes fill about one object: few tasks for many small shards, no large task for large ones."""
    pack: list[tuple[KnownScan, int]] = []
    size_bytes = 0
    for scan, position in hits:
        pack.append((scan, position))
        size_bytes += 2 * HASH_BYTES * scan.num_documents
        if size_bytes >= _PACK_BYTES or len(pack) == _PACK_SHARDS:
            yield pack
            pack, size_bytes = [], 0
    if pack:
        yield pack


@ray.remote(num_cpus=READ_CPUS, num_returns=2)  # type: ignore[untyped-decorator]
def _load_remotely(*arguments: Any) -> tuple[Pack, list[int]]:
    return _load(*arguments)


def _load(database: Database, version: int, hits: list[tuple[int, int]]) -> tuple[Pack, list[int]]:
    """Scans by position, and the positions whose row is damaged."""
    scans = load_scans(database, version, [row for _, row in hits])
    by_position = [(position, scan) for (position, _), scan in zip(hits, scans, strict=True)]
    return (
        [(position, scan) for position, scan in by_position if scan is not None],
        [position for position, scan in by_position if scan is None],
    )


def store_new(database: Database, fresh: Sequence[tuple[bytes, str, Any, Mapping[str, int]]], keys: set[bytes]) -> None:
    """Stores scans in a task, and drops those of shards that are no more.

    Args:
        database: Whose scans.
        fresh: Key, URI, reference to a `Pack` of one shard, and reason -> rejected rows, of each shard to be added.
        keys: Of all shards of the corpus.
    """
    ray.get(_store.remote(database, list(fresh), keys))


@ray.remote(num_cpus=READ_CPUS)  # type: ignore[untyped-decorator]
def _store(database: Database, fresh: list[tuple[bytes, str, Any, Mapping[str, int]]], keys: set[bytes]) -> None:
    new = (NewScan(key, uri, ray.get(pack)[0][1], rejected) for key, uri, pack, rejected in fresh)
    store_scans(database, new, wanted=keys)
