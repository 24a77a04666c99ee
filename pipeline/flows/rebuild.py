"""What a new encoder costs, said before it is paid for: every document is encoded anew beside the live vectors.

And what it gives up: vectors of yet another encoder that no run has published, for a run goes on from a table's latest
version or from what is live, and from no other.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from pipeline.errors import SettingsError
from pipeline.fingerprint import EncoderIdentity
from pipeline.model.bundle import ModelBundle
from pipeline.settings import ModelSettings
from pipeline.storage import redact
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.live import published_versions
from pipeline.store.schema import read_encoder, read_fingerprint

_SHOWN_CHARS = 60
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


def check_unpublished(database: Database, bundle: ModelBundle, *, discard: bool) -> str | None:
    """One sentence where this run will give up rows that were never published, else None.

    Args:
        database: Whose documents table is to be written.
        bundle: The encoder that is about to run.
        discard: Give them up though nothing is live, so that they are all there is.

    Raises:
        SettingsError: they are all there is, and nobody said that they may go.
    """
    if not database.exists("documents"):
        return None
    latest = database.open("documents")
    if read_fingerprint(latest.schema) == bundle.identity.fingerprint or not (num_rows := _count_unpublished(latest)):
        return None
    theirs = ModelSettings.model_validate_json(read_encoder(latest.schema))
    whose = f"{num_rows:,} rows that were never published, encoded by {_describe(theirs, bundle.settings)}"
    if database.live_version() is None and not discard:
        raise SettingsError(
            f"the table holds {whose}; this run would begin without them: run with those settings to go on from them, "
            "or pass --discard-unpublished (commit.discard_unpublished) to give them up"
        )
    return f"this run gives up {whose}"


def _count_unpublished(latest: Table) -> int:
    """Rows of the latest version in files that no version which is or was live holds."""
    published = [version.version for version in published_versions(latest)]
    if latest.version in published:
        return 0
    kept = {file for version in published for fragment in _fragments(latest, version) for file in _files(fragment)}
    return sum(fragment.count_rows() for fragment in latest.get_fragments() if not _files(fragment) <= kept)


def _fragments(table: Table, version: int) -> list[Any]:
    return list(table.checkout_version(version).get_fragments())


def _files(fragment: Any) -> set[str]:
    return {file.path for file in fragment.metadata.files}


def _describe(theirs: ModelSettings, ours: ModelSettings) -> str:
    """The model, and the settings of a document's encoder that are not as they are now."""
    names = [name for name in ModelSettings.model_fields if name != "model" and not name.startswith("query_")]
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in names]
    changed = [f"encoder.{name} {_shown(was)} (now {_shown(now)})" for name, was, now in pairs if was != now]
    model = _shown(theirs.model) + (f" (now {_shown(ours.model)})" if theirs.model != ours.model else "")
    if changed:
        return f"{model} with {', '.join(changed)}"
    return model if theirs.model != ours.model else f"{model} as it was before its files changed"


def _shown(value: object) -> str:
    text = redact(str(value))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


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
