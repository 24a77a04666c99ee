"""The gate: what must be true of a version before readers get it.

Counts, duplicate keys, vectors, and whether the version finds its own rows. Every check is made, and all that failed
are named. Knows nothing of runs; called before `live` moves, and by `t1 verify`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import PublishRefused, RecallTooLow
from pipeline.retry import retrying
from pipeline.store.keys import KeyCounts, count_keys
from pipeline.store.recall import Truth, read_truth, retrieve_sample

# Stored vectors may be rounded to float16: 2^-11 a component, far less over the norm.
_NORM_TOLERANCE = 1e-2
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class GateFloors:
    """What a version must reach.

    Attributes:
        self_retrieval: Share of sampled rows that their own vector finds first.
        recall: Recall@10 of the vector index against exact search; 1 without an index.
        sample: Rows that are tried, >= 1; 0 leaves both out.
    """

    self_retrieval: float = 0.99
    recall: float = 0.90
    sample: int = 64


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate found in a version.

    Attributes:
        version: The version checked.
        num_rows: Chunks.
        num_documents: Distinct ids.
        num_repeated: Rows whose (id, chunk) is there already.
        num_vectors: Vectors that were looked at; those of a version checked before are not looked at again.
        num_bad: Of these, vectors that are not finite.
        num_off: Of these, vectors that are not of unit length.
        self_retrieval: As in `GateFloors`; None where it was not tried.
        recall: As in `GateFloors`; None where it was not tried.
    """

    version: int
    num_rows: int
    num_documents: int
    num_repeated: int = 0
    num_vectors: int = 0
    num_bad: int = 0
    num_off: int = 0
    self_retrieval: float | None = None
    recall: float | None = None

    def failures(self, *, expected_documents: int | None, floors: GateFloors) -> list[str]:
        """What is wrong, a clause each."""
        failures = []
        if self.num_repeated:
            failures.append(f"{self.num_repeated} rows repeat an (id, chunk) that is already there")
        if expected_documents is not None and self.num_documents != expected_documents:
            failures.append(f"{self.num_documents} documents in the table where the corpus has {expected_documents}")
        if self.num_bad:
            failures.append(f"{self.num_bad} vectors hold values that are not finite")
        if self.num_off:
            failures.append(f"{self.num_off} vectors are not of unit length")
        if self.self_retrieval is not None and self.self_retrieval < floors.self_retrieval:
            failures.append(
                f"only {self.self_retrieval:.3f} of sampled rows are found by their own vector, "
                f"less than {floors.self_retrieval:g}"
            )
        if self.recall is not None and self.recall < floors.recall:
            failures.append(
                f"recall@10 of the vector index against exact search is {self.recall:.3f}, less than {floors.recall:g}"
            )
        return failures


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What rows alone decide: it is the same whatever indexes are built, and read while they are.

    Attributes:
        keys: Their keys.
        truth: What is nearest to some of them; None where none was to be tried.
    """

    keys: KeyCounts
    truth: Truth | None


def read_rows(dataset: lance.LanceDataset, *, sample: int) -> RowFacts:
    """Reads every key and every vector of a version.

    Args:
        dataset: The version.
        sample: As in `GateFloors`.
    """

    def read() -> RowFacts:
        # one after the other: each keeps Lance's own threads busy, and both at once take half as much again of them
        return RowFacts(count_keys(dataset), read_truth(dataset, sample=sample) if sample else None)

    return retrying(read, what=f"reading the rows of version {dataset.version}")


def check(
    dataset: lance.LanceDataset,
    *,
    expected_documents: int | None,
    checked: lance.LanceDataset | None = None,
    floors: GateFloors | None = None,
    rows: RowFacts | None = None,
) -> GateReport:
    """Checks a version.

    Args:
        dataset: The version to be published.
        expected_documents: Distinct ids it must hold; None when the run does not know.
        checked: A version that passed before: vectors in files that it shares are not read again.
        floors: What it must reach.
        rows: Read before, of exactly these rows or they are read again.

    Raises:
        PublishRefused: naming every check that failed; `RecallTooLow` where it is recall alone.
    """
    floors = floors or GateFloors()
    report = retrying(
        lambda: inspect(dataset, checked=checked, floors=floors, rows=rows), what=f"checking version {dataset.version}"
    )
    failures = report.failures(expected_documents=expected_documents, floors=floors)
    if failures:
        only_recall = len(failures) == 1 and report.recall is not None and report.recall < floors.recall
        raise (RecallTooLow if only_recall else PublishRefused)(
            f"version {dataset.version} was not published: {'; '.join(failures)}; readers keep the version they had"
        )
    return report


def inspect(
    dataset: lance.LanceDataset,
    *,
    checked: lance.LanceDataset | None,
    floors: GateFloors,
    rows: RowFacts | None = None,
) -> GateReport:
    """Makes every check and judges none; see `check`."""
    num_vectors, num_bad, num_off = _count_vectors(dataset, checked)
    if rows is None or not rows.keys.is_of(dataset):
        rows = read_rows(dataset, sample=0 if num_bad or num_off else floors.sample)
    found, recall = None, None
    if rows.keys.num_rows and floors.sample and not (num_bad or num_off):
        found, recall = retrieve_sample(dataset, sample=floors.sample, truth=rows.truth)
    return GateReport(
        int(dataset.version), rows.keys.num_rows, rows.keys.num_documents, rows.keys.num_repeated,
        num_vectors, num_bad, num_off, found, recall,
    )  # fmt: skip


def _count_vectors(dataset: lance.LanceDataset, checked: lance.LanceDataset | None) -> tuple[int, int, int]:
    """Vectors looked at, those that are not finite, those not of unit length."""
    num_vectors, num_bad, num_off = 0, 0, 0
    known = _files(checked) if checked is not None else frozenset()
    fresh = [f for f in dataset.get_fragments() if not {file.path for file in f.metadata.files} <= known]
    if not fresh:
        return 0, 0, 0
    for batch in dataset.scanner(columns=["vector"], batch_size=_BATCH_ROWS, fragments=fresh).to_batches():
        for vectors in _matrices(batch):
            finite = np.isfinite(vectors).all(axis=1)
            norms = np.linalg.norm(vectors[finite].astype(np.float32), axis=1)
            num_vectors += len(vectors)
            num_bad += int((~finite).sum())
            num_off += int((np.abs(norms - 1) > _NORM_TOLERANCE).sum())
    return num_vectors, num_bad, num_off


def _files(dataset: lance.LanceDataset) -> frozenset[str]:
    return frozenset(file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files)


def _matrices(batch: pa.RecordBatch) -> Iterator[NDArray[np.floating]]:
    column = batch.column("vector")
    if len(column):
        yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
