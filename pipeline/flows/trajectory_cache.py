"""What is in the cache of trajectories, out of it and into it, for `t1 cache`.

Loads no weights and starts no Ray. Called by the command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import IO, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.locate import locate
from pipeline.errors import SettingsError, StorageError, TableError
from pipeline.flows.trajectory_import import ImportFields, RowReader, count_tokens_with
from pipeline.model.checkpoint import resolve
from pipeline.model.tokenizer import load_tokenizer
from pipeline.records import FinishReason
from pipeline.retry import explain
from pipeline.settings import ModelSettings
from pipeline.storage import normalise, open_filesystem, redact
from pipeline.store.database import LIVE, Database
from pipeline.store.schema import TRAJECTORIES, read_encoder
from pipeline.store.trajectories import TABLE, TrajectoryCache
from pipeline.store.trajectory_rows import prune_condition

_PERCENTILES = (50, 90, 99)
_STATS_COLUMNS = ("task", "num_tokens", "finish_reason", "reasoner", "source", "sampling", "vector", "created_at")
_IMPORT_ROWS = 2_048
_SHOWN_CHARS = 12


def cache_stats(db: str) -> dict[str, Any]:
    """What the cache holds, in all and by reasoner, source and sampling settings.

    Raises:
        TableError: there is no cache at this place.
    """
    database, cache = _open(db)
    columns = [name for name in _STATS_COLUMNS if name != "vector"]
    batches = list(cache.batches(columns=columns))
    schema = pa.schema([TRAJECTORIES.field(name) for name in columns])
    rows = pa.Table.from_batches([batch.select(columns) for batch in batches], schema=schema).to_pandas()
    groups = [
        dict(zip(("reasoner", "source", "sampling"), key, strict=True)) | _describe(group)
        for key, group in rows.groupby(["reasoner", "source", "sampling"], sort=True)
    ]
    return {"db": redact(database.uri), "size_bytes": cache.size_bytes(), **_describe(rows), "by_reasoner": groups}


def export_cache(db: str, out: str, *, reasoner: str | None = None) -> dict[str, Any]:
    """Writes the rows of the cache to a file, a batch at a time.

    Args:
        db: Folder or URI of the database.
        out: A `.jsonl` or `.parquet` file, local or in a store; "-" for JSON lines on stdout.
        reasoner: Only this reasoner's; its fingerprint, or how that begins.

    Raises:
        TableError: there is no cache at this place.
        SettingsError: `out` is of another kind, or no trajectory is of this reasoner.
    """
    database, cache = _open(db)
    if out != "-" and not out.endswith((".jsonl", ".parquet")):
        raise SettingsError(f"cannot tell how to write {redact(out)}; expected a name in .jsonl or .parquet, or -")
    where = None if reasoner is None else prune_condition(reasoners=_fingerprints(cache, [reasoner]))
    batches = cache.batches(where=where)
    if out == "-":
        num_rows = _write_lines(batches, sys.stdout.buffer)
    else:
        num_rows = _write_whole(normalise(out), _write_lines if out.endswith(".jsonl") else _write_parquet, batches)
    return {"db": redact(database.uri), "out": redact(out), "rows": num_rows}


def prune_cache(
    db: str,
    *,
    reasoners: Sequence[str] = (),
    keep_reasoners: Sequence[str] = (),
    finish_reasons: Sequence[str] = (),
    older_than_days: float | None = None,
) -> dict[str, Any]:
    """Deletes the rows that meet every condition that is given.

    Raises:
        SettingsError: no condition is given, or a fingerprint is none of those that are there: to keep what is not
            there alone would delete everything.
        TableError: there is no cache at this place.
    """
    database, cache = _open(db)
    where = prune_condition(
        reasoners=_fingerprints(cache, reasoners),
        keep_reasoners=_fingerprints(cache, keep_reasoners),
        finish_reasons=[FinishReason(reason) for reason in finish_reasons],
        older_than=None if older_than_days is None else timedelta(days=older_than_days),
    )
    deleted = cache.prune(where)
    return {"db": redact(database.uri), "deleted": deleted, "rows": cache.count()}


def import_trajectories(
    db: str, sources: Sequence[str], *, fields: ImportFields, tokenizer: str | None = None
) -> dict[str, Any]:
    """Adds trajectories that were generated elsewhere, or that `export_cache` wrote. Doing it again adds nothing.

    Args:
        db: Folder or URI of the database.
        sources: Files, folders or globs of JSON lines or Parquet.
        fields: Which column holds what, and what is known of all rows.
        tokenizer: Model whose tokens are counted; the table's when None, or the default model's where there is none.

    Raises:
        CorpusError: a row is none, or lacks a text; names the file and the row.
        ModelError: the tokenizer is not there.
    """
    database = Database.at(db)
    database.check_writable()
    cache = TrajectoryCache(database)
    model = ModelSettings(model=tokenizer) if tokenizer else _table_model(database)
    reader = RowReader(fields, count_tokens=count_tokens_with(lambda: _load_tokenizer(model)))
    rows = reader.read(locate(list(sources)))
    num_read = num_added = 0
    while batch := list(islice(rows, _IMPORT_ROWS)):
        num_read += len(batch)
        num_added += cache.add_rows(reader.table(batch))
    return {
        "db": redact(database.uri), "read": num_read, "added": num_added, "present": num_read - num_added,
        "tokenizer": model.model, "rows": cache.count(),
    }  # fmt: skip


def _open(db: str) -> tuple[Database, TrajectoryCache]:
    database = Database.at(db)
    if not database.exists(TABLE):
        raise TableError(
            f"no trajectories at {redact(database.uri)}; `t1 reason` and `t1 cache import` make some, or check --db"
        )
    return database, TrajectoryCache(database)


def _fingerprints(cache: TrajectoryCache, named: Sequence[str]) -> list[str]:
    """The reasoners of the cache whose fingerprints are named, or begin so."""
    if not named:
        return []
    there = sorted({name for batch in cache.batches(columns=["reasoner"]) for name in batch["reasoner"].to_pylist()})
    found = []
    for name in named:
        like = [name] if name in there else [known for known in there if name and known.startswith(name)]
        if len(like) != 1:
            shown = ", ".join(known[:_SHOWN_CHARS] for known in like or there) or "none at all"
            what = f"begins the fingerprints of {len(like)} reasoners" if like else "is no reasoner's fingerprint here"
            raise SettingsError(f"{name!r} {what}; found {shown}; `t1 cache stats` says whose they are")
        found += like
    return found


def _table_model(database: Database) -> ModelSettings:
    if database.live_version() is None:
        return ModelSettings()
    return ModelSettings.model_validate_json(read_encoder(database.open("documents", version=LIVE).schema))


def _load_tokenizer(model: ModelSettings) -> Callable[[Sequence[str]], list[list[int]]]:
    checkpoint = resolve(model.model, revision=model.revision, adapter=None, allow_remote_code=model.allow_remote_code)
    return load_tokenizer(checkpoint.folder).encode


def _describe(rows: Any) -> dict[str, Any]:
    tokens = rows["num_tokens"].to_numpy()
    usable = (rows["finish_reason"] == FinishReason.STOP).mean() if len(rows) else 0.0
    return {
        "rows": len(rows),
        "finish_reasons": {str(k): int(v) for k, v in rows["finish_reason"].value_counts().sort_index().items()},
        "usable": round(float(usable), 4),
        "tokens": {"mean": round(float(tokens.mean()), 1)}
        | {f"p{p}": int(np.percentile(tokens, p, method="inverted_cdf")) for p in _PERCENTILES}
        if len(rows)
        else {},
        "tasks": {str(k): int(v) for k, v in rows["task"].value_counts().sort_index().items()},
        "oldest": rows["created_at"].min().isoformat() if len(rows) else None,
        "newest": rows["created_at"].max().isoformat() if len(rows) else None,
    }


def _write_whole(
    uri: str, write: Callable[[Iterator[pa.RecordBatch], IO[bytes]], int], batches: Iterator[pa.RecordBatch]
) -> int:
    """Writes a file under a name of its own and renames it, so that what is cut off is never taken for an export."""
    fs, path = open_filesystem(uri)
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/.{uuid4().hex}.{name}"
    try:
        with fs.open(partial, "wb") as file:
            num_rows = write(batches, file)
        fs.mv(partial, path)
    except OSError as error:
        raise StorageError(explain(error, f"writing {uri}")) from error
    finally:
        with suppress(OSError):  # where it was not renamed
            fs.rm(partial)
    return num_rows


def _write_lines(batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> int:
    num_rows = 0
    for batch in batches:
        for row in batch.to_pylist():
            line = row | {"created_at": row["created_at"].isoformat()}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        num_rows += batch.num_rows
    return num_rows


def _write_parquet(batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> int:
    num_rows = 0
    with pq.ParquetWriter(file, TRAJECTORIES) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]).cast(TRAJECTORIES))
            num_rows += batch.num_rows
    return num_rows
