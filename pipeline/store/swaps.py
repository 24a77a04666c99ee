"""Changes of a small table that many programs write at once, none of them with a lease.

A change that only adds is a strict compare-and-swap: planned from the latest version, it becomes the version right
after it, or nothing. Lance lets one `Append` follow another whatever the version it was made from, but refuses a
`Merge` of the whole list of fragments after any other change. A change that takes rows away, and perhaps writes them
anew, is an `Update`: refused after another one of the same fragments, so no row is written anew twice. A plan that was
refused is made again from the version that was in the way, so it sees what others wrote. Files of a refused change
belong to no version; Lance's cleaning removes them when they are a week old.

Knows nothing of what the rows mean; called by `trajectories`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from pipeline.errors import StorageError, TableError
from pipeline.retry import Clock, Failure, Patience, classify, retrying
from pipeline.storage import lance_options, redact
from pipeline.store.database import Database

_log = logging.getLogger(__name__)
_SWAP_KEY = "t1.swap"
# Each attempt that is refused means that somebody else's went through.
_PATIENCE = Patience(attempts=1_000, deadline_s=300.0, first_wait_s=0.05, max_wait_s=2.0)
_LANCE_ERRORS = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Change:
    """What a version is to be made of.

    Attributes:
        written: New fragments.
        num_rows: Rows that this changes, for the caller to count.
        marked: Fragments of the version before in which more rows are marked as deleted.
        removed: Numbers of fragments of the version before that are left out.
    """

    written: list[FragmentMetadata]
    num_rows: int
    marked: list[FragmentMetadata] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


# The change that a version still needs; None where it needs none.
Plan = Callable[[lance.LanceDataset], Change | None]


@dataclass(frozen=True, slots=True)
class Swapper:
    """Changes one table.

    Attributes:
        database: Where the table is.
        table: Its name.
        schema: Its columns; the table is made with them when it is absent.
        patience: How long a store may fail, or others be faster.
        clock: Time between attempts.
    """

    database: Database
    table: str
    schema: pa.Schema
    patience: Patience = _PATIENCE
    clock: Clock = field(default_factory=Clock)

    @property
    def uri(self) -> str:
        """Where the table lies."""
        return self.database.table_uri(self.table)

    def open(self) -> lance.LanceDataset | None:
        """The latest version; None where there is no table yet.

        Raises:
            TableError: the table has other columns.
            StorageError: the store refused.
        """
        try:
            dataset = self.database.open(self.table)
        except TableError:
            return None
        if dataset.schema.names != self.schema.names:
            raise TableError(
                f"{redact(self.uri)} has the columns {', '.join(dataset.schema.names)}; expected "
                f"{', '.join(self.schema.names)}; it was made by another release, so move it away"
            )
        return dataset

    def write(self, rows: pa.Table | pa.RecordBatchReader) -> list[FragmentMetadata]:
        """Writes rows to files that belong to no version yet."""
        written = write_fragments(rows, self.uri, schema=self.schema, storage_options=lance_options(self.uri))
        return list(written)

    def change(self, plan: Plan) -> int:
        """Changes the table until the plan asks for nothing more.

        Args:
            plan: Asked again for each version that it is to be tried on; must ask for nothing once its change is there.

        Returns:
            Rows changed by this call.

        Raises:
            StorageError: the store failed for longer than `patience`; nothing is half done.
        """
        attempt = _Attempts(self, plan)
        retrying(
            attempt.run, what=f"writing to {redact(self.uri)}", patience=self.patience, clock=self.clock,
            on_retry=lambda error: _log.info("a change did not go through and is tried again: %s", error),
        )  # fmt: skip
        return attempt.num_rows

    def try_change(self, plan: Plan) -> bool:
        """One attempt at a change that can wait, such as tidying; False where somebody or something was in the way."""
        try:
            _Attempts(self, plan).run()
        except (*_LANCE_ERRORS, StorageError) as error:
            _log.info("a change that can wait did not go through: %s", error)
            return False
        return True

    def create(self) -> lance.LanceDataset:
        """The latest version of the table, made without rows if there was none."""
        dataset = self.open()
        if dataset is not None:
            return dataset
        transaction = lance.Transaction(0, lance.LanceOperation.Overwrite(self.schema, []))
        return _commit(self.uri, transaction)


@dataclass(slots=True)
class _Attempts:
    """The attempts at one change, and what is known of them."""

    swapper: Swapper
    plan: Plan
    num_rows: int = 0
    # the first version that an attempt with an unknown outcome may have made, its name and its rows
    _unknown: tuple[int, str, int] | None = None

    def run(self) -> None:
        dataset = self.swapper.create()
        while True:
            self._settle(dataset)
            change = self.plan(dataset)
            if change is None:
                return
            made = self._commit(dataset, change)
            latest = self.swapper.create()
            if latest.version == made.version:
                return
            # somebody was faster since; or, after a pause so long that versions were cleaned away, ours was written
            # behind theirs and is not seen: the plan tells
            dataset = latest

    def _commit(self, dataset: lance.LanceDataset, change: Change) -> lance.LanceDataset:
        name, version = secrets.token_hex(8), int(dataset.version)
        operation = _operation(dataset, change)
        transaction = lance.Transaction(version, operation, transaction_properties={_SWAP_KEY: name})
        self._unknown = (version + 1, name, change.num_rows)
        made = _commit(self.swapper.uri, transaction)
        self._unknown = None
        self.num_rows += change.num_rows
        return made

    def _settle(self, dataset: lance.LanceDataset) -> None:
        """Finds out whether an attempt that ended in an error took effect all the same."""
        if self._unknown is None:
            return
        first, name, num_rows = self._unknown
        made_by = [dataset.read_transaction(version) for version in range(first, int(dataset.version) + 1)]
        self._unknown = None
        if any(made is not None and (made.transaction_properties or {}).get(_SWAP_KEY) == name for made in made_by):
            self.num_rows += num_rows


def _commit(uri: str, transaction: lance.Transaction) -> lance.LanceDataset:
    """The version after the one that the transaction was made from; a failure is worth another look."""
    try:
        return lance.LanceDataset.commit(uri, transaction, storage_options=lance_options(uri), max_retries=0)
    except _LANCE_ERRORS as error:
        if classify(error) in (Failure.FULL, Failure.REFUSED):
            raise
        # conflicts and unknown outcomes alike: the next attempt reads what is there
        raise ConnectionError(redact(str(error).partition("\n")[0].partition(", /")[0])) from error


def _operation(dataset: lance.LanceDataset, change: Change) -> lance.LanceOperation.BaseOperation:
    if change.marked or change.removed:
        return lance.LanceOperation.Update(change.removed, change.marked, change.written)
    kept = [fragment.metadata for fragment in dataset.get_fragments()]
    numbers = count(1 + max((fragment.id for fragment in kept), default=-1))
    for fragment in change.written:
        fragment.id = next(numbers)
    return lance.LanceOperation.Merge([*kept, *change.written], dataset.lance_schema)
