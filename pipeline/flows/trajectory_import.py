"""Rows of files -> rows of the cache of trajectories: those generated elsewhere, and those it exported itself.

Called by `trajectory_cache`; knows nothing of tables' versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus.jsonl import read_jsonl
from pipeline.corpus.parquet import read_parquet
from pipeline.errors import CorpusError
from pipeline.fingerprint import imported_reasoner, imported_sampling, trajectory_key
from pipeline.prompts import TASK_NOUNS
from pipeline.records import FinishReason, Format, Rejected, Shard, Trajectory
from pipeline.storage import redact
from pipeline.store.schema import TRAJECTORIES
from pipeline.store.trajectories import Cached
from pipeline.store.trajectory_rows import to_rows

_QUERY_NAMES = ("text", "query", "question", "contents")
_TRAJECTORY_NAME = "trajectory"
_MAX_LINE_BYTES = 64 * 2**20

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class ImportFields:
    """Which column holds what.

    Attributes:
        source: What the trajectories are known by, such as a model's name; not needed for an export of the cache.
        trajectory: Column of the trajectory; "trajectory" when None, and no other: "reasoning" is what BRIGHT's
            examples call the explanation that an annotator wrote knowing the gold documents.
        query: Column of the query; detected when None.
        task: Task of every row; when None that of the row's column `task`, else the one that the file's name begins
            with.
    """

    source: str | None = None
    trajectory: str | None = None
    query: str | None = None
    task: str | None = None


def count_tokens_with(load: Callable[[], Callable[[Sequence[str]], list[list[int]]]]) -> CountTokens:
    """Counts tokens with a tokenizer that is loaded when there is something to count."""
    loaded = cache(load)
    return lambda texts: [len(ids) for ids in loaded()(texts)]


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of files, and makes rows of the cache of them.

    Attributes:
        fields: Which column holds what.
        count_tokens: Counts the tokens of trajectories.
    """

    fields: ImportFields
    count_tokens: CountTokens

    def read(self, shards: Sequence[Shard]) -> Iterator[Cached | dict[str, Any]]:
        """Every row of the files: `Cached` without its number of tokens, or a row of an export.

        Raises:
            CorpusError: a row cannot be read or lacks something; names the file and the row.
        """
        for shard in shards:
            for offset, row in _rows(shard):
                place = f"{redact(shard.uri)}, {'row' if shard.format is Format.PARQUET else 'byte'} {offset}"
                if set(TRAJECTORIES.names) <= set(row):
                    yield _exported(row, place)
                else:
                    yield self._imported(row, place, shard.uri)

    def table(self, rows: Sequence[Cached | dict[str, Any]]) -> pa.Table:
        """Rows in the columns of the cache."""
        made = [row for row in rows if isinstance(row, Cached)]
        exported = [row for row in rows if isinstance(row, dict)]
        table = to_rows(made)
        if made:
            counts = self.count_tokens(table["trajectory"].to_pylist())
            field = TRAJECTORIES.field("num_tokens")
            table = table.set_column(table.schema.get_field_index(field.name), field, pa.array(counts, field.type))
        return pa.concat_tables([table, pa.Table.from_pylist(exported, schema=TRAJECTORIES)])

    def _imported(self, row: Mapping[str, Any], place: str, uri: str) -> Cached:
        if not self.fields.source:
            raise CorpusError(f"{place}: not a row of an exported cache; say with --source who generated it")
        query = _text(row, [self.fields.query] if self.fields.query else _QUERY_NAMES, place, may_be_blank=False)
        text = _text(row, [self.fields.trajectory or _TRAJECTORY_NAME], place, may_be_blank=True)
        task = self.fields.task
        if task is None:
            task = row["task"] if isinstance(row.get("task"), str) else task_of_name(uri)
        reasoner = imported_reasoner(self.fields.source).fingerprint
        sampling = imported_sampling(task)
        key = trajectory_key(query, reasoner=reasoner, sampling=sampling, sample=0)
        finish = FinishReason.STOP if text else FinishReason.EMPTY
        return Cached(Trajectory(key, query, task, text, 0, finish, reasoner, self.fields.source, sampling))


def task_of_name(uri: str) -> str:
    """The task that a file's name begins with, the longest one; "" for none.

    >>> task_of_name("/data/earth-science.queries.jsonl")
    'earth_science'
    """
    name = uri.rsplit("/", 1)[-1].lower().replace("-", "_")
    return max((task for task in TASK_NOUNS if name.startswith(task)), key=len, default="")


def _rows(shard: Shard) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if shard.format not in (Format.PARQUET, Format.JSONL):
        raise CorpusError(
            f"{redact(shard.uri)} is {shard.format.value}; expected JSON lines (.jsonl, .ndjson, .json) or "
            "Parquet (.parquet); of a folder that holds others, give a glob such as FOLDER/*.jsonl"
        )
    items = read_parquet(shard) if shard.format is Format.PARQUET else read_jsonl(shard, max_line_bytes=_MAX_LINE_BYTES)
    for item in items:
        if isinstance(item, Rejected):
            raise CorpusError(f"{redact(shard.uri)} at {item.offset} cannot be read: {item.detail}")
        yield item


def _text(row: Mapping[str, Any], names: Sequence[str], place: str, *, may_be_blank: bool) -> str:
    values = [row[name] for name in names if isinstance(row.get(name), str)]
    text = next((value.strip() for value in values if value.strip()), "")
    if not text and not (may_be_blank and any(name in row for name in names)):
        raise CorpusError(
            f"{place}: no text in {' or '.join(names)}; found the columns {', '.join(map(str, row))}; name the right "
            f"one with {'--field' if may_be_blank else '--query-field'}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{place}: the text holds lone surrogates, which UTF-8 cannot store") from error
    return text


def _exported(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    made = {name: row[name] for name in TRAJECTORIES.names}
    try:
        created_at = datetime.fromisoformat(str(made["created_at"]))
        FinishReason(made["finish_reason"])
        key = trajectory_key(
            made["query"], reasoner=made["reasoner"], sampling=made["sampling"], sample=int(made["sample"])
        )
        made["created_at"] = created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)
        made["vector"] = None if made["vector"] is None else np.asarray(made["vector"], np.float32)
        pa.Table.from_pylist([made], schema=TRAJECTORIES)  # a value of another kind is said with its row
    except (TypeError, ValueError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise CorpusError(f"{place}: not a row of an exported cache ({error})") from error
    if key != made["key"]:
        raise CorpusError(f"{place}: the key is {made['key']!r}, expected {key}; the row was changed since its export")
    return made
