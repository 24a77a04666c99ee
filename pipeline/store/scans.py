"""What earlier runs saw in each shard, so that a shard that has not changed is not read again.

A cache, keyed by everything that decides what a shard gives: where it is, the version its store tells, the field map,
the bounds, the readers. So a row that is found is right, whoever wrote it and whenever a run was killed; a row that is
not found, or damaged, costs a read. Knows nothing of readers or Ray; called by the index flow, in tasks but for
`list_scans`, which reads keys and counts only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import timedelta

import lance
import pyarrow as pa

from pipeline.errors import StorageError, TableError
from pipeline.records import HASH_BYTES, FieldMap, Shard
from pipeline.storage import join, lance_options, open_filesystem, redact
from pipeline.store.database import Database
from pipeline.store.hashes import ShardScan, as_hashes

_log = logging.getLogger(__name__)
# Raise it whenever a reader, or a hash in `records`, gives something else for the same bytes.
READER_VERSION = 2
_TABLE = "scans"
# Hashes do not compress; trying takes ten times as long as writing.
_PLAIN = {"lance-encoding:compression": "none"}
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(HASH_BYTES), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("num_documents", pa.int64(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("digest", pa.binary(HASH_BYTES), nullable=False),
        pa.field("ids", pa.large_binary(), nullable=False, metadata=_PLAIN),
        pa.field("contents", pa.large_binary(), nullable=False, metadata=_PLAIN),
    ]
)
# Files that runs have appended, at which they become one.
_MAX_FRAGMENTS = 32
# Rows named in one delete.
_DELETE_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class KnownScan:
    """What is known of a shard without its hashes.

    Attributes:
        row: Place in the version of the table that was listed.
        num_documents: Documents it gives.
        rejected: Reason -> rows that are no documents.
    """

    row: int
    num_documents: int
    rejected: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NewScan:
    """One shard's result, to be stored.

    Attributes:
        key: As `scan_key` gives it.
        uri: The shard's, for a person who looks into the table.
        scan: Its documents.
        rejected: Reason -> rows that are no documents.
    """

    key: bytes
    uri: str
    scan: ShardScan
    rejected: Mapping[str, int]


def scan_key(shard: Shard, fields: FieldMap, *, max_text_chars: int) -> bytes:
    """16 bytes that stand for all that decides what a shard gives; b"" where its store tells no version."""
    if not shard.version:
        return b""
    known = (READER_VERSION, max_text_chars, astuple(fields), astuple(shard))
    return hashlib.blake2b(repr(known).encode("utf-8", "surrogateescape"), digest_size=HASH_BYTES).digest()


def list_scans(database: Database) -> tuple[int, dict[bytes, KnownScan]]:
    """The version of the table, and what it knows, by key; nothing where there is no table or none that can be read."""
    try:
        dataset = database.open(_TABLE)
        rows = dataset.to_table(columns=["key", "num_documents", "rejected"]).to_pylist()
        known = {
            row["key"]: KnownScan(place, row["num_documents"], json.loads(row["rejected"]))
            for place, row in enumerate(rows)
        }
    except TableError:
        return 0, {}
    except (StorageError, OSError, ValueError, KeyError) as error:
        _log.warning("%s cannot be read, so every shard is: %s", _place(database), _first_line(error))
        return 0, {}
    return int(dataset.version), known


def load_scans(database: Database, version: int, rows: Sequence[int]) -> list[ShardScan | None]:
    """The hashes of some rows of a version that `list_scans` named; None for each that is gone or damaged."""
    try:
        dataset = database.open(_TABLE, version=version)
        found = dataset.take(list(rows), columns=["digest", "ids", "contents"])
    except (TableError, StorageError, OSError, ValueError) as error:
        _log.warning("%s cannot be read, so its shards are: %s", _place(database), _first_line(error))
        return [None] * len(rows)
    return [_checked(*values) for values in zip(*map(_as_views, found.columns), strict=True)]


def _as_views(column: pa.ChunkedArray) -> list[memoryview]:
    """The bytes of each row, which are not copied."""
    return [memoryview(value.as_buffer()) for value in column]


def _checked(digest: memoryview, ids: memoryview, contents: memoryview) -> ShardScan | None:
    if len(ids) != len(contents) or len(ids) % HASH_BYTES:
        return None
    scan = ShardScan(as_hashes(ids), as_hashes(contents))
    return scan if scan.digest() == digest.tobytes() else None


def store_scans(database: Database, new: Iterable[NewScan], *, wanted: set[bytes]) -> None:
    """Adds scans, and drops every row that is not wanted; leaves one version of the table and few files.

    Nothing depends on it: a table that cannot be written is made anew, and what still fails is said and let be.

    Args:
        database: Whose table is written.
        new: Scans that are not in it; taken one by one, so that few need be in memory.
        wanted: Keys that stay.
    """
    try:
        dataset = _drop_stale(database, wanted)
        reader = pa.RecordBatchReader.from_batches(_SCHEMA, map(_as_batch, new))
        uri = database.table_uri(_TABLE)
        mode = "create" if dataset is None else "append"
        dataset = lance.write_dataset(reader, uri, mode=mode, storage_options=lance_options(uri))
        if len(dataset.get_fragments()) > _MAX_FRAGMENTS:
            dataset.optimize.compact_files()
        # whoever reads an older version at this moment reads the shards instead
        dataset.cleanup_old_versions(timedelta(0))
    except (StorageError, OSError, ValueError) as error:
        _log.warning("%s cannot be written, so the next run reads more: %s", _place(database), _first_line(error))


def _drop_stale(database: Database, wanted: set[bytes]) -> lance.LanceDataset | None:
    """The table without the rows that are not wanted, nor a row twice; None where there is no table now."""
    try:
        dataset = database.open(_TABLE)
        rows = dataset.to_table(columns=["key"], with_row_id=True)
        if not dataset.schema.equals(_SCHEMA):
            raise TableError("written by another version")
    except (TableError, StorageError, OSError, ValueError):
        fs, path = open_filesystem(database.table_uri(_TABLE))
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return None
    seen: set[bytes] = set()
    stale = []
    for key, row_id in zip(rows.column("key").to_pylist(), rows.column("_rowid").to_pylist(), strict=True):
        if key not in wanted or key in seen:
            stale.append(row_id)
        seen.add(key)
    for begin in range(0, len(stale), _DELETE_BATCH):
        dataset.delete(f"_rowid IN ({','.join(map(str, stale[begin : begin + _DELETE_BATCH]))})")
    return dataset


def _as_batch(new: NewScan) -> pa.RecordBatch:
    row = {
        "key": new.key,
        "uri": redact(new.uri).encode("utf-8", "replace").decode(),
        "num_documents": len(new.scan.ids),
        "rejected": json.dumps(dict(sorted(new.rejected.items()))),
        "digest": new.scan.digest(),
        "ids": new.scan.ids.tobytes(),
        "contents": new.scan.contents.tobytes(),
    }
    return pa.RecordBatch.from_pylist([row], schema=_SCHEMA)


def _place(database: Database) -> str:
    return redact(join(database.uri, f"{_TABLE}.lance"))


def _first_line(error: Exception) -> str:
    return redact(str(error).partition("\n")[0])
