"""Documents as two hashes each, in compact arrays: what scans are kept as, and what the corpus and the table share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import HASH_BYTES

# One hash as two unsigned integers, [rows, 2]; compared and sorted as a pair.
Hashes = NDArray[np.uint64]
# Which of some documents or rows.
Some = slice | NDArray[np.intp]
_Value = TypeVar("_Value", bound=np.generic)

# What a scanner of a documents table is asked for instead of ids: Lance hashes where it reads, in a fifth of the time
# that Python takes for the same.
ID_HASH = "sha256(id)"


def as_id_hashes(column: pa.BinaryArray) -> Hashes:
    """What `records.id_hash` gives for each row of a column that was read as `ID_HASH`, [rows, 2]."""
    whole = as_hashes(fixed_bytes(column.cast(pa.binary(2 * HASH_BYTES))))
    return whole.reshape(len(column), 4)[:, :2]


def fixed_bytes(column: pa.FixedSizeBinaryArray) -> memoryview:
    """The values of a column of fixed width, one after the other."""
    width = column.type.byte_width
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]


def as_hashes(raw: bytes | memoryview) -> Hashes:
    """Concatenated 16-byte hashes as [rows, 2]."""
    return np.frombuffer(raw, dtype=np.uint64).reshape(-1, HASH_BYTES // 8)


def pick(values: NDArray[_Value], at: Some) -> NDArray[_Value]:
    """`values[at]`, which takes seven times as long where a value is a hash; a view where `at` is a slice."""
    return values[at] if isinstance(at, slice) else values.take(at, axis=0)


@dataclass(frozen=True, slots=True)
class ShardScan:
    """The documents of one shard, in the order they are read.

    Attributes:
        ids: Hash of each document's id, [documents, 2].
        contents: Hash of each document's content, [documents, 2].
        offsets: `Document.offset` of each, int64 [documents]; None where they were not kept.
    """

    ids: Hashes
    contents: Hashes
    offsets: NDArray[np.int64] | None = None

    def digest(self) -> bytes:
        """16 bytes that change with any document, and with their order."""
        state = hashlib.sha256(self.ids.ravel().data)
        state.update(self.contents.ravel().data)
        return state.digest()[:HASH_BYTES]

    def first(self, num_documents: int) -> ShardScan:
        """The first documents of the shard, at most so many, as views."""
        return self.take(slice(num_documents))

    def take(self, at: Some) -> ShardScan:
        """Some of the documents, in this order."""
        offsets = None if self.offsets is None else pick(self.offsets, at)
        return ShardScan(pick(self.ids, at), pick(self.contents, at), offsets)
