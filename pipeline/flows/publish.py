"""From a version with every row to the one that readers get: the gate, the tag, what is kept, and the way back.

`finish` ends an index run; `publish`, `rollback` and `verify` are commands of their own. Whatever moves `live` holds
the table's lease.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import PublishRefused, RecallTooLow, TableError
from pipeline.flows.canary import check_canary
from pipeline.flows.report import RunReport
from pipeline.settings import IndexesSettings, PublishSettings
from pipeline.storage import redact
from pipeline.store import gate, live
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.indexes import IndexPlan, Step, build_vector_index, choose_vector_index, refresh_indexes
from pipeline.store.lease import Lease
from pipeline.store.schema import read_fingerprint
from pipeline.store.transactions import Writer, fence

Say = Callable[[str], None]
Build = Callable[[Table, IndexPlan], None]


def new_run_id() -> str:
    """A name for a run: when it began, UTC, and six random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def writing(database: Database, *, run_id: str, say: Say) -> Iterator[Writer]:
    """Holds the table's lease; a table taken over from a run that never gave it back is fenced against that run.

    Raises:
        LeaseHeld: another run is writing.
    """
    with Lease.acquire(database, run_id=run_id, say=say) as lease:
        writer = Writer(database.documents_uri, run_id=run_id, token=lease.token, confirm=lease.check)
        if lease.took_over and database.exists("documents"):
            say("the last run on this table did not end; what it committed is kept, and it can commit no more")
            fence(writer, database.open("documents"))
        yield writer


def add_indexes(
    dataset: Table,
    settings: IndexesSettings,
    *,
    writer: Writer,
    say: Say,
    build: Build = build_vector_index,
    rebuild: bool = False,
) -> Table:
    """Builds what indexes the table lacks, and brings the others up to date; the version that has them.

    Args:
        dataset: The latest version.
        settings: Which indexes.
        writer: Of the run that holds the lease.
        say: Hears of the vector index, which takes long.
        build: What builds it, here or on a cluster.
        rebuild: Train it anew, though it seems to fit.
    """
    plan = choose_vector_index(
        dataset.count_rows(), dataset.schema.field("vector").type.list_size, kind=settings.vector,
        auto_from_rows=settings.auto_from_rows, scalar=settings.scalar, full_text=settings.full_text,
    )  # fmt: skip

    def before(step: Step) -> None:
        writer.confirm()
        if step.column == "vector":
            say(f"vector index {plan.kind}: {step.action}")

    return refresh_indexes(dataset, plan, before=before, build=build, rebuild=rebuild)


def finish(
    database: Database,
    dataset: Table,
    *,
    writer: Writer,
    settings: PublishSettings,
    expected_documents: int | None,
    retrain: Callable[[], Table] | None = None,
) -> int:
    """Checks a version, publishes it, and drops what nothing keeps any more.

    Args:
        database: Whose documents table it is.
        dataset: The version.
        writer: Of the run that holds the lease.
        settings: The gate's floors, and how long old versions are kept.
        expected_documents: As in `gate.check`.
        retrain: Makes a version whose vector index is trained anew; tried once when recall is too low, because an
            index that was added to night after night may have drifted from its vectors.

    Returns:
        The number of the version that is now live.

    Raises:
        PublishRefused: a check failed.
        LeaseLost: another run took the table over.
    """
    checked, floors = _comparable(database, dataset), _floors(settings)
    try:
        gate.check(dataset, expected_documents=expected_documents, checked=checked, floors=floors)
    except RecallTooLow:
        if retrain is None:
            raise
        dataset = retrain()
        gate.check(dataset, expected_documents=expected_documents, checked=checked, floors=floors)
    writer.confirm()
    version = live.publish(dataset)
    live.drop_old(database.open("documents"), _retention(settings))
    return version


def _comparable(database: Database, dataset: Table) -> Table | None:
    """What is live now, where it holds the same kind of vectors: its files were looked at when it was published."""
    if database.live_version() is None:
        return None
    current = database.open("documents", version=LIVE)
    return current if read_fingerprint(current.schema) == read_fingerprint(dataset.schema) else None


def _floors(settings: PublishSettings) -> gate.GateFloors:
    return gate.GateFloors(settings.min_self_retrieval, settings.min_recall, settings.gate_sample)


def _retention(settings: PublishSettings) -> live.Retention:
    return live.Retention(settings.keep_versions, settings.keep_days)


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
            finish(database, dataset, writer=writer, settings=settings, expected_documents=None)
    say(f"published version {dataset.version} as live in {redact(database.documents_uri)}")
    return {"live": int(dataset.version), "run_id": run_id}


def _check_complete(database: Database, dataset: Table) -> None:
    """Only a version in which some run has put every row may be published by hand."""
    complete = set()
    if database.exists("runs"):
        complete = set(database.open("runs").to_table(columns=["version"]).column("version").to_pylist())
    if int(dataset.version) not in complete:
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
            writer.confirm()
            live.publish(dataset)
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
    floors = _floors(settings)
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
