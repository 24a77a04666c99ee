"""Rows of a documents table without a model: what the tests of `store` write and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fingerprint import EncoderIdentity
from pipeline.records import content_hash
from pipeline.store.commit import CommitBounds, Committer
from pipeline.store.database import Database
from pipeline.store.fragments import write_rows
from pipeline.store.schema import documents_schema
from pipeline.store.transactions import Writer

DIM = 8


@dataclass(frozen=True)
class Row:
    """One chunk; the vector is a unit vector of its own when none is given."""

    id: str
    chunk: int = 0
    title: str = ""
    text: str = "text"
    metadata: str = "{}"
    vector: Sequence[float] | None = None


def identity(*, weights: str = "w", dim: int = DIM, vector_dtype: str = "float32") -> EncoderIdentity:
    return EncoderIdentity(
        weights=weights, adapter="", tokenizer="t", prompts=("read: ", " <emb_token>"), pooling="emb_token", head="",
        chunking=(512, 64, 0), compute_dtype="float32", vector_dtype=vector_dtype, dim=dim,
    )  # fmt: skip


def schema(*, weights: str = "w", dim: int = DIM, vector_dtype: str = "float32") -> pa.Schema:
    return documents_schema(identity(weights=weights, dim=dim, vector_dtype=vector_dtype), encoder='{"model": "m"}')


def unit_vectors(num_rows: int, *, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def as_table(rows: Sequence[Row], *, dim: int = DIM) -> pa.Table:
    """What the encoders hand to the writers: metadata as plain text, vectors as float32."""
    drawn = unit_vectors(len(rows), dim=dim)
    vectors = [row.vector if row.vector is not None else drawn[i] for i, row in enumerate(rows)]
    flat = np.asarray(vectors, np.float32).reshape(len(rows), dim)
    return pa.table(
        {
            "id": pa.array([r.id for r in rows], pa.string()),
            "chunk": pa.array([r.chunk for r in rows], pa.int32()),
            "title": pa.array([r.title for r in rows], pa.string()),
            "text": pa.array([r.text for r in rows], pa.string()),
            "metadata": pa.array([r.metadata for r in rows], pa.string()),
            "shard": pa.array(["corpus.jsonl"] * len(rows), pa.string()),
            "content_hash": pa.array([content_hash(r.title, r.text, r.metadata) for r in rows], pa.binary(16)),
            "num_tokens": pa.array([len(r.text) for r in rows], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dim),
            "run_id": pa.array(["run-1"] * len(rows), pa.string()),
        }
    )


NO_BOUNDS = CommitBounds(max_rows=10**9, max_bytes=10**12, max_seconds=10**9)


def committer(
    database: Database,
    *,
    table_schema: pa.Schema | None = None,
    run_id: str = "run-1",
    bounds: CommitBounds = NO_BOUNDS,
) -> Committer:
    writer = Writer(database.documents_uri, run_id=run_id)
    return Committer(database, writer=writer, schema=table_schema or schema(), bounds=bounds)


def store(database: Database, rows: Sequence[Row], *, table_schema: pa.Schema | None = None) -> lance.LanceDataset:
    """A version of the documents table that holds, beside what was there, these rows."""
    table_schema = table_schema or schema()
    dim = table_schema.field("vector").type.list_size
    writer = committer(database, table_schema=table_schema)
    writer.add(write_rows(as_table(rows, dim=dim), database.documents_uri, schema=table_schema))
    writer.flush()
    return writer.dataset
