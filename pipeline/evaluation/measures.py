"""Ranking measures, by ir-measures (pytrec_eval underneath): the numbers that papers report.

Knows ids and scores, not documents. Called by flows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import nDCG

from pipeline.errors import SettingsError

# query id -> document id -> relevance, or score
Qrels = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Mapping[str, float]]

# The main one first; named as ir-measures spells them. R@1 is what BRIGHT reports of long documents.
MEASURES = ("nDCG@10", "R@1", "R@10", "R@100", "RR@10")


def ndcg_at_10(rankings: Rankings, qrels: Qrels) -> float:
    """Mean nDCG@10 over the queries that have judgements, 0 to 1; a query without a ranking counts as 0.

    Args:
        rankings: Scores of the documents that were found.
        qrels: Judged relevance.
    """
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, rankings)[nDCG @ 10])


def per_query(rankings: Rankings, qrels: Qrels, measures: Sequence[str] = MEASURES) -> dict[str, dict[str, float]]:
    """Every measure of every judged query, each 0 to 1; a query without a ranking counts as 0.

    Args:
        rankings: Scores of the documents that were found; how many there are decides where a ranking ends.
        qrels: Judged relevance.
        measures: Names as ir-measures spells them.

    Raises:
        SettingsError: a measure is unknown.
    """
    parsed = {name: _parse(name) for name in measures}
    names = {measure: name for name, measure in parsed.items()}
    values = {query: dict.fromkeys(measures, 0.0) for query in qrels}
    # Ranks stand in for scores: the libraries underneath break ties each in a way of its own.
    found = {query: _by_rank(rankings[query]) for query in qrels if rankings.get(query)}
    judged = {query: dict(qrels[query]) for query in found}
    if found:
        for metric in ir_measures.iter_calc(list(names), judged, found):
            values[metric.query_id][names[metric.measure]] = float(metric.value)
    return values


def in_measured_order(scores: Mapping[str, float], top_k: int | None = None) -> list[tuple[str, float]]:
    """Documents and scores in the order in which trec_eval measures them, best first.

    trec_eval keeps scores in single precision, and of equal ones puts the greater id first, compared by bytes.

    Args:
        scores: Document id -> score.
        top_k: Keep so many; None for all.
    """
    ordered = sorted(scores.items(), key=lambda item: (np.float32(item[1]), item[0].encode()), reverse=True)
    return ordered[:top_k]


def in_given_order(scores: Mapping[str, float]) -> dict[str, float]:
    """The same documents in the same order, with scores that trec_eval measures in that order.

    A score that does not fall, in single precision, is lowered to the next number below the one before it; the others
    stay.

    Args:
        scores: Document id -> finite score, best first.
    """
    falling: dict[str, float] = {}
    above = np.float32(np.inf)
    for document, score in scores.items():
        if np.float32(score) >= above:
            score = float(np.nextafter(above, np.float32(-np.inf)))
        falling[document] = score
        above = np.float32(score)
    return falling


def _by_rank(scores: Mapping[str, float]) -> dict[str, float]:
    return {document: -float(rank) for rank, (document, _) in enumerate(in_measured_order(scores))}


def _parse(name: str) -> ir_measures.Measure:
    try:
        return ir_measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError) as error:
        raise SettingsError(
            f"there is no measure {name!r}; write it as ir-measures does, such as {', '.join(MEASURES)}"
        ) from error
