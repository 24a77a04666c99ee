"""The cache of trajectories: what models wrote about queries, and the vector of each, kept once under its key.

Any number of programs may add at once, without a lease: see `swaps`. Knows nothing of models; called by the flows that
reason about queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.retry import retrying
from pipeline.store.database import Database
from pipeline.store.schema import TRAJECTORIES
from pipeline.store.swaps import Change, Swapper
from pipeline.store.trajectory_rows import Cached, quote, to_cached, to_rows

__all__ = ["TABLE", "Cached", "TrajectoryCache"]

TABLE = "trajectories"
_BATCH_ROWS = 1_024
# More fragments than this of fewer rows than that are written together.
_MAX_SMALL, _SMALL_ROWS = 64, 1_024
# Somebody may be reading a version that is as old as this.
_KEPT = timedelta(minutes=15)


class TrajectoryCache:
    """The table `trajectories` of a database, made when something is first added."""

    def __init__(self, database: Database) -> None:
        """Opens nothing yet.

        Args:
            database: Whose table it is.
        """
        self._swapper = Swapper(database, TABLE, TRAJECTORIES)

    def find(self, keys: Sequence[str]) -> dict[str, Cached]:
        """What is there of these keys; one that is absent is left out.

        Raises:
            TableError: there is a table of that name with other columns.
            StorageError: the store refused.
        """
        if not keys:
            return {}
        dataset = self._swapper.open()
        if dataset is None:
            return {}
        found = retrying(lambda: _take(dataset, keys), what=f"reading {self._swapper.uri}")
        return {row.trajectory.key: row for row in to_cached(found)}

    def add(self, rows: Sequence[Cached]) -> int:
        """Adds rows whose keys are not there yet; those that are stay as they are.

        Returns:
            Rows written by this call.

        Raises:
            StorageError: the store failed for long; of the rows all were added or none.
        """
        return self.add_rows(to_rows(rows))

    def add_rows(self, rows: pa.Table) -> int:
        """The same for rows in the columns of the table, `created_at` among them."""
        keys = rows["key"].to_pylist()
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        rows = rows.take(pa.array(sorted(first.values()), pa.int64())).cast(TRAJECTORIES)
        if rows.num_rows == 0:
            return 0

        def plan(dataset: lance.LanceDataset) -> Change | None:
            absent = pc.invert(pc.is_in(rows["key"], value_set=_keys(dataset)))
            missing = rows.filter(absent)
            if missing.num_rows == 0:
                return None
            return Change(self._swapper.write(missing), missing.num_rows)

        num_rows = self._swapper.change(plan)
        self.tidy()
        return num_rows

    def set_vectors(self, vectors: Mapping[str, NDArray[np.float32] | None], *, encoder: str) -> int:
        """Puts one encoder's vectors in the place of another's; a key that is not there is left out.

        Args:
            vectors: float32 of shape (dim,) by key; None for what this encoder fails on, so that nobody tries again.
            encoder: Fingerprint of the encoder that computed them.

        Returns:
            Rows changed by this call.
        """
        if not vectors or self._swapper.open() is None:
            return 0

        def plan(dataset: lance.LanceDataset) -> Change | None:
            rows = _take(dataset, list(vectors))
            rows = rows.filter(pc.not_equal(rows["encoder_fingerprint"], encoder))
            if rows.num_rows == 0:
                return None
            keys = rows["key"].to_pylist()
            made = (vectors[key] for key in keys)
            values = pa.array(
                [None if vector is None else np.asarray(vector, np.float32) for vector in made], pa.list_(pa.float32())
            )
            rows = rows.set_column(rows.schema.get_field_index("vector"), TRAJECTORIES.field("vector"), values)
            place = rows.schema.get_field_index("encoder_fingerprint")
            rows = rows.set_column(place, TRAJECTORIES.field("encoder_fingerprint"), pa.array([encoder] * len(keys)))
            listed = ", ".join(map(quote, keys))
            marked, removed = _delete(dataset, f"key IN ({listed})")
            return Change(self._swapper.write(rows.cast(TRAJECTORIES)), len(keys), marked, removed)

        num_rows = self._swapper.change(plan)
        self.tidy()
        return num_rows

    def count(self) -> int:
        """Rows; 0 where there is no table."""
        dataset = self._swapper.open()
        return 0 if dataset is None else dataset.count_rows()

    def size_bytes(self) -> int:
        """Bytes of the data files of the latest version."""
        dataset = self._swapper.open()
        files = [] if dataset is None else [file for f in dataset.get_fragments() for file in f.metadata.files]
        return sum(file.file_size_bytes or 0 for file in files)

    def batches(self, *, columns: Sequence[str] | None = None, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Every row of one version, at most `_BATCH_ROWS` at a time.

        Args:
            columns: Read only these; None for all.
            where: SQL condition on the columns.
        """
        dataset = self._swapper.open()
        if dataset is not None:
            names = None if columns is None else list(columns)
            yield from dataset.to_batches(columns=names, filter=where, batch_size=_BATCH_ROWS, batch_readahead=2)

    def prune(self, where: str) -> int:
        """Deletes rows for good, and versions that are older than `_KEPT`, which may hold them still.

        Args:
            where: SQL condition, from `prune_condition`.

        Returns:
            Rows deleted by this call.
        """
        if self._swapper.open() is None:
            return 0

        def plan(dataset: lance.LanceDataset) -> Change | None:
            num_rows = dataset.count_rows(filter=where)
            return Change([], num_rows, *_delete(dataset, where)) if num_rows else None

        num_rows = self._swapper.change(plan)
        self.tidy(clean=True)
        return num_rows

    def tidy(self, *, clean: bool = False) -> None:
        """Writes many small fragments together, where there are many; gives way to whoever changes the table meanwhile.

        Args:
            clean: Also remove versions that nobody can be reading any more.
        """
        tidied = False

        def plan(dataset: lance.LanceDataset) -> Change | None:
            nonlocal tidied
            fragments = dataset.get_fragments()
            small = [fragment for fragment in fragments if fragment.count_rows() < _SMALL_ROWS]
            if tidied or len(small) <= _MAX_SMALL:
                return None
            reader = dataset.scanner(fragments=small, batch_size=_BATCH_ROWS).to_reader()
            change = Change(self._swapper.write(reader), 0, removed=[fragment.fragment_id for fragment in small])
            tidied = True
            return change

        dataset = self._swapper.open()
        if dataset is None:
            return
        if len(dataset.get_fragments()) > _MAX_SMALL:
            self._swapper.try_change(plan)
        if clean:
            # what is not cleaned now is cleaned the next time
            with suppress(StorageError, OSError, ValueError, RuntimeError):
                dataset.cleanup_old_versions(older_than=_KEPT)


def _keys(dataset: lance.LanceDataset) -> pa.ChunkedArray:
    """The keys of a version, in the order of its rows."""
    return dataset.to_table(columns=["key"])["key"]


def _take(dataset: lance.LanceDataset, keys: Sequence[str]) -> pa.Table:
    """The rows with these keys. Reading all keys is faster than an index, which each change would have to keep up."""
    there = pc.is_in(_keys(dataset), value_set=pa.array(list(keys), pa.string()))
    return dataset.take(np.flatnonzero(there.to_numpy()).tolist()).cast(TRAJECTORIES)


def _delete(dataset: lance.LanceDataset, where: str) -> tuple[list[FragmentMetadata], list[int]]:
    """Marks rows that meet a condition as deleted: the fragments that change, and those of which nothing is left."""
    marked: list[FragmentMetadata] = []
    removed: list[int] = []
    for fragment in dataset.get_fragments():
        if not fragment.count_rows(filter=where):
            continue
        left = fragment.delete(where)
        if left is None:
            removed.append(fragment.fragment_id)
        else:
            marked.append(left)
    return marked, removed
