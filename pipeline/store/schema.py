"""The columns of every table, and what a documents table says about the vectors in it.

Knows nothing of Ray or models. Called by the rest of `store`.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa

from pipeline.errors import TableError
from pipeline.fingerprint import EncoderIdentity
from pipeline.records import HASH_BYTES

FINGERPRINT_KEY = b"t1.fingerprint"
IDENTITY_KEY = b"t1.identity"
ENCODER_KEY = b"t1.encoder"

# What travels from the encoders to the writers: the documents table's columns with metadata as plain text, and why a
# row is set aside instead of stored ("" for a good row).
REJECT_COLUMN = "reject_reason"

_VALUE_TYPES = {"float32": pa.float32(), "float16": pa.float16()}

QUARANTINE = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.int64()),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in (
                "documents_read", "documents_encoded", "documents_unchanged", "documents_duplicate",
                "documents_quarantined", "documents_deleted", "num_chunks", "num_tokens", "num_slots",
            )
        ),
        pa.field("encode_seconds", pa.float64(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)  # fmt: skip

TRAJECTORIES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("trajectory", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("reasoner", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sampling", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("num_attempts", pa.int32(), nullable=False),
        # of whichever encoder came first: another one's vector is one prefill away, and its length may differ
        pa.field("vector", pa.list_(pa.float32())),
        pa.field("encoder_fingerprint", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


def documents_schema(identity: EncoderIdentity, *, encoder: str) -> pa.Schema:
    """The documents table for vectors of one identity.

    Args:
        identity: What shapes the vectors; stored with the schema, so a version always says whose vectors it holds.
        encoder: JSON of the encoder's settings, enough to encode a query that fits these vectors.
    """
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("chunk", pa.int32(), nullable=False),
            pa.field("title", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("metadata", pa.json_()),
            pa.field("shard", pa.string(), nullable=False),
            pa.field("content_hash", pa.binary(HASH_BYTES), nullable=False),
            pa.field("num_tokens", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(_VALUE_TYPES[identity.vector_dtype], identity.dim), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
        ],
        metadata={
            FINGERPRINT_KEY: identity.fingerprint.encode(),
            IDENTITY_KEY: json.dumps(asdict(identity), sort_keys=True).encode(),
            ENCODER_KEY: encoder.encode(),
        },
    )


def read_fingerprint(schema: pa.Schema) -> str:
    """The fingerprint of the vectors behind a schema.

    Raises:
        TableError: the table was not written by this project.
    """
    return _metadata(schema, FINGERPRINT_KEY)


def read_encoder(schema: pa.Schema) -> str:
    """JSON of the settings of the encoder whose vectors are behind a schema."""
    return _metadata(schema, ENCODER_KEY)


def _metadata(schema: pa.Schema, key: bytes) -> str:
    value = (schema.metadata or {}).get(key)
    if value is None:
        raise TableError(f"the documents table has no {key.decode()} in its schema; it was not written by t1 index")
    return str(value.decode())
