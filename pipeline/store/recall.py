"""How well the vector index of a version finds what is there, on a sample of its own vectors.

The truth comes from one pass over the table for the whole sample, in numpy, so neither Lance's own search nor its
indexes are trusted with it. Memory is a batch of vectors and the sample. Called by the gate.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import lance
import numpy as np
from numpy.typing import NDArray

from pipeline.store.indexes import has_index
from pipeline.store.search import nearest_arguments

_TOP_K = 10
_BATCH_ROWS = 16_384
# At once; each keeps a core busy for some milliseconds.
_SEARCHES = 4
# Cosines that differ by less are a tie: what rounding of a stored vector and the order of a sum can do.
_TIE = {"float": 2e-6, "halffloat": 1e-3}


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows drawn from a version: stable row ids [rows], vectors [rows, dim] float32 at length one."""

    row_ids: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    tie: float


def retrieve_sample(dataset: lance.LanceDataset, *, sample: int, seed: int = 0) -> tuple[float, float]:
    """How well search finds sampled rows by their own vectors.

    Args:
        dataset: A version of the documents table.
        sample: Rows drawn, all where there are fewer; >= 1.
        seed: Of the draw.

    Returns:
        Self-retrieval, the share of rows that their own vector finds first (rows with equal vectors count), and
        recall@10, the share of the ten nearest other rows that the index finds: 1 where there is no index.
    """
    drawn = _draw(dataset, sample, seed)
    if not len(drawn.row_ids):
        return 1.0, 1.0
    if not has_index(dataset, "vector"):
        own = np.einsum("ij,ij->i", drawn.vectors, drawn.vectors)
        return float(np.mean(own >= _best_others(dataset, drawn, 1)[:, 0] - drawn.tie)), 1.0
    wanted = min(_TOP_K, dataset.count_rows() - 1)
    with ThreadPoolExecutor(_SEARCHES) as pool:
        # the index is asked while the truth is read
        answers = pool.map(partial(_find, dataset, limit=wanted + 1), drawn.vectors)
        # the best others: without the row itself, which every index finds
        floor = _best_others(dataset, drawn, wanted)[:, -1] - drawn.tie if wanted else np.zeros(len(drawn.row_ids))
    first, found = 0, 0
    for row_id, answer, least in zip(drawn.row_ids, answers, floor, strict=True):
        ids, scores = answer
        first += bool(len(ids)) and bool(ids[0] == row_id or scores[0] >= 1.0 - drawn.tie)
        found += min(int(((ids != row_id) & (scores >= least)).sum()), wanted)
    return first / len(drawn.row_ids), found / (wanted * len(drawn.row_ids)) if wanted else 1.0


def _draw(dataset: lance.LanceDataset, sample: int, seed: int) -> _Sample:
    num_rows = dataset.count_rows()
    places = np.random.default_rng(seed).choice(num_rows, min(sample, num_rows), replace=False)
    rows = dataset.take(np.sort(places).tolist(), columns=["vector", "_rowid"])
    tie = _TIE.get(str(dataset.schema.field("vector").type.value_type), 2e-6)
    return _Sample(rows.column("_rowid").to_numpy(), _as_units(rows.column("vector").combine_chunks()), tie)


def _as_units(column: object) -> NDArray[np.float32]:
    """A column of vectors as float32 [rows, dim], each of length one; zeros and NaN stay what they are."""
    flat = column.flatten().to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    vectors = flat.reshape(-1, column.type.list_size).astype(np.float32, copy=False)  # type: ignore[attr-defined]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = vectors / np.where(norms > 0, norms, 1)
    return units


def _find(
    dataset: lance.LanceDataset, vector: NDArray[np.float32], *, limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Row ids and cosines, as `search.nearest` would look for them."""
    rows = dataset.to_table(
        columns=["_rowid", "_distance"],
        nearest=nearest_arguments(dataset, vector, limit=limit, exact=False),
        prefilter=True,
    )
    return rows.column("_rowid").to_numpy(), 1 - rows.column("_distance").to_numpy()


def _best_others(dataset: lance.LanceDataset, drawn: _Sample, count: int) -> NDArray[np.float32]:
    """Cosines of the `count` rows nearest to each sampled row, itself left out, best first, [sample, count]."""
    best = np.full((len(drawn.row_ids), count), -np.inf, np.float32)
    for batch in dataset.to_batches(columns=["vector"], with_row_id=True, batch_size=_BATCH_ROWS):
        if not batch.num_rows:
            continue
        scores = drawn.vectors @ _as_units(batch.column("vector")).T
        _, own, at = np.intersect1d(drawn.row_ids, batch.column("_rowid").to_numpy(), return_indices=True)
        scores[own, at] = -np.inf
        # sorting is dear, and after the first batches hardly any row is among the best of anyone
        both = np.concatenate([best, scores[:, (scores > best[:, -1:]).any(axis=0)]], axis=1)
        best = -np.sort(np.partition(-both, count - 1, axis=1)[:, :count], axis=1)
    return best
