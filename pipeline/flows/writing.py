"""One writer a database: what every flow that commits or moves `live` does first.

Called by the index flow and by `publish`, and `check_token` by what commits in a task.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pipeline.errors import LeaseLost
from pipeline.storage import redact
from pipeline.store.database import Database
from pipeline.store.lease import Lease, read_lease
from pipeline.store.transactions import Writer, fence

Say = Callable[[str], None]


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


def check_token(database: Database, token: int, *, undone: str) -> None:
    """Makes sure in a task, where a lease cannot travel, that its run still holds it.

    Args:
        database: Whose lease.
        token: Of the run.
        undone: What the run has not done where it does not, as a clause.

    Raises:
        LeaseLost: another run holds it, or nobody does.
    """
    holder = read_lease(database)
    if holder is None or holder.token != token:
        raise LeaseLost(f"another run has taken {redact(database.uri)} over; {undone} by this one")
