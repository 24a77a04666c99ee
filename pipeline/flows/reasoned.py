"""What the cache knows of some queries: which trajectories are there, which are wanted, and the vector of each query.

Called by the reasoning flow, searches and evaluations; loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
        self._samples = range(bundle.settings.num_samples)
        self._keys = [[bundle.key(query, sample=sample) for sample in self._samples] for query in queries]
        self._queries = queries
        self.found: dict[str, Cached] = {}

    def look_up(self, cache: TrajectoryCache) -> None:
        """Reads what is there of those that are not known yet."""
        missing = [one.key for one in self.missing()]
        for begin in range(0, len(missing), _LOOK_UP_KEYS):
            self.add(cache.find(missing[begin : begin + _LOOK_UP_KEYS]).values())

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
        """Key, query and text of usable trajectories that have no vector of this encoder, each once."""
        lacking: dict[str, tuple[str, Query, str]] = {}
        for query, keys in zip(self._queries, self._keys, strict=True):
            for key in keys:
                row = self.found.get(key)
                if (
                    row is not None
                    and row.trajectory.is_usable
                    and not (row.encoder == encoder and row.vector is not None)
                ):
                    lacking[key] = (key, query, row.trajectory.text)
        return list(lacking.values())

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
            elif row.encoder == encoder and row.vector is not None:
                vectors.append(row.vector)
        if not vectors:
            return None
        mean = np.mean(np.stack(vectors), axis=0)
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 0 else None
