"""One commit at a time, exactly once: every version this project makes goes through a `Writer`.

A commit whose outcome is unknown (the store took it and the answer was lost, or neither) is looked up in the table's
own history before it is tried again: each transaction carries its run's id, its number in the run, and the fencing
token of the run's lease. A run that lost its table is kept out twice: `confirm` asks the lease before each commit, and
the run that took over has put a `Restore` into the history (`fence`), with which Lance refuses whatever was begun
before it.

Called by `commit`, `live` and `lease`'s users; knows nothing of rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

import lance
from lance.commit import CommitConflictError

from pipeline.errors import LeaseLost, StorageError
from pipeline.retry import Clock, Failure, Patience, classify, is_transient, retrying
from pipeline.storage import lance_options, redact

_log = logging.getLogger(__name__)

RUN_KEY, COMMIT_KEY, TOKEN_KEY = "t1.run_id", "t1.commit", "t1.token"
# How long a store may fail before the run gives up.
_PATIENCE = Patience(attempts=100, deadline_s=300.0)
_COMMIT_TIMEOUT = timedelta(seconds=120)


def _always() -> None:
    """Nothing to confirm: no lease is held."""


@dataclass(slots=True)
class Writer:
    """Who commits to one table.

    Attributes:
        uri: The table.
        run_id: Written into every transaction.
        token: The fencing token of the run's lease; 0 without one.
        confirm: Raises `LeaseLost` when the run may commit no more; called before each attempt.
        patience: How long a store may fail.
        clock: Time between attempts.
        num_commits: Versions made.
    """

    uri: str
    run_id: str
    token: int = 0
    confirm: Callable[[], None] = _always
    patience: Patience = _PATIENCE
    clock: Clock = field(default_factory=Clock)
    num_commits: int = field(default=0, init=False)

    def commit(self, operation: lance.LanceOperation.BaseOperation, *, read_version: int) -> lance.LanceDataset:
        """Makes a version, once.

        Args:
            operation: What changes; its data files are written already.
            read_version: The version it was made from; 0 when the table is to be created.

        Raises:
            LeaseLost: another run took the table over.
            StorageError: the store failed for longer than `patience`; nothing is half done.
        """
        key = {RUN_KEY: self.run_id, COMMIT_KEY: str(self.num_commits), TOKEN_KEY: str(self.token)}
        transaction = lance.Transaction(read_version, operation, transaction_properties=key)
        numbers = count()

        def attempt() -> lance.LanceDataset:
            self.confirm()
            landed = self._landed(key, since=read_version) if next(numbers) else []
            dataset = landed[-1] if landed else self._try(transaction, key)
            return self._once(dataset, key, since=read_version)

        dataset = retrying(
            attempt, what=f"committing to {redact(self.uri)}", patience=self.patience, clock=self.clock,
            on_retry=lambda error: _log.warning("a commit did not go through and is tried again: %s", _sentence(error)),
        )  # fmt: skip
        self.num_commits += 1
        return dataset

    def _try(self, transaction: lance.Transaction, key: dict[str, str]) -> lance.LanceDataset:
        creates = isinstance(transaction.operation, lance.LanceOperation.Overwrite)
        try:
            # no attempts of Lance's own: one would go on to a later version when another's commit came first
            return lance.LanceDataset.commit(
                self.uri, transaction, storage_options=lance_options(self.uri), max_retries=0,
                enable_stable_row_ids=True if creates else None, commit_timeout=_COMMIT_TIMEOUT,
            )  # fmt: skip
        except CommitConflictError as error:
            if "Incompatible transaction" in str(error) and not self._landed(key, since=transaction.read_version):
                raise self._taken_over(error) from error
            raise _busy(error) from error
        except (OSError, RuntimeError) as error:
            # whether it landed or not, the next attempt looks; only what waiting cannot mend ends the run
            if classify(error) in (Failure.FULL, Failure.REFUSED):
                raise
            if self._is_gone(transaction.read_version):
                raise self._taken_over(error) from error
            raise _busy(error) from error

    def _taken_over(self, error: Exception) -> LeaseLost:
        return LeaseLost(
            f"another run has taken {redact(self.uri)} over: {_sentence(error)}; nothing of this commit was written; "
            "`t1 status` says who holds it"
        )

    def _is_gone(self, version: int) -> bool:
        """Whether a version that was there is not any more, which only another run's upkeep can have done."""
        try:
            latest = lance.dataset(self.uri, storage_options=lance_options(self.uri))
            return 0 < version < latest.version and version not in {int(v["version"]) for v in latest.versions()}
        except (ValueError, OSError):
            return False

    def _once(self, dataset: lance.LanceDataset, key: dict[str, str], *, since: int) -> lance.LanceDataset:
        """The version as it is when this commit has landed once; taken back to it where it landed twice."""
        if dataset.version == since + 1:
            return dataset
        landed = self._landed(key, since=since)
        if len(landed) < 2:
            return dataset
        first = landed[0]
        _log.warning("commit %s landed %d times; version %d is restored", key[COMMIT_KEY], len(landed), first.version)
        between = range(int(first.version) + 1, int(dataset.version) + 1)
        if len(landed) - 1 != len(between):
            raise StorageError(
                f"a commit to {redact(self.uri)} landed twice, with another program's between; run `t1 rollback` and "
                "then the same command again"
            )
        undo_key = key | {COMMIT_KEY: f"undo-{key[COMMIT_KEY]}"}
        undo = lance.LanceOperation.Restore(int(first.version))
        return self._try(lance.Transaction(int(dataset.version), undo, transaction_properties=undo_key), undo_key)

    def _landed(self, key: dict[str, str], *, since: int) -> list[lance.LanceDataset]:
        """The versions after `since` that this commit made, oldest first."""
        options = lance_options(self.uri)
        try:
            latest = lance.dataset(self.uri, storage_options=options)
        except (ValueError, OSError) as error:
            if "was not found" in str(error) or "Not found" in str(error):
                return []  # there is no table yet
            raise  # not knowing is no reason to commit again
        found = [v for v in range(since + 1, int(latest.version) + 1) if read_key(latest, v) == key]
        return [lance.dataset(self.uri, version=v, storage_options=options) for v in found]


def fence(writer: Writer, dataset: lance.LanceDataset) -> lance.LanceDataset:
    """Makes the latest version anew, so that Lance refuses every commit that was begun before it.

    For a run that took the table over from one that may only be paused: an `Append`, `Delete`, `CreateIndex` or
    `Rewrite` that read an older version is incompatible with a `Restore` since, whenever it arrives. And for every
    version that is to be published: upkeep deletes the versions between two that were live, a fence among them, and
    with what is live for a fence it cannot matter for how long a run was paused.
    """
    version = int(dataset.version)
    return writer.commit(lance.LanceOperation.Restore(version), read_version=version)


def fenced_version(dataset: lance.LanceDataset) -> int | None:
    """The version that a fence made anew; None where this version is not one."""
    version = int(dataset.version)
    transaction = retrying(lambda: _read_transaction(dataset, version), what=f"reading how version {version} was made")
    operation = transaction.operation if transaction is not None else None
    return int(operation.version) if isinstance(operation, lance.LanceOperation.Restore) else None


def _read_transaction(dataset: lance.LanceDataset, version: int) -> lance.Transaction | None:
    """What made a version; None where that is not kept, or is a compaction that pylance (14.0) cannot show."""
    try:
        return dataset.read_transaction(version)
    except TypeError:
        return None  # it wrote indexes anew; no commit of a `Writer` does


def read_key(dataset: lance.LanceDataset, version: int) -> dict[str, str]:
    """Run id, number and token of the transaction behind a version; empty where it says nothing or is gone.

    Raises:
        OSError, ValueError: the store failed in a way that may pass, so that nothing is known.
    """
    try:
        transaction = _read_transaction(dataset, version)
    except (OSError, ValueError) as error:
        if is_transient(error):
            raise
        return {}
    properties = (transaction.transaction_properties or {}) if transaction is not None else {}
    return {name: properties[name] for name in (RUN_KEY, COMMIT_KEY, TOKEN_KEY) if name in properties}


def _busy(error: Exception) -> OSError:
    """The same failure as one that is worth another attempt."""
    return ConnectionError(_sentence(error))


def _sentence(error: BaseException) -> str:
    """What Lance said, without the place in its source."""
    return redact(str(error).partition("\n")[0].partition(", /")[0])
