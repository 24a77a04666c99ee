"""The end of a run: indexes, the gate, the tag `live`, and what is kept of the versions before.

Called by the index flow, and by `publish` for its commands; whoever calls holds the table's lease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import RecallTooLow, T1Error
from pipeline.flows.writing import Say, check_token
from pipeline.settings import IndexesSettings, PublishSettings
from pipeline.storage import redact
from pipeline.store import gate, live
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.indexes import (
    IndexPlan,
    Step,
    build_vector_index,
    choose_vector_index,
    plan_steps,
    refresh_indexes,
)
from pipeline.store.schema import read_fingerprint
from pipeline.store.transactions import Writer, fence, fenced_version

Build = Callable[[Table, IndexPlan], None]
Result = TypeVar("Result")


def _say_nothing(sentence: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class How:
    """Where the heavy parts run.

    Attributes:
        run: Calls a function where its memory may grow with the table; `call_here`, or in a task of a cluster.
        build: What builds the vector index.
        say: Hears of what takes long.
        retrain: Makes a version whose vector index is trained anew; tried once when recall is too low, because an
            index that was added to night after night may have drifted from its vectors.
        rows: What was read of the rows while indexes were built, by reference where `run` takes references.
    """

    run: Callable[..., Any]
    build: Build = build_vector_index
    say: Say = _say_nothing
    retrain: Callable[[], Table] | None = None
    rows: Any = None


def call_here(function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """What reads much and returns little, in this process; a flow with a cluster has it done in a task."""
    return function(*arguments, **named)


def add_indexes(
    database: Database, dataset: Table, settings: IndexesSettings, *, writer: Writer, how: How, rebuild: bool = False
) -> Table:
    """Builds what indexes the table lacks, and brings the others up to date; the version that has them.

    Args:
        database: Whose documents table it is.
        dataset: Its latest version.
        settings: Which indexes.
        writer: Of the run that holds the lease.
        how: Where they are built, and what hears of it.
        rebuild: Train the vector index anew, though it seems to fit.
    """
    plan = choose_vector_index(
        dataset.count_rows(), dataset.schema.field("vector").type.list_size, kind=settings.vector,
        auto_from_rows=settings.auto_from_rows, scalar=settings.scalar, full_text=settings.full_text,
    )  # fmt: skip
    steps = plan_steps(dataset, plan, rebuild=rebuild)
    if not steps:
        return dataset
    for step in steps:
        if step.column == "vector":
            how.say(f"vector index {plan.kind}: {step.action}")
    writer.confirm()
    version = how.run(_refresh, database, plan, token=writer.token, build=how.build, rebuild=rebuild)
    return database.open("documents", version=version)


def _refresh(database: Database, plan: IndexPlan, *, token: int, build: Build, rebuild: bool) -> int:
    """The steps, each only while the lease is still the run's."""

    def before(_: Step) -> None:
        check_token(database, token, undone="no index was built")

    dataset = database.open("documents")
    return int(refresh_indexes(dataset, plan, before=before, build=build, rebuild=rebuild).version)


def finish(
    database: Database,
    dataset: Table,
    *,
    writer: Writer,
    settings: PublishSettings,
    expected_documents: int | None,
    how: How | None = None,
) -> int:
    """Checks a version, publishes it, and drops what nothing keeps any more.

    Args:
        database: Whose documents table it is.
        dataset: The version.
        writer: Of the run that holds the lease.
        settings: The gate's floors, and how long old versions are kept.
        expected_documents: As in `gate.check`.
        how: Where the gate reads; here when None.

    Returns:
        The number of the version that is now live.

    Raises:
        PublishRefused: a check failed.
        LeaseLost: another run took the table over.
    """
    how = how or How(call_here)
    rest = {
        "expected_documents": expected_documents,
        "checked": _comparable(database, dataset),
        "floors": floors_of(settings),
        "rows": how.rows,
    }
    try:
        how.run(gate.check, dataset, **rest)
    except RecallTooLow:
        if how.retrain is None:
            raise
        dataset = how.retrain()
        how.run(gate.check, dataset, **rest)
    version = live.publish(dataset, confirm=writer.confirm)
    _clean_up(database, writer, settings, say=how.say)
    return version


def _clean_up(database: Database, writer: Writer, settings: PublishSettings, *, say: Say) -> None:
    """Drops what nothing keeps any more; whatever keeps it from that, the new version is live by now."""
    try:
        latest = database.open("documents")
        if fenced_version(latest) is None:  # `t1 publish` may have taken an older version
            latest = fence(writer, latest)
        live.drop_old(latest, _retention(settings), confirm=writer.confirm)
    except (T1Error, OSError, RuntimeError, ValueError) as error:
        why = redact(str(error).partition("\n")[0])
        say(f"old versions were not cleaned up, which the next run tries again: {why}")


def _comparable(database: Database, dataset: Table) -> Table | None:
    """What is live now, where it holds the same kind of vectors: its files were looked at when it was published."""
    if database.live_version() is None:
        return None
    current = database.open("documents", version=LIVE)
    return current if read_fingerprint(current.schema) == read_fingerprint(dataset.schema) else None


def floors_of(settings: PublishSettings) -> gate.GateFloors:
    """What the gate asks of a version."""
    return gate.GateFloors(settings.min_self_retrieval, settings.min_recall, settings.gate_sample)


def _retention(settings: PublishSettings) -> live.Retention:
    return live.Retention(settings.keep_versions, settings.keep_days)
