"""Ranking measures, by ir-measures (pytrec_eval underneath): the numbers that papers report.

Knows ids and scores, not documents. Called by flows.
"""

from __future__ import annotations

from collections.abc import Mapping

import ir_measures
from ir_measures import nDCG

# query id -> document id -> relevance, or score
Qrels = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Mapping[str, float]]


def ndcg_at_10(rankings: Rankings, qrels: Qrels) -> float:
    """Mean nDCG@10 over the queries that have judgements, 0 to 1; a query without a ranking counts as 0.

    Args:
        rankings: Scores of the documents that were found.
        qrels: Judged relevance.
    """
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, rankings)[nDCG @ 10])
