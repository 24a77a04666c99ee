"""Columns and types of every table, as a golden file: a change here is a change of what is on people's disks."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import TableError
from pipeline.store.schema import QUARANTINE, RUNS, read_encoder, read_fingerprint
from tests.golden import check_golden
from tests.store.sample import identity, schema

GOLDEN = Path(__file__).parent / "golden"


def _columns(name: str, table: pa.Schema) -> str:
    lines = [f"  {field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in table]
    return "\n".join([name, *lines, ""])


def test_columns_and_types_of_every_table() -> None:
    tables = {
        "documents, float32": schema(),
        "documents, float16": schema(vector_dtype="float16", dim=16),
        "quarantine": QUARANTINE,
        "runs": RUNS,
    }
    check_golden(GOLDEN / "tables.txt", "\n".join(_columns(name, table) for name, table in tables.items()))


def test_a_schema_says_whose_vectors_it_holds() -> None:
    table = schema(weights="a")
    assert read_fingerprint(table) == identity(weights="a").fingerprint != identity(weights="b").fingerprint
    assert json.loads(read_encoder(table)) == {"model": "m"}
    assert json.loads(table.metadata[b"t1.identity"])["prompts"] == ["read: ", " <emb_token>"]


def test_a_table_of_somebody_else_is_refused_with_a_word() -> None:
    with pytest.raises(TableError, match=r"no t1\.fingerprint in its schema"):
        read_fingerprint(pa.schema([pa.field("id", pa.string())]))
