"""The first pass over a corpus: hash every document, set bad rows aside.

It costs a read and two hashes a document, needs no model, and makes everything after it exact: the totals, the
duplicates, the deletions and what a re-run can skip. Shards that an earlier run has read, and that have not changed
since, are not opened. Hashes stay in Ray's object store; the driver holds counts.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pipeline.corpus.read import passes_over, read_shard
from pipeline.corpus.sizes import is_small
from pipeline.errors import CorpusError, StorageError
from pipeline.flows.scan_cache import LoadingScans, Pack, store_new
from pipeline.flows.shares import READ_CPUS
from pipeline.records import FieldMap, Rejected, Shard, content_hash, id_hash
from pipeline.store.database import Database
from pipeline.store.hashes import ShardScan, as_hashes
from pipeline.store.scans import scan_key

_log = logging.getLogger(__name__)
_MAX_RETRIES = 3
# Scans in flight a CPU: enough to hide storage latency, few enough to keep rejected rows bounded.
_IN_FLIGHT_PER_CPU = 4
# So little is read in this process sooner than a task's own would have started.
_HERE_BYTES = 64 * 2**20
# Rows of the quarantine that are written at once.
_FLUSH_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What one shard held: documents, and rows that could not become one.

    Attributes:
        num_documents: Documents.
        rejected: The other rows.
        documents_before: For each of these, how many documents of the shard stand before it.
    """

    num_documents: int
    rejected: tuple[Rejected, ...]
    documents_before: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A shard that this run has read: its `Pack`, by reference, and reason -> rejected rows."""

    pack: Any
    rejected: Mapping[str, int]


class CorpusScan:
    """The scan of one run.

    Args:
        database: Where scans of earlier runs are.
        shards: The corpus.
        fields: Which columns hold what.
        max_text_chars: A longer text is no document.
        limit: Documents to read, in the corpus's order; such a scan neither uses nor leaves anything stored.
        keeps_offsets: Whether few of a shard's documents may be read again, so that it is worth knowing where they are.
    """

    def __init__(
        self, database: Database, shards: Sequence[Shard], fields: FieldMap, *, max_text_chars: int, limit: int | None,
        keeps_offsets: bool = False,
    ) -> None:  # fmt: skip
        self._database, self._shards, self._fields = database, shards, fields
        self._max_text_chars, self._limit, self._keeps_offsets = max_text_chars, limit, keeps_offsets
        self._keys = [scan_key(shard, fields, max_text_chars=max_text_chars) for shard in shards]
        self._fresh: dict[int, _Fresh] = {}
        # References to `Pack`s, which hold the scans of all shards that have one.
        self.packs: list[Any] = []
        # Reason -> rows of shards that were not opened; an earlier run has set them aside.
        self.known_rejected: Mapping[str, int] = {}
        self.num_known = 0
        # Of each shard; 0 for one that is in no pack.
        self.num_documents = [0] * len(shards)

    @property
    def fresh(self) -> frozenset[int]:
        """Positions of the shards that were opened."""
        return frozenset(self._fresh)

    @property
    def packs_with_offsets(self) -> dict[int, Any]:
        """Those of `packs` whose scans may have them, by the position of their shard."""
        return {position: found.pack for position, found in self._fresh.items()} if self._keeps_offsets else {}

    def read(self, num_cpus: float) -> Iterator[Sequence[Rejected]]:
        """Scans what has to be, in parallel, a bounded number of shards at a time.

        Yields:
            As shards are done: rows that could not become a document.
        """
        in_flight = max(2, int(num_cpus * _IN_FLIGHT_PER_CPU))
        if self._limit is not None:
            yield from self._read_first(self._limit, in_flight)
            return
        loading = LoadingScans(self._database, self._keys)
        yield from self._read([p for p in range(len(self._shards)) if p not in loading.positions], in_flight)
        known = loading.wait()
        self.packs += known.packs
        self.known_rejected, self.num_known = known.rejected, len(known.num_documents)
        for position, num_documents in known.num_documents.items():
            self.num_documents[position] = num_documents
        yield from self._read(sorted(loading.positions - known.positions), in_flight)

    def _read(self, positions: Sequence[int], in_flight: int) -> Iterator[Sequence[Rejected]]:
        if is_small([self._shards[position] for position in positions], most_bytes=_HERE_BYTES):
            yield from self._read_here(positions)
            return
        waiting = iter(positions)
        pending: dict[Any, tuple[int, Any]] = {}
        while True:
            while len(pending) < in_flight and (position := next(waiting, None)) is not None:
                pack, counts = self._submit(position)
                pending[counts] = (position, pack)
            if not pending:
                return
            (done,), _ = ray.wait(list(pending), num_returns=1)
            position, pack = pending.pop(done)
            yield self._take(position, pack, ray.get(done))

    def _read_here(self, positions: Iterable[int]) -> Iterator[Sequence[Rejected]]:
        for position in positions:
            found, counts = scan_shard(*self._arguments(position))
            yield self._take(position, ray.put(found), counts)

    def _read_first(self, limit: int, in_flight: int) -> Iterator[Sequence[Rejected]]:
        """In the corpus's order, up to the last document that is wanted: what stands behind it is not looked at."""
        waiting = iter(range(len(self._shards)))
        pending: deque[tuple[int, Any, Any]] = deque()
        while limit > 0:
            while len(pending) < in_flight and (position := next(waiting, None)) is not None:
                pending.append((position, *self._submit(position)))
            if not pending:
                return
            position, pack, done = pending.popleft()
            counts: ScanCounts = ray.get(done)
            yield self._take(position, pack, _rejected_before(counts, limit))
            limit -= counts.num_documents

    def _submit(self, position: int) -> tuple[Any, Any]:
        pack, counts = _scan_remotely.remote(*self._arguments(position))
        return pack, counts

    def _arguments(self, position: int) -> tuple[Any, ...]:
        """As `scan_shard` takes them."""
        shard = self._shards[position]
        keeps_offsets = self._keeps_offsets and passes_over(shard)
        return position, shard, self._fields, self._max_text_chars, self._limit, keeps_offsets

    def _take(self, position: int, pack: Any, counts: ScanCounts) -> Sequence[Rejected]:
        self._fresh[position] = _Fresh(pack, Counter(str(row.reason) for row in counts.rejected))
        self.packs.append(pack)
        self.num_documents[position] = counts.num_documents
        return counts.rejected

    @property
    def is_worth_storing(self) -> bool:
        """Whether a later run could skip a shard that this one has read."""
        return self._limit is None and any(self._keys[position] for position in self._fresh)

    def store(self, list_again: Callable[[], Iterable[Shard]]) -> None:
        """Stores what was read, for later runs; what keeps it from that is said, and stops nothing.

        Args:
            list_again: Lists the corpus as it is now. A shard that is not as it was when it was first listed was
                perhaps rewritten before it was read: its new hashes must not stand under its old version.
        """
        try:
            as_it_was = set(list_again())
            fresh = [
                (key, self._shards[position].uri, found.pack, found.rejected)
                for position, found in self._fresh.items()
                if (key := self._keys[position]) and self._shards[position] in as_it_was
            ]
            store_new(self._database, fresh, {key for key in self._keys if key})
        except (CorpusError, StorageError, RayError) as error:
            _log.warning("the scan was not stored, so the next run reads more: %s", str(error).partition("\n")[0])


@ray.remote(num_cpus=READ_CPUS, max_retries=_MAX_RETRIES, num_returns=2)  # type: ignore[untyped-decorator]
def _scan_remotely(*arguments: Any) -> tuple[Pack, ScanCounts]:
    return scan_shard(*arguments)


def _rejected_before(counts: ScanCounts, limit: int) -> ScanCounts:
    """The same, but of the rejected rows only those that stand before the last document that is wanted."""
    num_rows = sum(before < limit for before in counts.documents_before)
    return ScanCounts(counts.num_documents, counts.rejected[:num_rows], counts.documents_before[:num_rows])


def scan_shard(
    position: int, shard: Shard, fields: FieldMap, max_text_chars: int, limit: int | None, keeps_offsets: bool
) -> tuple[Pack, ScanCounts]:
    """Reads one shard.

    Args:
        position: Of the shard in the corpus.
        shard: What is read.
        fields: Which columns hold what.
        max_text_chars: A longer text is no document.
        limit: Documents after which reading ends; None for all.
        keeps_offsets: Whether the scan has them.
    """
    ids, contents, rejected, before = bytearray(), bytearray(), [], []
    offsets = array("q")
    num_documents = 0
    for row in read_shard(shard, fields, max_text_chars=max_text_chars):
        if isinstance(row, Rejected):
            rejected.append(row)
            before.append(num_documents)
            continue
        ids += id_hash(row.id)
        contents += content_hash(row.title, row.text, row.metadata)
        if keeps_offsets:
            offsets.append(row.offset)
        num_documents += 1
        if limit is not None and num_documents >= limit:
            break
    places = np.frombuffer(offsets, np.int64) if keeps_offsets else None
    scan = ShardScan(as_hashes(bytes(ids)), as_hashes(bytes(contents)), places)
    return [(position, scan)], ScanCounts(num_documents, tuple(rejected), tuple(before))


def in_flushes(found: Iterable[Sequence[Rejected]]) -> Iterator[list[Rejected]]:
    """The same rows, in lists that are worth a write each."""
    rows: list[Rejected] = []
    for some in found:
        rows.extend(some)
        if len(rows) >= _FLUSH_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows
