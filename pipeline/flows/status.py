"""What is in a database, for `t1 status`. Opens tables; loads no model and starts no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import TableError
from pipeline.records import Reason
from pipeline.storage import redact
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.lease import read_lease
from pipeline.store.live import published_versions
from pipeline.store.scans import list_scans
from pipeline.store.schema import read_fingerprint

_NUM_RUNS = 5
# Bad rows of shards that the run did not read, as they are as an earlier run read them; where no reason is known.
_EARLIER = "in_unchanged_shards"
_RUN_COLUMNS = [
    "run_id", "started_at", "finished_at", "status", "model", "version", "documents_read", "documents_encoded",
    "documents_unchanged", "documents_duplicate", "documents_quarantined", "documents_deleted", "num_chunks",
    "num_tokens", "encode_seconds", "error",
]  # fmt: skip


def status(db: str) -> dict[str, Any]:
    """The live version, the latest one, those kept, who is writing, the last runs, the last run's quarantine by reason.

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
        aside = _quarantine(database, runs[0])
        return {
            "db": redact(database.uri), "live": None, "latest": None, "published": [],
            "lease": _lease(database), "runs": runs, "quarantine": aside,
        }  # fmt: skip
    latest = database.open("documents")
    version = database.live_version()
    live = _describe(database.open("documents", version=LIVE)) if version is not None else None
    return {
        "db": redact(database.uri),
        "live": live,
        "latest": _describe(latest),
        "published": [
            {"version": p.version, "created_at": p.created_at.isoformat(timespec="seconds")}
            for p in published_versions(latest)
        ],
        "lease": _lease(database),
        "runs": runs,
        "quarantine": _quarantine(database, runs[0]) if runs else {},
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


def _lease(database: Database) -> dict[str, Any] | None:
    """Who is writing; None when nobody is."""
    info = read_lease(database)
    if info is None:
        return None
    times = {name: getattr(info, name).isoformat(timespec="seconds") for name in ("acquired_at", "renewed_at")}
    return asdict(info) | times


def _runs(database: Database) -> list[dict[str, Any]]:
    if not database.exists("runs"):
        return []
    table = database.open("runs").to_table(columns=_RUN_COLUMNS)
    newest = table.take(pc.sort_indices(table, [("started_at", "descending")])[:_NUM_RUNS])
    return [
        {name: value.isoformat(timespec="seconds") if name.endswith("_at") else value for name, value in row.items()}
        for row in newest.to_pylist()
    ]


def _quarantine(database: Database, run: dict[str, Any]) -> dict[str, int]:
    """What a run set aside, by reason; and how many rows the runs did that read the shards which it did not."""
    counts: dict[str, int] = {}
    if database.exists("quarantine"):
        rows = database.open("quarantine").to_table(columns=["reason"], filter=f"run_id = '{run['run_id']}'")
        found = rows.group_by("reason").aggregate([("reason", "count")]).to_pylist()
        counts = {row["reason"]: row["reason_count"] for row in sorted(found, key=lambda r: -r["reason_count"])}
    # duplicates are an account of their own
    own = sum(number for reason, number in counts.items() if reason != Reason.DUPLICATE_ID)
    earlier = run["documents_quarantined"] - own
    return dict(Counter(counts) + Counter(_earlier(database, counts, earlier))) if earlier > 0 else counts


def _earlier(database: Database, counts: dict[str, int], num_rows: int) -> dict[str, int]:
    """Bad rows of the shards that a run did not open, by reason where the stored scans tell it.

    They tell of all shards, opened or not, and may still tell of shards that are gone: believed only if they add up.
    """
    known: Counter[str] = Counter()
    for scan in list_scans(database)[1].values():
        known.update(scan.rejected)
    reasons = {reason: left for reason in sorted(known) if (left := known[reason] - counts.get(reason, 0)) > 0}
    return reasons if sum(reasons.values()) == num_rows else {_EARLIER: num_rows}
