"""What the cache knows of some queries: which trajectories are there, which are wanted, and the vector of each query.

Called by the reasoning flow, searches and evaluations; loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.flows.thinking import Vector, Wanted
from pipeline.model.reasoning import ReasonerBundle
from pipeline.records import Query, Trajectory
from pipeline.store.trajectories import Cached, TrajectoryCache

_LOOK_UP_KEYS = 50_000


class Notes:
    """The trajectories of a list of queries, as far as they are there.

    Args:
        bundle: Whose trajectories.
        queries: Asked about; one that comes twice has one trajectory.
    """

    def __init__(self, bundle: ReasonerBundle, queries: Sequence[Query]) -> None:
        self._bundle = bundle
        self._samples = range(bundle.settings.num_samples)
        self._keys = [[bundle.key(query, sample=sample) for sample in self._samples] for query in queries]
        self._queries = queries
        self.found: dict[str, Cached] = {}

    def look_up(self, cache: TrajectoryCache) -> None:
        """Reads what is there of those that are not known yet."""
        self.add(_find(cache, [one.key for one in self.missing()]))
        if self._bundle.settings.engine == "imported":
            self._look_aside(cache)

    def _look_aside(self, cache: TrajectoryCache) -> None:
        """An import whose task is not the query's stands for the one that is not there, under its own key."""
        others = {one.key: self._bundle.other_keys(one.query) for one in self.missing()}
        there = {row.trajectory.key: row for row in _find(cache, [key for keys in others.values() for key in keys])}
        stand_ins = {key: next((other for other in keys if other in there), key) for key, keys in others.items()}
        self._keys = [[stand_ins.get(key, key) for key in keys] for keys in self._keys]
        self.add(there[key] for key in stand_ins.values() if key in there)

    def add(self, rows: Iterable[Cached]) -> None:
        """From now on these are known too."""
        self.found |= {row.trajectory.key: row for row in rows}

    @property
    def num_distinct(self) -> int:
        """Trajectories that the queries have, whether they are there or not."""
        return len({key for keys in self._keys for key in keys})

    def missing(self) -> list[Wanted]:
        """Those that are not there, each once, in the order of the queries."""
        wanted: dict[str, Wanted] = {}
        for query, keys in zip(self._queries, self._keys, strict=True):
            for sample, key in zip(self._samples, keys, strict=True):
                if key not in self.found and key not in wanted:
                    wanted[key] = Wanted(query, sample, key)
        return list(wanted.values())

    def without_vector(self, encoder: str) -> list[tuple[str, Query, str]]:
        """Key, query and text of usable trajectories that have no vector of this encoder, each once.

        What this encoder could not encode is left out: it could not the next time either.
        The query of an import has the task that it was imported with: what its key says it is embedded under.
        """
        lacking: dict[str, tuple[str, Query, str]] = {}
        for query, keys in zip(self._queries, self._keys, strict=True):
            for row in (self.found[key] for key in keys if key in self.found):
                if row.trajectory.is_usable and not self._is_settled(query, row, encoder):
                    lacking[row.trajectory.key] = (row.trajectory.key, self._told(query, row), row.trajectory.text)
        return list(lacking.values())

    def lacking_vector(self, encoder: str) -> list[tuple[str, Query, str]]:
        """Of these, those whose vectors are the cache's to keep."""
        return [one for one in self.without_vector(encoder) if self._bundle.keeps_vector(one[1])]

    def _told(self, query: Query, row: Cached) -> Query:
        """The query as its trajectory is embedded with it."""
        if self._bundle.settings.engine != "imported" or query.task == row.trajectory.task:
            return query
        return replace(query, task=row.trajectory.task)

    def _is_settled(self, query: Query, row: Cached, encoder: str) -> bool:
        """Whether the row holds what this encoder makes of it, if only that it can make nothing."""
        return row.encoder == encoder and self._bundle.keeps_vector(self._told(query, row))

    def is_searchable(self, position: int, *, encoder: str) -> bool:
        """Whether a query has a usable trajectory that this encoder is not known to fail on."""
        rows = (self.found[key] for key in self._keys[position] if key in self.found)
        return any(row.trajectory.is_usable and (row.vector is not None or row.encoder != encoder) for row in rows)

    def trajectories(self, position: int) -> list[Trajectory]:
        """What there is of one query's, by sample."""
        return [self.found[key].trajectory for key in self._keys[position] if key in self.found]

    def vector(self, position: int, *, encoder: str, computed: Mapping[str, Vector] | None = None) -> Vector | None:
        """The mean of a query's usable vectors, at length one; None where there is none, to be searched without.

        Args:
            position: Of the query.
            encoder: Fingerprint of the encoder whose vectors count.
            computed: Vectors by key that are not in the cache.
        """
        vectors = []
        for key in self._keys[position]:
            row = self.found.get(key)
            if row is None or not row.trajectory.is_usable:
                continue
            if computed and key in computed:
                vectors.append(computed[key])
            elif row.vector is not None and self._is_settled(self._queries[position], row, encoder):
                vectors.append(row.vector)
        if not vectors:
            return None
        mean = np.mean(np.stack(vectors), axis=0)
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 0 else None


def _find(cache: TrajectoryCache, keys: Sequence[str]) -> list[Cached]:
    """What is there of many keys."""
    parts = (keys[begin : begin + _LOOK_UP_KEYS] for begin in range(0, len(keys), _LOOK_UP_KEYS))
    return [row for part in parts for row in cache.find(part).values()]
