"""Documents as two hashes each, in compact arrays: what scans are kept as, and what the corpus and the table share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.records import HASH_BYTES

# One hash as two unsigned integers, [rows, 2]; compared and sorted as a pair.
Hashes = NDArray[np.uint64]
# Which of some documents or rows.
Some = slice | NDArray[np.intp]
_Value = TypeVar("_Value", bound=np.generic)


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
    """

    ids: Hashes
    contents: Hashes

    def digest(self) -> bytes:
        """16 bytes that change with any document, and with their order."""
        state = hashlib.blake2b(self.ids.ravel().data, digest_size=HASH_BYTES)
        state.update(self.contents.ravel().data)
        return state.digest()

    def first(self, num_documents: int) -> ShardScan:
        """The first documents of the shard, at most so many, as views."""
        return ShardScan(self.ids[:num_documents], self.contents[:num_documents])
