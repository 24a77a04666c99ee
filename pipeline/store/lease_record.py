"""What is written down about a lease: who holds it, and the one way to change that.

The record is the schema metadata of the latest version of `lease.lance`, a table without rows; so Lance's own commit is
the compare-and-swap, on a disk and in an object store alike. Knows nothing of waiting or renewing; called by `lease`
and `lease_holder`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

import lance
import pyarrow as pa

from pipeline.errors import StorageError, TableError
from pipeline.storage import lance_options, redact
from pipeline.store.database import Database

TABLE = "lease"
HELD = "held"
RELEASED = "released"

_KEY = b"t1.lease"
_KEPT_VERSIONS = 50
# What Lance raises: OSError (CommitConflictError among them), and the others where a version to build on is gone.
_LANCE_ERRORS = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One state of a lease. Holds no secret: anybody who may read the database may read it.

    Attributes:
        claim: Random, one for each acquisition; how a holder knows its own writes again.
        run_id: Of the holder.
        host: Its machine's name.
        pid: Its process.
        process_start: When that process began, as `lease_holder.process_start` gives it; "" if unknown.
        machine: Where its process id means something, as `lease_holder.machine_id` gives it; "" if unknown.
        token: Number of the version with which it was acquired; grows from holder to holder.
        acquired_at: Seconds since 1970, by the holder's clock; for people to read, never to decide by.
        renewed_at: The same, of the last renewal.
        ttl_s: Seconds without renewal after which others may take it.
        state: `HELD` or `RELEASED`.
        ended_well: False where a run released it because of an error.
    """

    claim: str
    run_id: str
    host: str
    pid: int
    process_start: str
    machine: str
    token: int
    acquired_at: float
    renewed_at: float
    ttl_s: float
    state: str = HELD
    ended_well: bool = True


def read_record(database: Database) -> tuple[int, LeaseRecord | None]:
    """The latest version and its record; 0 and None before the first.

    Raises:
        StorageError: the store refused.
        TableError: there is a table of that name which is no lease.
    """
    try:
        dataset = database.open(TABLE)
    except TableError:
        return 0, None
    text = (dataset.schema.metadata or {}).get(_KEY)
    if text is None:
        place = redact(database.table_uri(TABLE))
        raise TableError(f"{place} was expected to be the lease of this database and is another table; move it away")
    values = json.loads(text)
    known = {field.name for field in fields(LeaseRecord)}  # a later release may write more
    return int(dataset.version), LeaseRecord(**{name: value for name, value in values.items() if name in known})


def swap_record(database: Database, record: LeaseRecord, *, read_version: int) -> int | None:
    """Writes a record if the latest version still is `read_version`.

    What the commit answers is not believed, either way: an error may hide a write that took effect, and a write beside
    versions that were already cleaned away may take effect behind the latest one. What the latest version says decides.

    Returns:
        The new version's number; None when somebody else was faster.

    Raises:
        StorageError: the store refused, and nothing is known to have changed.
    """
    uri = database.table_uri(TABLE)
    schema = pa.schema([pa.field("holder", pa.string())], metadata={_KEY: json.dumps(asdict(record)).encode()})
    transaction = lance.Transaction(read_version, lance.LanceOperation.Overwrite(schema, []))
    failure: Exception | None = None
    try:
        # without retries an overwrite becomes the version after the one it read, or fails
        lance.LanceDataset.commit(uri, transaction, storage_options=lance_options(uri), max_retries=0)
    except _LANCE_ERRORS as error:
        failure = error
    version, latest = read_record(database)
    if latest is not None and latest.claim == record.claim and version > read_version:
        if latest.state == record.state:
            return version
        # an earlier write of this holder, given up for lost, took effect after all
        return swap_record(database, record, read_version=version)
    if version != read_version:
        return None
    reason = redact(str(failure).partition("\n")[0].partition(", /")[0]) if failure else "it does not show what it took"
    raise StorageError(
        f"cannot write {redact(uri)}: {reason}; check the store and the credentials in the environment"
    ) from failure


def clean_records(database: Database) -> None:
    """Removes all but the latest records; by number, because the clocks of their writers may differ. Never fails."""
    with suppress(StorageError, TableError, *_LANCE_ERRORS):
        database.open(TABLE).cleanup_old_versions(retain_versions=_KEPT_VERSIONS)
