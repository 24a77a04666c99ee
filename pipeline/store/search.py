"""Nearest neighbours and full-text matches in a published version.

Where a vector index is there it chooses the candidates, and their stored vectors decide: a score is always the exact
cosine. Rows that no index knows yet are compared one by one, and so is every row where there is no index or `exact` is
asked for. Knows vectors, not queries: `flows.search` encodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
from lance.query import CombinedFieldsQuery, FullTextQuery, MatchQuery
from numpy.typing import NDArray

from pipeline.errors import TableError
from pipeline.store.filters import to_lance
from pipeline.store.indexes import FULL_TEXT_COLUMNS, has_index

_COLUMNS = ["id", "chunk", "title", "text", "metadata", "shard"]
# Partitions read; more where a filter leaves too few rows in them. infra/bench/indexes.py: of 48, 5 are enough for a
# recall@10 of 0.99, and 20 cost milliseconds.
_MIN_PROBES = 20
_ROWS_A_PARTITION = 4_096
# So small a part of the rows that are read may be asked for, or partitions of uneven size could hold too few.
_ASKED_SHARE = 8
# Candidates an answer whose stored vectors are compared; 2 are enough for IVF_RQ and IVF_SQ, graphs and PQ want more.
_REFINE_FACTOR = 5
# Rows beyond the wanted that are fetched to see every one of equal score.
_MAX_TIES = 1_000

# The rows of a search of so many, best first, and the column that ranks them.
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found.

    Attributes:
        id: Its id.
        chunk: Number of its best chunk.
        title: May be empty.
        text: Of that chunk.
        metadata: JSON object as text.
        shard: Where the document came from.
        score: Cosine of query and chunk, -1 to 1; of `full_text`, BM25, above 0.
    """

    id: str
    chunk: int
    title: str
    text: str
    metadata: str
    shard: str
    score: float


def nearest(
    dataset: lance.LanceDataset,
    vector: NDArray[np.float32],
    *,
    top_k: int,
    where: str | None = None,
    exact: bool = False,
) -> list[Hit]:
    """The documents whose best chunk is nearest to a query's vector, best first.

    Args:
        dataset: A version of the documents table.
        vector: float32 [dim], unit length.
        top_k: Documents wanted, >= 1; fewer come back when the table or the filter holds fewer.
        where: SQL over the columns and `metadata.NAME`; only rows that pass are considered.
        exact: Compare every vector, index or none.

    Raises:
        TableError: the filter does not parse, or names a column that is not there.
    """
    uses_index = not exact and has_index(dataset, "vector")

    def fetch(limit: int) -> Rows:
        columns = [*_COLUMNS, "_distance"]
        search = nearest_arguments(dataset, vector, limit=limit, exact=not uses_index, filtered=where is not None)
        rows = _read(dataset, columns, where, nearest=search)
        if uses_index and len(rows) < limit:
            # there may be no more, or the index did not reach them
            rows = _read(dataset, columns, where, nearest=nearest_arguments(dataset, vector, limit=limit, exact=True))
        return rows

    hits = _best_chunks(fetch, top_k, lambda row: float(row["_distance"]))
    return [_hit(row, 1.0 - float(row["_distance"])) for row in hits]


def nearest_arguments(
    dataset: lance.LanceDataset, vector: NDArray[np.float32], *, limit: int, exact: bool, filtered: bool = False
) -> dict[str, Any]:
    """How Lance is asked for the nearest rows; also what the gate measures."""
    search = {"column": "vector", "q": vector, "k": limit, "metric": "cosine", "use_index": not exact}
    if exact:
        return search
    # the share of partitions that hold the nearest shrinks as they grow in number, their count grows
    probes = max(_MIN_PROBES, math.isqrt(dataset.count_rows() // _ROWS_A_PARTITION))
    search |= {"minimum_nprobes": probes, "refine_factor": _REFINE_FACTOR}
    if not filtered and limit * _REFINE_FACTOR <= probes * _ROWS_A_PARTITION // _ASKED_SHARE:
        # without a bound, each segment that a night added is read on until it alone fills the answer
        search["maximum_nprobes"] = probes
    return search


def full_text(dataset: lance.LanceDataset, query: str, *, top_k: int, where: str | None = None) -> list[Hit]:
    """The documents whose best chunk shares the most telling words with a query (BM25), best first.

    Title and text of a chunk are one field (BM25F, k1 1.2, b 0.75), and a word that the query repeats counts once,
    which is what long questions want. Tables whose titles are not indexed, as older ones, are searched by text alone,
    and there Lance counts a word as often as the query has it.

    Args:
        dataset: A version of the documents table, with a full-text index.
        query: Words; nothing in it is syntax.
        top_k: Documents wanted, >= 1; fewer come back when fewer share a word.
        where: As in `nearest`.

    Raises:
        TableError: there is no full-text index, or the filter cannot be used.
    """
    if not has_index(dataset, "text"):
        raise TableError(
            f"version {dataset.version} has no full-text index; index again with indexes.full_text = true in the "
            "settings file"
        )

    asked: FullTextQuery = MatchQuery(query, "text")
    if has_index(dataset, "title"):
        asked = CombinedFieldsQuery(query, list(FULL_TEXT_COLUMNS))

    def fetch(limit: int) -> Rows:
        return _read(dataset, [*_COLUMNS, "_score"], where, full_text_query=asked, limit=limit)

    hits = _best_chunks(fetch, top_k, lambda row: -float(row["_score"]))
    return [_hit(row, float(row["_score"])) for row in hits]


def _read(dataset: lance.LanceDataset, columns: list[str], where: str | None, **search: Any) -> Rows:
    predicate = to_lance(where) if where else None
    try:
        rows: Rows = dataset.to_table(columns=columns, filter=predicate, prefilter=True, **search).to_pylist()
    except (ValueError, OSError) as error:
        if predicate is None:
            raise
        # as the person wrote it, and without the place in Lance's source
        reason = str(error).replace(predicate, str(where)).partition("\n")[0].partition(", /")[0]
        raise TableError(
            f"the filter {where!r} cannot be used: {reason}; write SQL over id, title, text, shard, num_tokens and "
            "metadata.NAME"
        ) from error
    return rows


def _best_chunks(fetch: Callable[[int], Rows], top_k: int, cost: Callable[[dict[str, Any]], float]) -> Rows:
    """The best row of each of `top_k` documents; ties by id and chunk, so that the same question gets the same answer.

    Several chunks of one document may be among the best, and rows of equal score beyond the last one fetched: it asks
    for more until there are enough documents and no tie is cut, or a great many ties are.
    """
    limit = top_k + 1
    while True:
        rows = sorted(fetch(limit), key=lambda row: (cost(row), row["id"], row["chunk"]))
        first: dict[str, dict[str, Any]] = {}
        for row in rows:
            first.setdefault(row["id"], row)
        best = list(first.values())[:top_k]
        if len(rows) < limit:
            return best
        cuts_tie = cost(best[-1]) == cost(rows[-1]) and limit <= top_k + _MAX_TIES
        if len(best) == top_k and not cuts_tie:
            return best
        limit *= 4


def _hit(row: dict[str, Any], score: float) -> Hit:
    fields = {name: row[name] for name in _COLUMNS}
    fields["metadata"] = fields["metadata"] or "{}"
    return Hit(**fields, score=score)
