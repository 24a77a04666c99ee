"""Parquet -> rows, a bounded number of bytes at a time.

Arrow's values become Python's; what JSON and documents make of them is decided in `rows`. Called by `read`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpus.rows import Row, rejected
from pipeline.corpus.streams import open_stream
from pipeline.records import Reason, Rejected, Shard

_BATCH_BYTES = 8 * 2**20
_MAX_BATCH_ROWS = 1_024
# Read through a small buffer per column, not whole column chunks: a row group may be larger than memory allows.
_BUFFER_BYTES = 2**20


def read_parquet(shard: Shard, *, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Row] | Rejected]:
    """The rows of a shard, each with its number in the file.

    Args:
        shard: Of format PARQUET; `start` and `end` count row groups.
        columns: Read only these, where they exist; None for all.

    Raises:
        CorpusError: the file is not there.
        StorageError: the store refused.
    """
    row_number = 0
    with open_stream(shard.uri) as stream:
        if not stream.peek(1):  # type: ignore[attr-defined]
            return
        try:
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            groups = range(shard.start, file.num_row_groups if shard.end is None else shard.end)
            row_number = sum(file.metadata.row_group(index).num_rows for index in range(shard.start))
            for batch in _batches(file, groups, columns):
                for row in _rows(batch):
                    yield row_number, row
                    row_number += 1
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            detail = f"the Parquet data is damaged ({' '.join(str(error).split())[:300]})"
            yield rejected(shard.uri, offset=row_number, reason=Reason.UNREADABLE, detail=detail)


def is_damage(error: Exception) -> bool:
    """True for what Arrow raises at bytes that do not decode, false for what a store raises."""
    # Arrow raises bare OSErrors too; stores raise subclasses of it, or give an errno.
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _batches(file: Any, groups: range, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    kept = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
    for index in groups:
        group = file.metadata.row_group(index)
        row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        num_rows = min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES // row_bytes))
        yield from file.iter_batches(num_rows, row_groups=[index], columns=kept, use_threads=False)


def _rows(batch: pa.RecordBatch) -> Iterator[Row]:
    if not batch.num_columns:
        return ({} for _ in range(batch.num_rows))
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _values(column: Any) -> list[Any]:
    """Python values of a column; what cannot be converted at once is converted cell by cell."""
    if isinstance(column.type, pa.DictionaryType):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        return _timestamps(column)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return (
            [_decode(value) for value in column.cast(pa.large_binary()).to_pylist()]
            if _is_string(column.type)
            else _cells(column)
        )
    except (ValueError, OverflowError, pa.ArrowException):
        return _cells(column)


def _is_string(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type))


def _decode(value: bytes | None) -> str | None:
    # Bytes that are no UTF-8 become surrogates, which `rows` rejects: the one bad row, and not its batch.
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _timestamps(column: Any) -> list[str | None]:
    """ISO 8601, through Arrow: Python's datetime has no nanoseconds and no years past 9999."""
    return [None if text is None else text.replace(" ", "T", 1) for text in pc.cast(column, pa.string()).to_pylist()]


def _cells(column: Any) -> list[Any]:
    return [_cell(scalar) for scalar in column]


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return _part_by_part(scalar)


def _part_by_part(scalar: Any) -> Any:
    """What Python cannot hold: lists and structs with the rest of them intact, times as the number that is stored."""
    if isinstance(scalar, pa.StructScalar):
        return {field.name: _cell(scalar[index]) for index, field in enumerate(scalar.type)}
    if isinstance(scalar, (pa.ListScalar, pa.FixedSizeListScalar)):
        return _cells(scalar.values)
    if isinstance(scalar, (pa.StringScalar, pa.StringViewScalar)):
        return _decode(scalar.as_buffer().to_pybytes())
    inner = getattr(scalar, "value", None)
    return _cell(inner) if isinstance(inner, pa.Scalar) else inner
