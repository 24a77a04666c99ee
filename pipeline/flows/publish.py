"""`t1 publish`, `t1 rollback`, `t1 verify`: what moves `live` by hand, or only looks. No model, no Ray.

Whatever moves `live` holds the table's lease, and leaves a row in the `runs` table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import PublishRefused, TableError
from pipeline.flows.canary import check_canary
from pipeline.flows.finish import How, call_here, finish, floors_of
from pipeline.flows.report import RunReport
from pipeline.flows.writing import Say, new_run_id, writing
from pipeline.settings import PublishSettings
from pipeline.storage import redact
from pipeline.store import gate, live
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.schema import read_fingerprint
from pipeline.store.transactions import fenced_version


def publish(db: str, *, version: int | None, settings: PublishSettings, say: Say) -> dict[str, Any]:
    """`t1 publish`: puts the latest version, or the one named, through the gate and points `live` at it.

    For a run that ended between its last commit and the publish, or was refused by a floor that has changed since. How
    many documents the corpus has is not known here; `t1 index` checks that.
    """
    database = Database.at(db)
    # settled before the lease is taken: fencing a run that did not end well makes a version of its own
    version = int(database.open("documents", version=version).version)
    run_id = new_run_id()
    with writing(database, run_id=run_id, say=say) as writer:
        dataset = database.open("documents", version=version)
        _check_complete(database, dataset)
        with _recorded(database, dataset, run_id=run_id, status="published"):
            check_canary(database, dataset, settings, device="cpu", say=say)
            how = How(call_here, say=say)
            finish(database, dataset, writer=writer, settings=settings, expected_documents=None, how=how)
    say(f"published version {dataset.version} as live in {redact(database.documents_uri)}")
    return {"live": int(dataset.version), "run_id": run_id}


def _check_complete(database: Database, dataset: Table) -> None:
    """Only a version in which some run has put every row may be published by hand."""
    complete = set()
    if database.exists("runs"):
        complete = set(database.open("runs").to_table(columns=["version"]).column("version").to_pylist())
    if not complete & {int(dataset.version), fenced_version(dataset)}:
        raise TableError(
            f"version {dataset.version} of {redact(database.documents_uri)} was left by a run that did not end, so "
            "rows may be missing; run t1 index again, which encodes only those and publishes"
        )


def rollback(db: str, *, to: int | None = None, say: Say) -> dict[str, Any]:
    """`t1 rollback`: points `live` at the version that was live before it, or at one that was named.

    Args:
        db: The database.
        to: A version that was live once.
        say: Hears what happened.

    Raises:
        TableError: there is no such version.
    """
    database = Database.at(db)
    database.open("documents")
    was = database.live_version()
    if was is None:
        raise TableError(
            f"{redact(database.documents_uri)} has no published version yet; there is nothing to go back to"
        )
    run_id = new_run_id()
    with writing(database, run_id=run_id, say=say) as writer:
        version = live.choose_rollback(live.published_versions(database.open("documents")), to=to)
        dataset = database.open("documents", version=version)
        with _recorded(database, dataset, run_id=run_id, status="rolled_back"):
            live.publish(dataset, confirm=writer.confirm)
    say(
        f"live went from version {was} to {version} in {redact(database.documents_uri)}; "
        "the next t1 index publishes what the corpus then holds"
    )
    return {"live": version, "was": was, "run_id": run_id}


def verify(db: str, *, version: int | None, settings: PublishSettings) -> dict[str, Any]:
    """`t1 verify`: every check of the gate on what is live, or on the version named; nothing is changed.

    Raises:
        PublishRefused: a check failed; the message names each.
    """
    database = Database.at(db)
    dataset = database.open("documents", version=LIVE if version is None else version)
    floors = floors_of(settings)
    report = gate.inspect(dataset, checked=None, floors=floors)
    failures = report.failures(expected_documents=None, floors=floors)
    if failures:
        raise PublishRefused(f"version {dataset.version} does not pass: {'; '.join(failures)}")
    return asdict(report)


@contextmanager
def _recorded(database: Database, dataset: Table, *, run_id: str, status: str) -> Iterator[None]:
    """Leaves a row in the `runs` table for a command that moves `live` without indexing."""
    report = RunReport(run_id, "", read_fingerprint(dataset.schema), datetime.now(UTC), status="failed")
    report.version = int(dataset.version)
    try:
        yield
        report.status = status
    finally:
        report.finished_at = datetime.now(UTC)
        database.append("runs", report.as_row("{}"))
