"""Judged collections to measured modes: the flow behind `t1 eval`. No Ray; searching is handed in.

BRIGHT's procedure (arXiv 2407.12883): rank every document, drop those that a query excludes, keep the best 1,000,
measure nDCG@10 with pytrec_eval on binary judgements, mean over queries. BEIR's excludes the document of the query's
own id and no other. Of equal scores pytrec_eval puts the greater id first; a ranking that has settled its ties itself,
as a fused one, is measured in its own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pipeline import __version__
from pipeline.corpus.collections import Collection, find_collections, hash_qrels, hash_queries
from pipeline.errors import CorpusError, SettingsError
from pipeline.evaluation.compare import compare_modes, mean_by_collection, mean_over_collections
from pipeline.evaluation.measures import MEASURES, in_given_order, in_measured_order, per_query
from pipeline.evaluation.results import Evaluation, QueryResult, ShownHit
from pipeline.flows.eval_outputs import Outputs, check_outputs, write_outputs, write_run
from pipeline.records import Query
from pipeline.store.search import Hit

__all__ = ["Collection", "Found", "Outputs", "Searching", "evaluate", "find_collections", "write_outputs"]

TOP_K = 1_000
_NUM_SHOWN = 10
_SHOWN_CHARS = 600


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found.

    Attributes:
        hits: Best first, one a document.
        is_ordered: The order of the hits counts, also among equal scores; else scores alone.
        seconds: Of searching, without reasoning.
        trajectory: What was written about the query; "" where the mode does not reason.
        reasoning_tokens: Tokens of it.
        fell_back: The mode reasons, and this query was searched without.
    """

    hits: Sequence[Hit]
    seconds: float = 0.0
    trajectory: str = ""
    reasoning_tokens: int = 0
    fell_back: bool = False
    is_ordered: bool = False


class Searching(Protocol):
    """A table that answers in several modes."""

    def search(self, queries: list[Query], mode: str, top_k: int) -> list[Found]:
        """The best documents of each query, `top_k` beside those that it excludes."""

    def facts(self) -> Mapping[str, Any]:
        """What answered: number of documents, version of the table, fingerprints."""


def evaluate(
    collections: Sequence[Collection],
    open_searching: Callable[[Collection], Searching],
    *,
    modes: Sequence[str],
    measures: Sequence[str] = MEASURES,
    top_k: int = TOP_K,
    outputs: Outputs | None = None,
) -> Evaluation:
    """Measures every mode on every collection.

    Args:
        collections: From `find_collections`.
        open_searching: The table of a collection's documents; asked once a collection.
        modes: The first is what the others are compared with.
        measures: Names as ir-measures spells them, the main one first.
        top_k: Documents of a ranking that count, after the excluded ones are dropped.
        outputs: What is written on the way; every place is tried before the first table is opened.

    Raises:
        SettingsError: no mode or no measure, or an unknown one.
        CorpusError: a collection has no query that is judged.
        StorageError: an output cannot be written.
    """
    if not modes or not measures or len(set(modes)) < len(modes):
        raise SettingsError(f"modes {list(modes)}, measures {list(measures)}; expected at least one of each, once")
    per_query({}, {}, measures)  # a misspelt one is said before anything is searched
    outputs = outputs or Outputs()
    judged = [_judged(collection) for collection in collections]
    check_outputs(outputs)
    results: list[QueryResult] = []
    facts: dict[str, dict[str, Any]] = {}
    for collection, (queries, qrels) in zip(collections, judged, strict=True):
        searching = open_searching(collection)
        facts[collection.name] = _facts(collection, queries, qrels) | dict(searching.facts())
        for mode in modes:
            found = searching.search(queries, mode, top_k)
            rankings = {q.id: _ranking(q, f, top_k) for q, f in zip(queries, found, strict=True)}
            values = per_query(rankings, qrels, measures)
            rows = [
                _result((collection.name, mode), q, f, rankings[q.id], values[q.id], qrels[q.id])
                for q, f in zip(queries, found, strict=True)
            ]
            results += rows
            write_run(outputs, collection.name, mode, rankings)
            mean = sum(row.measures[measures[0]] for row in rows) / len(rows)
            outputs.say(f"{collection.name}: {mode}: {measures[0]} {mean:.4f} over {len(rows)} queries")
    return _summary(results, facts, modes=modes, measures=measures, top_k=top_k)


def _judged(collection: Collection) -> tuple[list[Query], dict[str, dict[str, int]]]:
    qrels = collection.qrels()
    queries = [query for query in collection.queries() if query.id in qrels]
    if not queries:
        raise CorpusError(f"no query of {collection.name} is judged; expected the same ids in queries and judgements")
    asked = {query.id for query in queries}
    if missing := sorted(set(qrels) - asked):
        raise CorpusError(f"{collection.name} has judgements of {len(missing)} queries that are not there, such as "
                          f"{missing[0]!r}; expected the queries that belong to these judgements")  # fmt: skip
    return queries, qrels


def _ranking(query: Query, found: Found, top_k: int) -> dict[str, float]:
    excluded = set(query.excluded_ids)
    scores: dict[str, float] = {}
    for hit in found.hits:
        if hit.id not in excluded:
            scores[hit.id] = max(hit.score, scores.get(hit.id, hit.score))
    if found.is_ordered:
        return in_given_order(dict(list(scores.items())[:top_k]))
    return dict(in_measured_order(scores, top_k))


def _result(
    source: tuple[str, str], query: Query, found: Found, ranking: Mapping[str, float], values: Mapping[str, float],
    judged: Mapping[str, int],
) -> QueryResult:  # fmt: skip
    collection, mode = source
    first = {hit.id: hit for hit in reversed(found.hits)}
    shown = [first[name] for name in list(ranking)[:_NUM_SHOWN]]
    return QueryResult(
        collection, query.id, query.text, mode, dict(values),
        hits=tuple(
            ShownHit(hit.id, hit.title, hit.text[:_SHOWN_CHARS], ranking[hit.id], judged.get(hit.id)) for hit in shown
        ),
        seconds=found.seconds, trajectory=found.trajectory, reasoning_tokens=found.reasoning_tokens,
        fell_back=found.fell_back,
    )  # fmt: skip


def _facts(collection: Collection, queries: Sequence[Query], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    return {
        "num_queries": len(queries),
        "num_judgements": sum(len(found) for found in qrels.values()),
        "queries_hash": hash_queries(queries),
        "qrels_hash": hash_qrels(qrels),
        "revision": collection.revision,
        "is_long": collection.is_long,
        "task": collection.task,
    }


def _summary(
    results: Sequence[QueryResult], facts: Mapping[str, Mapping[str, Any]], *, modes: Sequence[str],
    measures: Sequence[str], top_k: int,
) -> Evaluation:  # fmt: skip
    costs, means = {}, mean_by_collection(results, measures)
    for mode in modes:
        rows = [row for row in results if row.mode == mode]
        num = max(len(rows), 1)
        costs[mode] = {
            "seconds_a_query": sum(row.seconds for row in rows) / num,
            "reasoning_tokens_a_query": sum(row.reasoning_tokens for row in rows) / num,
            "num_fell_back": sum(row.fell_back for row in rows),
        }
    return Evaluation(
        tuple(measures), tuple(modes), facts, tuple(results),
        comparisons=compare_modes(results, modes=modes, measure=measures[0]),
        means=means, mean_over_collections=mean_over_collections(means, measures), costs=costs,
        facts={"at": datetime.now(UTC).isoformat(timespec="seconds"), "package_version": __version__, "top_k": top_k},
    )  # fmt: skip
