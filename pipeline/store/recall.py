"""How well the vector index of a version finds what is there, on a sample of its own vectors.

The truth comes from one pass over the table for the whole sample, in numpy, so neither Lance's own search nor its
indexes are trusted with it; it depends on rows alone, so it can be had before there are indexes. Memory is a batch of
vectors and the sample. Called by the gate.
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
class Truth:
    """Rows drawn from a version, and how near to each the rows nearest to it are.

    Attributes:
        row_ids: Stable row ids, [rows].
        vectors: Of length one, [rows, dim].
        nearest: Cosines of the nearest other rows, best first, [rows, 10], or as many as there are.
        tie: What rounding may make of equal cosines.
    """

    row_ids: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    nearest: NDArray[np.float32]
    tie: float


def read_truth(dataset: lance.LanceDataset, *, sample: int, seed: int = 0) -> Truth:
    """Draws rows of a version, and reads every vector to find what is nearest to each.

    Args:
        dataset: A version of the documents table.
        sample: Rows drawn, all where there are fewer; >= 1.
        seed: Of the draw.
    """
    num_rows = dataset.count_rows()
    places = np.random.default_rng(seed).choice(num_rows, min(sample, num_rows), replace=False)
    rows = dataset.take(np.sort(places).tolist(), columns=["vector", "_rowid"])
    row_ids, vectors = rows.column("_rowid").to_numpy(), _matrix(rows.column("vector").combine_chunks())
    units = vectors / _norms(vectors)[:, None]
    nearest = _best_others(dataset, row_ids, units, min(_TOP_K, max(num_rows - 1, 0)))
    return Truth(row_ids, units, nearest, _TIE.get(str(dataset.schema.field("vector").type.value_type), 2e-6))


def retrieve_sample(dataset: lance.LanceDataset, *, sample: int, truth: Truth | None = None) -> tuple[float, float]:
    """How well search finds sampled rows by their own vectors.

    Args:
        dataset: A version of the documents table.
        sample: Rows drawn, all where there are fewer; >= 1.
        truth: Read before, of a version with exactly these rows; read here when None.

    Returns:
        Self-retrieval, the share of rows that their own vector finds first (rows with equal vectors count), and
        recall@10, the share of the ten nearest other rows that the index finds: 1 where there is no index.
    """
    truth = truth or read_truth(dataset, sample=sample)
    num_rows, wanted = len(truth.row_ids), truth.nearest.shape[1]
    if not num_rows:
        return 1.0, 1.0
    if not has_index(dataset, "vector"):
        own = np.einsum("ij,ij->i", truth.vectors, truth.vectors)
        return float(np.mean((own[:, None] >= truth.nearest[:, :1] - truth.tie).all(axis=1))), 1.0
    # the least cosine of the nearest others; a row that is alone has none
    floor = truth.nearest[:, -1] - truth.tie if wanted else np.ones(num_rows)
    with ThreadPoolExecutor(_SEARCHES) as pool:
        # one more than the others: the row itself, which every index finds
        answers = pool.map(partial(_find, dataset, limit=wanted + 1), truth.vectors)
        first, found = 0, 0
        for row_id, answer, least in zip(truth.row_ids, answers, floor, strict=True):
            ids, scores = answer
            first += bool(len(ids)) and bool(ids[0] == row_id or scores[0] >= 1.0 - truth.tie)
            found += min(int(((ids != row_id) & (scores >= least)).sum()), wanted)
    return first / num_rows, found / (wanted * num_rows) if wanted else 1.0


def _matrix(column: object) -> NDArray[np.float32]:
    """A column of vectors as float32 [rows, dim]; a view where it holds such."""
    flat = column.flatten().to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    matrix: NDArray[np.float32] = flat.reshape(-1, column.type.list_size).astype(np.float32, copy=False)  # type: ignore[attr-defined]
    return matrix


def _norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each vector, [rows]; 1 for zeros and what is no number, or one such would hide its whole batch."""
    norms: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    norms[~(norms > 0)] = 1
    return norms


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


def _best_others(
    dataset: lance.LanceDataset, row_ids: NDArray[np.uint64], units: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Cosines of the `count` rows nearest to each sampled row, itself left out, best first, [sample, count]."""
    best = np.full((len(row_ids), count), -np.inf, np.float32)
    if not count:
        return best
    for batch in dataset.to_batches(columns=["vector"], with_row_id=True, batch_size=_BATCH_ROWS):
        if not batch.num_rows:
            continue
        vectors = _matrix(batch.column("vector"))
        norms, scores = _norms(vectors), units @ vectors.T
        _, own, at = np.intersect1d(row_ids, batch.column("_rowid").to_numpy(), return_indices=True)
        scores[own, at] = -np.inf
        # after the first batches hardly any row is among the best of anyone; what is left out is not, whatever its norm
        least = best[:, -1:] * np.where(best[:, -1:] > 0, norms.min(), norms.max())
        some = np.flatnonzero((scores > least).any(axis=0))
        both = np.concatenate([best, scores[:, some] / norms[some]], axis=1)
        best = -np.sort(np.partition(-both, count - 1, axis=1)[:, :count], axis=1)
    return best
