"""What a new encoder costs, said before it is paid for: every document is encoded anew beside the live vectors."""

from __future__ import annotations

import pyarrow.compute as pc

from pipeline.fingerprint import EncoderIdentity
from pipeline.store.database import LIVE, Database
from pipeline.store.schema import read_fingerprint

_BYTES = {"float32": 4, "float16": 2}


def describe_rebuild(database: Database, identity: EncoderIdentity, *, model: str, num_documents: int) -> str | None:
    """One sentence when what is live was encoded by another encoder, else None.

    Args:
        database: Whose `live` is looked at.
        identity: Of the encoder that is about to run.
        model: Its source, as the `runs` table names it; an earlier run's speed is an estimate of this one's.
        num_documents: Documents to be encoded.
    """
    if not num_documents or database.live_version() is None:
        return None
    live = database.open("documents", version=LIVE)
    found = read_fingerprint(live.schema)
    if found == identity.fingerprint:
        return None
    size = live.count_rows() * identity.dim * _BYTES[identity.vector_dtype]
    return (
        f"the live vectors are another encoder's (fingerprint {found[:12]}): {num_documents:,} documents are to be "
        f"encoded anew beside them, about {size / 1e6:,.1f} MB of vectors"
        f"{_duration(database, model, num_documents)}; version {live.version} serves until the new one passes the gate"
    )


def _duration(database: Database, model: str, num_documents: int) -> str:
    """What the last run of this model took a document, times the documents; empty where there was none."""
    if not database.exists("runs"):
        return ""
    runs = database.open("runs").to_table(
        columns=["model", "started_at", "finished_at", "documents_encoded"], filter="documents_encoded > 0"
    )
    runs = runs.filter(pc.equal(runs["model"], model)).sort_by([("started_at", "descending")])
    if not runs.num_rows:
        return ", for which this model has no run to estimate the time from"
    last = runs.slice(0, 1).to_pylist()[0]
    seconds = (last["finished_at"] - last["started_at"]).total_seconds() / last["documents_encoded"] * num_documents
    return (
        f", about {seconds / 60:,.0f} min at the pace of its last run" if seconds > 90 else f", about {seconds:,.0f} s"
    )
