"""What becomes of the documents and rows of one bucket: the comparison itself, the same wherever it is done.

Compact arrays are sorted and searched, never put into a Python set. Pure numpy; what the verdicts make together is
`diff`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store.buckets import PlacedDocuments, count_bits, group, in_order, join_documents, shards_of
from pipeline.store.hashes import Hashes, Some, pick
from pipeline.store.known import KnownRows, join_known

_Mask = NDArray[np.bool_]
_Positions = NDArray[np.intp]
# What is sorted and searched at once lies in a core's own cache, and its scratch is the scratch of the last: in one
# piece, two million entries take twice as long, most of it waiting for memory.
ENTRIES_AT_ONCE = 2**16
# Sorting and picking leave Python free, and a second core is seldom busy while a corpus is compared.
_THREADS = 2
# Words that differ in lower bits alone are not told apart by `_order`.
_UNSORTED = np.uint64(2**16)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one bucket says; places are `PlacedDocuments`'.

    Attributes:
        selected: Places of the documents to be encoded, uint64.
        duplicates: Places of the documents whose id stands before them, uint64.
        first_shards: For each of these, the shard that holds the first, int32 [duplicates].
        obsolete: Row ids to delete, uint64.
        num_unchanged: As `Plan` has them, and so the others.
        num_deleted: Of ids that are not in the corpus.
        num_changed: Of those selected.
        num_known: Distinct documents in the table.
    """

    selected: NDArray[np.uint64]
    duplicates: NDArray[np.uint64]
    first_shards: NDArray[np.int32]
    obsolete: NDArray[np.uint64]
    num_unchanged: int
    num_deleted: int
    num_changed: int
    num_known: int


def decide_bucket(
    parts: Sequence[PlacedDocuments],
    known: Sequence[KnownRows],
    *,
    delete_missing: bool,
    entries_at_once: int = ENTRIES_AT_ONCE,
) -> Verdict:
    """The comparison for some ids.

    Scratch: what the join copies, and eight bytes a document or row.

    Args:
        parts: All documents with these ids, in any order.
        known: All rows with these ids, in the table's order.
        delete_missing: Whether documents absent from the corpus are to disappear.
        entries_at_once: Documents and rows that are sorted at once, about.
    """
    documents, rows = in_order(join_documents(parts)), join_known(known)
    # by the other half than buckets go by, of which all these ids may share the beginning
    num_bits = count_bits(len(documents.ids) + len(rows.ids), entries_a_bucket=entries_at_once)
    few_documents, few_rows = group(documents.ids[:, 1], num_bits=num_bits), group(rows.ids[:, 1], num_bits=num_bits)

    def decide(some: Some, others: Some) -> Verdict:
        return _decide(documents.take(some), rows.take(others), delete_missing=delete_missing)

    if num_bits == 0:
        return decide(*few_documents, *few_rows)
    with ThreadPoolExecutor(_THREADS) as pool:
        return _join(list(pool.map(decide, few_documents, few_rows)))


def _join(verdicts: Sequence[Verdict]) -> Verdict:
    of_all = {part.name: [getattr(verdict, part.name) for verdict in verdicts] for part in fields(Verdict)}
    joined: dict[str, Any] = {
        name: sum(values) if isinstance(values[0], int) else np.concatenate(values) for name, values in of_all.items()
    }
    return Verdict(**joined)


def _decide(documents: PlacedDocuments, rows: KnownRows, *, delete_missing: bool) -> Verdict:
    """The comparison itself; documents are in the corpus's order, and rows in the table's."""
    num_documents = len(documents.ids)
    # the smallest position of each id: documents stand before rows, so it is the first document where there is one
    number, smallest = _number(documents.ids, rows.ids)
    of_document, of_row = number[:num_documents], number[num_documents:]
    in_corpus = smallest < num_documents
    in_table = _marked(of_row, len(smallest))

    first = _marked(smallest[in_corpus], num_documents)
    fits = in_corpus[of_row]
    there = np.flatnonzero(fits)
    wanted, found = pick(documents.contents, smallest[of_row[there]]), pick(rows.contents, there)
    # each half by itself: `all` along an axis of two takes ten times as long
    fits[there] = (wanted[:, 0] == found[:, 0]) & (wanted[:, 1] == found[:, 1])
    present = _marked(of_row[fits], len(smallest))

    select = first & ~present[of_document]
    num_known = int(in_table.sum())
    keep = fits | (~in_corpus[of_row] & (not delete_missing))
    if num_known < len(of_row):  # else no id has two rows, and none can repeat another
        key = (of_row.astype(np.uint64) << np.uint64(32)) | rows.chunks.astype(np.uint64)
        keep &= _first_of_each(key, rows.contents)
    return Verdict(
        selected=documents.places[select],
        duplicates=documents.places[~first],
        first_shards=shards_of(documents.places[smallest[of_document[~first]]]),
        obsolete=rows.row_ids[~keep],
        num_unchanged=int((first & present[of_document]).sum()),
        num_deleted=int((in_table & ~in_corpus).sum()) if delete_missing else 0,
        num_changed=int((in_table[of_document] & select).sum()),
        num_known=num_known,
    )


def _marked(positions: _Positions, length: int) -> _Mask:
    """True at these positions, of so many."""
    marked = np.zeros(length, np.bool_)
    marked[positions] = True
    return marked


def _number(documents: Hashes, rows: Hashes) -> tuple[_Positions, _Positions]:
    """A number for each id, 0 to distinct ids - 1, and the smallest position of each number; rows behind documents."""
    high, low = (np.concatenate([documents[:, half], rows[:, half]]) for half in (0, 1))
    order = _order(high)
    ordered, is_new = high[order], np.ones(len(high), np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]) | ~_repeats(low, order)[1:]
    if (is_new[1:] & ((ordered[1:] ^ ordered[:-1]) < _UNSORTED)).any():  # two ids that may lie mixed
        order = np.lexsort((low, high))
        is_new = ~(_repeats(high, order) & _repeats(low, order))
    starts = np.flatnonzero(is_new)
    number = np.empty(len(order), np.intp)
    number[order] = np.cumsum(is_new) - 1
    smallest = np.minimum.reduceat(order, starts) if len(starts) else np.empty(0, np.intp)
    return number, smallest


def _order(words: NDArray[np.uint64]) -> _Positions:
    """Hashes sorted by their first 48 bits, in a third of the time of `argsort`: numpy has a radix sort for 16 bits."""
    order = np.argsort((words >> np.uint64(16)).astype(np.uint16), kind="stable")
    for shift in (32, 48):
        order = order[np.argsort((words >> np.uint64(shift)).astype(np.uint16)[order], kind="stable")]
    return order


def _repeats(words: NDArray[np.uint64], order: _Positions) -> _Mask:
    """For each place of an order, whether it holds what the place before it holds."""
    ordered = words[order]
    repeats = np.zeros(len(order), np.bool_)
    repeats[1:] = ordered[1:] == ordered[:-1]
    return repeats


def _first_of_each(keys: NDArray[np.uint64], contents: Hashes) -> _Mask:
    """Whether each entry is the first with its key and content."""
    first = np.ones(len(keys), np.bool_)
    order = np.argsort(keys)
    repeats = _repeats(keys, order)
    if not repeats.any():  # as good as always
        return first
    repeats[:-1] |= repeats[1:]
    shared = np.sort(order[repeats])
    words = (contents[shared, 1], contents[shared, 0], keys[shared])
    by_all = np.lexsort(words)  # stable: equal entries stay in their order
    first[shared[by_all[np.logical_and.reduce([_repeats(word, by_all) for word in words])]]] = False
    return first
