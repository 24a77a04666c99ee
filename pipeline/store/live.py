"""The gate, and the tag `live` that readers follow.

A run moves the tag only after every check has passed; a refused publish leaves the old version serving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import PublishRefused
from pipeline.records import id_hash
from pipeline.store.database import LIVE
from pipeline.store.diff import as_hashes

# Stored vectors may be rounded to float16: 2^-11 a component, far less over the norm.
_NORM_TOLERANCE = 1e-2
_BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate counted in a version.

    Attributes:
        version: The version checked.
        num_rows: Chunks.
        num_documents: Distinct ids.
    """

    version: int
    num_rows: int
    num_documents: int


def check(dataset: lance.LanceDataset, *, expected_documents: int | None) -> GateReport:
    """Checks a version: no duplicate (id, chunk), the number of documents, finite unit vectors of one length.

    Args:
        dataset: The version to be published.
        expected_documents: Distinct ids it must hold; None when the run does not know.

    Raises:
        PublishRefused: naming every check that failed.
    """
    keys, num_bad, num_off = _scan(dataset)
    distinct = np.unique(keys, axis=0)
    num_documents = len(np.unique(distinct[:, :2], axis=0))
    failures = []
    if len(distinct) != len(keys):
        failures.append(f"{len(keys) - len(distinct)} rows repeat an (id, chunk) that is already there")
    if expected_documents is not None and num_documents != expected_documents:
        failures.append(f"{num_documents} documents in the table where the corpus has {expected_documents}")
    if num_bad:
        failures.append(f"{num_bad} vectors hold values that are not finite")
    if num_off:
        failures.append(f"{num_off} vectors are not of unit length")
    if failures:
        raise PublishRefused(
            f"version {dataset.version} was not published: {'; '.join(failures)}; readers keep the version they had"
        )
    return GateReport(int(dataset.version), len(keys), num_documents)


def _scan(dataset: lance.LanceDataset) -> tuple[NDArray[np.uint64], int, int]:
    """Key of every row (hash of the id, chunk) [rows, 3], rows that are not finite, rows not of unit length."""
    keys, num_bad, num_off = [], 0, 0
    for batch in dataset.to_batches(columns=["id", "chunk", "vector"], batch_size=_BATCH_ROWS):
        ids = as_hashes(b"".join(map(id_hash, batch.column("id").to_pylist())))
        keys.append(np.column_stack([ids, batch.column("chunk").to_numpy().astype(np.uint64)]))
        for vectors in _matrices(batch):
            finite = np.isfinite(vectors).all(axis=1)
            norms = np.linalg.norm(vectors[finite].astype(np.float32), axis=1)
            num_bad += int((~finite).sum())
            num_off += int((np.abs(norms - 1) > _NORM_TOLERANCE).sum())
    return np.concatenate(keys) if keys else np.empty((0, 3), np.uint64), num_bad, num_off


def _matrices(batch: pa.RecordBatch) -> Iterator[NDArray[np.floating]]:
    column = batch.column("vector")
    if len(column):
        yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def publish(dataset: lance.LanceDataset) -> int:
    """Points `live` at a version that passed the gate, and returns its number."""
    version = int(dataset.version)
    if LIVE in dataset.tags.list():
        dataset.tags.update(LIVE, version)
    else:
        dataset.tags.create(LIVE, version)
    return version
