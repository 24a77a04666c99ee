"""Which keys a version holds: how many documents, and whether an (id, chunk) comes twice.

Read from ids and chunk numbers alone, without an index and without a Python object an id. Called by the gate, and by
the index flow while indexes are built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.retry import retrying

_BATCH_ROWS = 65_536
_WORD_BYTES = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Two independent 64-bit hashes of an id stand for it. Not cryptographic ones: who makes two ids collide has his own
# version refused, where the comparison with the corpus (`records.id_hash`) would lose a document.
SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """What the keys of some rows are.

    Attributes:
        num_rows: Chunks.
        num_documents: Distinct ids.
        num_repeated: Rows whose (id, chunk) is there already.
        rows_digest: Names the rows that were read.
    """

    num_rows: int
    num_documents: int
    num_repeated: int
    rows_digest: str

    def is_of(self, dataset: lance.LanceDataset) -> bool:
        """Whether a version has exactly the rows that were read, whatever its indexes are."""
        return self.rows_digest == _digest_rows(dataset)


def count_keys(dataset: lance.LanceDataset) -> KeyCounts:
    """Counts the keys of a version; takes 20 bytes a row."""
    return retrying(lambda: _count_keys(dataset), what=f"counting the keys of version {dataset.version}")


def _count_keys(dataset: lance.LanceDataset) -> KeyCounts:
    first: list[Words] = []
    second: list[Words] = []
    chunk: list[NDArray[np.int32]] = []
    for batch in dataset.to_batches(columns=["id", "chunk"], batch_size=_BATCH_ROWS):
        for hashes, seed in zip((first, second), SEEDS, strict=True):
            hashes.append(fold_strings(batch.column("id"), seed=seed))
        chunk.append(batch.column("chunk").to_numpy())
    digest = _digest_rows(dataset)
    if not first:
        return KeyCounts(0, 0, 0, digest)
    one, two, numbers = np.concatenate(first), np.concatenate(second), np.concatenate(chunk)
    num_documents, num_repeated = _count_distinct(one, two), 0
    if num_documents < len(one):  # else no id has two rows, and none repeats
        num_repeated = len(one) - _count_distinct(one + numbers.astype(np.uint64) * _GOLDEN, two)
    return KeyCounts(len(one), num_documents, num_repeated, digest)


def _digest_rows(dataset: lance.LanceDataset) -> str:
    """Changes with any row: of the files and the deleted rows of every fragment."""
    known = (fragment.metadata.to_json() for fragment in dataset.get_fragments())
    parts = sorted(json.dumps([f["id"], f["files"], f["overlays"], f["deletion_file"]], sort_keys=True) for f in known)
    return hashlib.sha256("\n".join([dataset.uri, *parts]).encode()).hexdigest()


def _count_distinct(one: Words, two: Words) -> int:
    """Distinct pairs: sorted by the first word, and by the second only where the first is shared."""
    ordered = np.sort(one)
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return len(one)
    order = np.argsort(one)
    shared = np.zeros(len(one), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    among = np.unique(np.column_stack([ordered[shared], two[order[shared]]]), axis=0)
    return len(one) - int(shared.sum()) + len(among)


def fold_strings(column: pa.StringArray, *, seed: np.uint64) -> Words:
    """A 64-bit hash of each string, uint64 [rows]: its UTF-8 in words of eight bytes, each mixed into what was before.

    Args:
        column: Without nulls.
        seed: Another one gives another hash.
    """
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    begin, length = bounds[:-1], np.diff(bounds)
    # any eight bytes can be read as a word, those past the end too
    padded = np.zeros((data.size if data is not None else 0) + _WORD_BYTES, np.uint8)
    padded[:-_WORD_BYTES] = np.frombuffer(data, np.uint8) if data is not None else 0
    words = np.ndarray((len(padded) - _WORD_BYTES + 1,), "<u8", buffer=padded.data, strides=(1,))
    state = _mix(length.astype(np.uint64) ^ seed)
    rows = np.flatnonzero(length > 0)
    for at in range(0, int(length.max(initial=0)), _WORD_BYTES):
        rows = rows[length[rows] > at]
        left = np.minimum(length[rows] - at, _WORD_BYTES).astype(np.uint64)
        word = words[begin[rows] + at] & (~np.uint64(0) >> (np.uint64(64) - left * np.uint64(8)))
        state[rows] = _mix((state[rows] ^ word) * _GOLDEN + seed)
    return state


def _mix(word: Words) -> Words:
    """Every bit of a word comes to depend on every other: the finaliser of MurmurHash3 (A. Appleby, public domain)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ (word >> np.uint64(33))) * np.uint64(factor)
    return word ^ (word >> np.uint64(33))
