"""A database folder and its tables: `URI/{documents,trajectories,quarantine,runs}.lance`, as lancedb lays them out.

Knows where tables are and how to open a version; not what is in them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import count

import lance
import pyarrow as pa

from pipeline.errors import StorageError, TableError
from pipeline.retry import retrying
from pipeline.storage import is_local, join, lance_options, normalise, open_filesystem, redact, remove_file
from pipeline.store.schema import read_fingerprint

LIVE = "live"
# Names what one `append` wrote, so that it can be looked up; how many versions back that is done.
_APPEND_KEY = "t1.append"
_LOOK_BACK = 8
# A table at one version.
Table = lance.LanceDataset


@dataclass(frozen=True, slots=True)
class Database:
    """A folder of tables; holds only its URI, so it travels to any worker."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> Database:
        """The database at a path or URI, which need not exist yet."""
        return cls(normalise(uri))

    def table_uri(self, table: str) -> str:
        """Where a table lies."""
        return join(self.uri, f"{table}.lance")

    @property
    def documents_uri(self) -> str:
        """Where the documents table lies."""
        return self.table_uri("documents")

    def open(self, table: str, *, version: int | str | None = None) -> lance.LanceDataset:
        """A version of a table: a number, a tag such as `live`, or the latest.

        Raises:
            TableError: there is no such table or version.
            StorageError: the store refused.
        """
        uri = self.table_uri(table)
        try:
            return retrying(
                lambda: lance.dataset(uri, version=version, storage_options=lance_options(uri)), what=f"opening {uri}"
            )
        except (ValueError, OSError) as error:
            raise _explain(error, uri, version) from error

    def exists(self, table: str) -> bool:
        """Whether a table has at least one version."""
        try:
            self.open(table)
        except TableError:
            return False
        return True

    def live_version(self) -> int | None:
        """The version that readers see, or None before the first publish."""
        if not self.exists("documents"):
            return None
        tags = retrying(self.open("documents").tags.list, what=f"reading the tags of {redact(self.documents_uri)}")
        return int(tags[LIVE]["version"]) if LIVE in tags else None

    def open_fingerprint(self, fingerprint: str) -> lance.LanceDataset | None:
        """The version that a run with this encoder goes on from; None when it has to start without rows.

        The latest version when it holds such vectors; else what readers see, so that another encoder, begun and given
        up, costs nothing of what is published.
        """
        if not self.exists("documents"):
            return None
        latest = self.open("documents")
        if read_fingerprint(latest.schema) == fingerprint:
            return latest
        version = self.live_version()
        live = self.open("documents", version=version) if version is not None else latest
        return live if read_fingerprint(live.schema) == fingerprint else None

    def check_writable(self) -> None:
        """Writes and removes a small file, so that a store that refuses is found before any work is done.

        Raises:
            StorageError: the folder cannot be written.
        """
        fs, path = open_filesystem(self.uri)
        name = ".t1-write-probe"
        try:
            if is_local(self.uri):
                fs.makedirs(path, exist_ok=True)
            retrying(lambda: fs.pipe_file(join(path, name), b"t1"), what=f"writing to {self.uri}")
            retrying(lambda: remove_file(join(self.uri, name)), what=f"writing to {self.uri}")
        except StorageError:
            raise
        except Exception as error:
            # every file system raises errors of its own here; whichever it is, the run must not start
            reason = redact(str(error)) or type(error).__name__
            raise StorageError(
                f"cannot write to {redact(self.uri)}: {reason}; check the path, the bucket and the credentials in "
                "the environment"
            ) from error

    def append(self, table: str, rows: pa.Table) -> None:
        """Adds rows to a small table of records (quarantine, runs), made when absent."""
        if rows.num_rows == 0:
            return
        uri, attempts = self.table_uri(table), count()
        name = {_APPEND_KEY: secrets.token_hex(8)}

        def attempt() -> None:
            exists = self.exists(table)
            # an attempt whose answer was lost may have landed
            if next(attempts) and exists and _holds(self.open(table), name):
                return
            mode = "append" if exists else "create"
            options = lance_options(uri)
            lance.write_dataset(rows, uri, mode=mode, storage_options=options, transaction_properties=name)

        retrying(attempt, what=f"writing to {uri}")


def _holds(dataset: lance.LanceDataset, name: dict[str, str]) -> bool:
    """Whether one of the newest versions was made by the transaction of this name."""
    newest = int(dataset.version)
    made_by = (dataset.read_transaction(version) for version in range(newest, max(0, newest - _LOOK_BACK), -1))
    return any(transaction is not None and transaction.transaction_properties == name for transaction in made_by)


def _explain(error: Exception, uri: str, version: int | str | None) -> TableError | StorageError:
    text = str(error).partition("\n")[0].partition(", /")[0]  # without the place in Lance's source
    place = redact(uri)
    absent = "was not found" in text or "Not found" in text
    if absent and isinstance(version, int):
        return TableError(f"{place} has no version {version}; `t1 status` says what is there")
    if absent:
        return TableError(f"no table at {place}; run `t1 index --corpus ... --db ...` first, or check --db")
    if "tag" in text and "does not exist" in text:
        if version == LIVE:
            return TableError(f"{place} has no published version yet; a run of `t1 index` that ends well publishes one")
        return TableError(f"{place} has no version tagged {version!r}; `t1 status` says what is there")
    return StorageError(f"cannot open {place}: {redact(text)}")
