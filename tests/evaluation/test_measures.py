"""Our numbers are pytrec_eval's, in BRIGHT's own procedure."""

from __future__ import annotations

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SettingsError
from pipeline.evaluation.measures import in_given_order, in_measured_order, ndcg_at_10, per_query
from pipeline.flows.evaluate import Found, _ranking
from pipeline.records import Query
from pipeline.store.search import Hit

_DOCUMENTS = [f"d{number}" for number in range(30)]
# few different values, so that ties are common, and two that only double precision tells apart
_SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.5 + 1e-12, 0.75, -1.0])
_RANKING = st.dictionaries(st.sampled_from(_DOCUMENTS), _SCORES, max_size=30)
_GOLD = st.sets(st.sampled_from(_DOCUMENTS), min_size=1, max_size=6)
_EXCLUDED = st.lists(st.sampled_from([*_DOCUMENTS, "N/A"]), max_size=4)


def reference(scores, gold, excluded):  # type: ignore[no-untyped-def]
    """As BRIGHT evaluates: exclude, sort, keep 1,000, binary judgements, pytrec_eval."""
    run, qrels = {}, {}
    for query in scores:
        kept = {name: value for name, value in scores[query].items() if name not in set(excluded[query]) - {"N/A"}}
        run[query] = dict(sorted(kept.items(), key=lambda item: item[1], reverse=True)[:1000])
        qrels[query] = dict.fromkeys(gold[query], 1)
    wanted = {"ndcg_cut.10", "recall.1,10,100"}
    found = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate({q: r for q, r in run.items() if r})
    names = {"nDCG@10": "ndcg_cut_10", "R@1": "recall_1", "R@10": "recall_10", "R@100": "recall_100"}
    return {q: {ours: found.get(q, {}).get(theirs, 0.0) for ours, theirs in names.items()} for q in run}


@settings(deadline=None)
@given(st.lists(st.tuples(_RANKING, _GOLD, _EXCLUDED), min_size=1, max_size=5))
def test_equal_to_the_reference_procedure(rows: list[tuple[dict[str, float], set[str], list[str]]]) -> None:
    scores, gold, excluded = ({f"q{n}": row[part] for n, row in enumerate(rows)} for part in range(3))
    rankings = {}
    for name in scores:
        hits = [Hit(id, 0, "", "", "{}", "", score) for id, score in scores[name].items()]
        query = Query(name, "text", tuple(id for id in excluded[name] if id != "N/A"))
        rankings[name] = _ranking(query, Found(hits), 1_000)
    qrels = {name: dict.fromkeys(ids, 1) for name, ids in gold.items()}
    ours = per_query(rankings, qrels)
    for name, values in reference(scores, gold, excluded).items():
        for measure, value in values.items():
            assert ours[name][measure] == pytest.approx(value, abs=1e-9), (name, measure)
    if any(rankings.values()):
        assert sum(v["nDCG@10"] for v in ours.values()) / len(ours) == pytest.approx(ndcg_at_10(rankings, qrels))


@settings(deadline=None)
@given(_RANKING.filter(bool), st.sampled_from(_DOCUMENTS))
def test_the_order_is_the_one_that_is_measured(scores: dict[str, float], gold: str) -> None:
    ranks = {name: rank for rank, (name, _) in enumerate(in_measured_order(scores), 1)}
    found = pytrec_eval.RelevanceEvaluator({"q": {gold: 1}}, {"recip_rank"}).evaluate({"q": scores})
    assert found["q"]["recip_rank"] == pytest.approx(1 / ranks[gold] if gold in ranks else 0.0)
    ours = per_query({"q": scores}, {"q": {gold: 1}})["q"]["RR@10"]
    assert ours == pytest.approx(1 / ranks[gold] if ranks.get(gold, 11) <= 10 else 0.0)


@given(st.permutations(_DOCUMENTS[:6]), st.lists(_SCORES, min_size=6, max_size=6), st.sampled_from(_DOCUMENTS[:6]))
def test_a_given_order_is_what_trec_eval_measures(names: list[str], values: list[float], gold: str) -> None:
    given_order = dict(zip(names, sorted(values, reverse=True), strict=True))
    falling = in_given_order(given_order)
    assert [name for name, _ in in_measured_order(falling)] == list(falling) == names
    assert list(falling.values()) == pytest.approx(list(given_order.values()), abs=1e-6)
    found = pytrec_eval.RelevanceEvaluator({"q": {gold: 1}}, {"recip_rank"}).evaluate({"q": falling})
    assert found["q"]["recip_rank"] == pytest.approx(1 / (1 + names.index(gold)))


def test_queries_without_a_ranking_count_as_zero() -> None:
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
    values = per_query({"a": {"x": 1.0}, "b": {}, "unjudged": {"x": 1.0}}, qrels, ["nDCG@10", "R@1"])
    assert values == {"a": {"nDCG@10": 1.0, "R@1": 1.0}, "b": {"nDCG@10": 0.0, "R@1": 0.0},
                      "c": {"nDCG@10": 0.0, "R@1": 0.0}}  # fmt: skip


@pytest.mark.parametrize("name", ["nDGC@10", "best", "nDCG@ten"])
def test_unknown_measures(name: str) -> None:
    with pytest.raises(SettingsError, match=r"nDCG@10"):
        per_query({}, {}, [name])
