"""Several rankings of one query become one, by reciprocal rank fusion.

Pure. Called by searches that join words and vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.store.search import Hit

# Cormack, Clarke and Büttcher, SIGIR 2009.
RRF_K = 60
# Documents of each ranking that are fused, however many are wanted: deeper rankings would change the first ten, and
# what is measured over a thousand would not be what a search for ten finds.
DEPTH = 1_000


def fuse(rankings: Sequence[Sequence[Hit]], *, top_k: int, k: int = RRF_K) -> list[Hit]:
    """The documents with the highest sum of 1 / (k + rank), best first; ties by id.

    Args:
        rankings: Each best first, a document at most once in each; the first that has a document gives its chunk.
        top_k: Documents wanted, >= 1.
        k: How much the first ranks count over later ones, > 0.
    """
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.id] = scores.get(hit.id, 0.0) + 1.0 / (k + rank)
            hits.setdefault(hit.id, hit)
    best = sorted(scores, key=lambda id: (-scores[id], id))[:top_k]
    return [replace(hits[id], score=scores[id]) for id in best]
