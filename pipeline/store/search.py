"""Exact nearest neighbours in a published version.

Every vector is compared; there is no index to be wrong. Knows vectors, not queries: `flows.search` encodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TableError
from pipeline.store.filters import to_lance

_COLUMNS = ["id", "chunk", "title", "text", "metadata", "shard"]


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
        score: Cosine of query and chunk, -1 to 1.
    """

    id: str
    chunk: int
    title: str
    text: str
    metadata: str
    shard: str
    score: float


def nearest(
    dataset: lance.LanceDataset, vector: NDArray[np.float32], *, top_k: int, where: str | None = None
) -> list[Hit]:
    """The documents whose best chunk is nearest to a query's vector, best first.

    Args:
        dataset: A version of the documents table.
        vector: float32 [dim], unit length.
        top_k: Documents wanted, >= 1; fewer come back when the table or the filter holds fewer.
        where: SQL over the columns and `metadata.NAME`; only rows that pass are considered.

    Raises:
        TableError: the filter does not parse, or names a column that is not there.
    """
    wanted = top_k
    while True:
        # several chunks of one document may be among the nearest: ask for more until there are enough documents
        rows = _query(dataset, vector, limit=wanted, where=where)
        hits = _best_chunks(rows)
        if len(hits) >= top_k or len(rows) < wanted:
            return hits[:top_k]
        wanted *= 4


def _query(
    dataset: lance.LanceDataset, vector: NDArray[np.float32], *, limit: int, where: str | None
) -> list[dict[str, Any]]:
    search = {"column": "vector", "q": vector, "k": limit, "metric": "cosine", "use_index": False}
    predicate = to_lance(where) if where else None
    try:
        rows: list[dict[str, Any]] = dataset.to_table(
            columns=[*_COLUMNS, "_distance"], nearest=search, filter=predicate, prefilter=True
        ).to_pylist()
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


def _rank(row: dict[str, Any]) -> tuple[float, str, int]:
    """Nearest first; ties by id and chunk, so that the same question always gets the same answer."""
    return row["_distance"], row["id"], row["chunk"]


def _best_chunks(rows: list[dict[str, Any]]) -> list[Hit]:
    seen: set[str] = set()
    hits = []
    for row in sorted(rows, key=_rank):
        if row["id"] not in seen:
            seen.add(row["id"])
            fields = {name: row[name] for name in _COLUMNS}
            fields["metadata"] = fields["metadata"] or "{}"
            hits.append(Hit(**fields, score=1.0 - float(row["_distance"])))
    return hits
