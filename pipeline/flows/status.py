"""What is in a database, for `t1 status`. Opens tables; loads no model and starts no Ray."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from pipeline.errors import TableError
from pipeline.storage import redact
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.schema import read_fingerprint

_NUM_RUNS = 5
_RUN_COLUMNS = [
    "run_id", "started_at", "finished_at", "status", "model", "version", "documents_read", "documents_encoded",
    "documents_unchanged", "documents_duplicate", "documents_quarantined", "documents_deleted", "num_chunks",
    "num_tokens", "encode_seconds", "error",
]  # fmt: skip


def status(db: str) -> dict[str, Any]:
    """The live version, the latest one, the last runs, and the last run's quarantine by reason.

    Raises:
        TableError: there is no database at this place.
    """
    database = Database.at(db)
    runs = _runs(database)
    if not database.exists("documents"):
        if not runs:
            raise TableError(
                f"no database at {redact(database.uri)}; run `t1 index --corpus ... --db ...` first, or check --db"
            )
        aside = _quarantine(database, runs[0]["run_id"])
        return {"db": redact(database.uri), "live": None, "latest": None, "runs": runs, "quarantine": aside}
    latest = database.open("documents")
    version = database.live_version()
    live = _describe(database.open("documents", version=LIVE)) if version is not None else None
    return {
        "db": redact(database.uri),
        "live": live,
        "latest": _describe(latest),
        "runs": runs,
        "quarantine": _quarantine(database, runs[0]["run_id"]) if runs else {},
    }


def _describe(dataset: Table) -> dict[str, Any]:
    vector = dataset.schema.field("vector").type
    return {
        "version": int(dataset.version),
        "num_chunks": int(dataset.count_rows()),
        "num_documents": int(dataset.count_rows(filter="chunk = 0")),
        "num_fragments": len(dataset.get_fragments()),
        "dim": vector.list_size,
        "vector_dtype": str(vector.value_type),
        "fingerprint": read_fingerprint(dataset.schema),
    }


def _runs(database: Database) -> list[dict[str, Any]]:
    if not database.exists("runs"):
        return []
    table = database.open("runs").to_table(columns=_RUN_COLUMNS)
    newest = table.take(pc.sort_indices(table, [("started_at", "descending")])[:_NUM_RUNS])
    return [
        {name: value.isoformat(timespec="seconds") if name.endswith("_at") else value for name, value in row.items()}
        for row in newest.to_pylist()
    ]


def _quarantine(database: Database, run_id: str) -> dict[str, int]:
    if not database.exists("quarantine"):
        return {}
    rows = database.open("quarantine").to_table(columns=["reason"], filter=f"run_id = '{run_id}'")
    counts = rows.group_by("reason").aggregate([("reason", "count")]).to_pylist()
    return {row["reason"]: row["reason_count"] for row in sorted(counts, key=lambda r: -r["reason_count"])}
