"""What an evaluation found, as plain data: made by the flow, drawn by the report, stored as rows.

Knows nothing of models, tables or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ShownHit:
    """One hit as a reader of the report sees it.

    Attributes:
        id: Of the document.
        title: May be empty.
        text: The beginning of its best chunk.
        score: As the mode ranks: cosine, BM25, or reciprocal rank.
        relevance: As judged; None where nobody judged it.
    """

    id: str
    title: str
    text: str
    score: float
    relevance: int | None = None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query of one collection in one mode.

    Attributes:
        collection: Name of the collection or task.
        query_id: Unique in the collection.
        query: Its text.
        mode: "bm25", "plain", "reasoned" or "hybrid".
        measures: Name -> value, 0 to 1; names as ir-measures spells them, such as "nDCG@10".
        hits: The first ten.
        seconds: Of searching, without reasoning.
        trajectory: What was written about it before it was embedded; "" where the mode does not reason.
        reasoning_tokens: Tokens of the trajectory.
        fell_back: The mode reasons, and this query was searched without, as its trajectory came to nothing.
    """

    collection: str
    query_id: str
    query: str
    mode: str
    measures: Mapping[str, float]
    hits: tuple[ShownHit, ...] = ()
    seconds: float = 0.0
    trajectory: str = ""
    reasoning_tokens: int = 0
    fell_back: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two modes on the same queries of one collection, by one measure.

    Attributes:
        collection: Its name; "" for all together.
        measure: Its name.
        baseline: A mode.
        mode: Another.
        difference: Mean of mode minus baseline.
        p_value: Two-sided, paired.
        num_queries: Queries compared.
        better: Of them, how many gained.
        worse: How many lost.
        corrected_p_value: By Holm, over all comparisons that are reported together.
    """

    collection: str
    measure: str
    baseline: str
    mode: str
    difference: float
    p_value: float
    num_queries: int
    better: int
    worse: int
    corrected_p_value: float = 1.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation.

    Attributes:
        measures: Names, the main one first.
        modes: In the order asked for.
        collections: Name -> facts: documents, queries, judgements, hashes of each, revision, version of the table,
            fingerprints.
        results: Every query in every mode.
        comparisons: Each mode against the first, a collection at a time and all together.
        means: Mode -> collection -> measure -> mean over the collection's queries.
        mean_over_collections: Mode -> measure -> plain mean of those, each collection counting the same, as on BRIGHT's
            leaderboard.
        costs: Mode -> facts such as seconds a query and tokens of reasoning.
        facts: When, with which command, settings and model.
    """

    measures: tuple[str, ...]
    modes: tuple[str, ...]
    collections: Mapping[str, Mapping[str, Any]]
    results: tuple[QueryResult, ...]
    comparisons: tuple[Comparison, ...]
    means: Mapping[str, Mapping[str, Mapping[str, float]]]
    mean_over_collections: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
