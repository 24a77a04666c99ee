"""Every mode against BRIGHT's reference procedure, written out here.

Rank every document by its best chunk, drop what a query excludes, keep the best 1,000, score with pytrec_eval. The
rankings come from Lance itself, not from the code under test. Fused ones are made as a search makes them: of what is
not excluded, equal sums by id.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from lance.query import CombinedFieldsQuery

from pipeline.evaluation.results import Evaluation
from pipeline.flows.eval_modes import MODES, evaluate_collections
from pipeline.flows.eval_outputs import Outputs
from pipeline.flows.reasoned_search import ReasonedSearcher
from pipeline.flows.search import Filters, Searcher
from pipeline.query_settings import QuerySettings
from pipeline.store.database import LIVE, Database
from tests.flows.judged import Judged, make_judged, settings_of

MEASURES = ("nDCG@10", "R@1", "R@10", "R@100", "RR@10")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return make_judged(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="module")
def measured(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """All five modes, and the folder of run files."""
    runs = tmp_path_factory.mktemp("runs")
    settings = settings_of(judged.db, indexes=False, generates=False)
    found = evaluate_collections([judged.collection], settings, modes=list(MODES), outputs=Outputs(str(runs)))
    return found, runs


def score(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """Each query's measures by pytrec_eval alone; one that found nothing has 0."""
    names = {"nDCG@10": "ndcg_cut_10", "R@1": "recall_1", "R@10": "recall_10", "R@100": "recall_100"}
    judged = {query: dict(found) for query, found in qrels.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.1,10,100", "recip_rank"})
    scored = evaluator.evaluate({query: dict(found) for query, found in run.items() if found})
    values = {query: dict.fromkeys(MEASURES, 0.0) for query in qrels}
    for query, found in scored.items():
        values[query] = {ours: found[theirs] for ours, theirs in names.items()}
        # the first relevant one beyond rank 10 counts for nothing
        values[query]["RR@10"] = found["recip_rank"] if found["recip_rank"] >= 0.1 else 0.0
    return values


def measured_values(evaluation: Evaluation, mode: str) -> dict[str, dict[str, float]]:
    return {row.query_id: dict(row.measures) for row in evaluation.results if row.mode == mode}


def assert_same(ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]]) -> None:
    assert ours.keys() == theirs.keys()
    for query, values in theirs.items():
        assert ours[query] == pytest.approx(values, abs=1e-9, rel=0), query


def read_trec(path: Path) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        query, _, document, _, value, _ = line.split(" ")
        assert document not in run[query]
        run[query][document] = float(value)
    return run


@pytest.mark.parametrize("mode", MODES)
def test_run_files_scored_by_pytrec_eval_are_what_was_measured(
    judged: Judged, measured: tuple[Evaluation, Path], mode: str
) -> None:
    evaluation, runs = measured
    run = read_trec(runs / f"made-up.{mode}.trec")
    for query in judged.collection.queries():
        assert not set(query.excluded_ids) & set(run.get(query.id, {})), query.id
    values = measured_values(evaluation, mode)
    assert_same(values, score(run, judged.collection.qrels()))
    for name in MEASURES:
        mean = sum(found[name] for found in values.values()) / len(values)
        assert evaluation.means[mode]["made-up"][name] == pytest.approx(mean, abs=1e-12)


class Reference:
    """The procedure, written out: whole rankings from Lance, then best chunks, fusion, exclusion and pytrec_eval."""

    def __init__(self, judged: Judged) -> None:
        db = f"{judged.db}/made-up"
        self._table = Database.at(db).open("documents", version=LIVE)
        self._searcher = Searcher.open(db)
        self._judged = judged

    def run(self, mode: str) -> dict[str, dict[str, float]]:
        qrels = self._judged.collection.qrels()
        run = {}
        for query in self._judged.collection.queries():
            if query.id not in qrels:
                continue
            excluded = {name for name in query.excluded_ids if name != "N/A"}
            scores = self._scores(query.text, mode, excluded)
            run[query.id] = dict(sorted(scores.items(), key=lambda item: item[1], reverse=True)[:1000])
        return run

    def _scores(self, text: str, mode: str, excluded: set[str]) -> dict[str, float]:
        def without(scores: Mapping[str, float]) -> dict[str, float]:
            return {name: score for name, score in scores.items() if name not in excluded}

        if mode == "bm25":
            return without(self._words(text))
        thought = self._judged.trajectories.get(text) if mode.startswith("reasoned") else None
        near = without(self._near(text, *([] if thought is None else [thought])))
        if not mode.endswith("hybrid"):
            return near
        fused: dict[str, float] = defaultdict(float)
        for scores in (near, without(self._words(text))):
            for rank, name in enumerate(sorted(scores, key=lambda name, s=scores: (-s[name], name)), 1):
                fused[name] += 1 / (60 + rank)
        order = sorted(fused, key=lambda name: (-fused[name], name))
        return {name: -float(rank) for rank, name in enumerate(order)}

    def _near(self, *texts: str) -> dict[str, float]:
        tokens = [token for ids in self._searcher.bundle.tokenizer.encode(list(texts)) for token in ids]
        (vector,) = self._searcher.encoder.encode([np.asarray(tokens, np.int32)], role="query").vectors
        if len(texts) > 1:  # a mean of samples, here of one, at length one
            vector = (vector / float(np.linalg.norm(vector))).astype(np.float32)
        nearest = {"column": "vector", "q": vector, "k": self._table.count_rows(), "metric": "cosine"}
        rows = self._table.to_table(columns=["id", "_distance"], nearest={**nearest, "use_index": False}).to_pylist()
        assert len(rows) == self._table.count_rows()
        return self._best((row["id"], 1.0 - row["_distance"]) for row in rows)

    def _words(self, text: str) -> dict[str, float]:
        asked = CombinedFieldsQuery(text, ["text", "title"])
        rows = self._table.to_table(columns=["id", "_score"], full_text_query=asked, limit=10_000).to_pylist()
        return self._best((row["id"], row["_score"]) for row in rows)

    @staticmethod
    def _best(chunks: Any) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, value in chunks:
            scores[name] = max(value, scores.get(name, value))
        return scores


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_reference_procedure(judged: Judged, measured: tuple[Evaluation, Path], mode: str) -> None:
    run = Reference(judged).run(mode)
    assert_same(measured_values(measured[0], mode), score(run, judged.collection.qrels()))
    written = read_trec(measured[1] / f"made-up.{mode}.trec")
    assert {query: set(found) for query, found in run.items() if found} == {
        q: set(found) for q, found in written.items()
    }


@pytest.mark.parametrize("mode", [mode for mode, how in MODES.items() if how.vectors and how.words])
@pytest.mark.parametrize("top_k", [10, 50, 200])
def test_hybrid_as_measured_is_hybrid_as_served(
    judged: Judged, measured: tuple[Evaluation, Path], mode: str, top_k: int
) -> None:
    query = QuerySettings(db=judged.db, reason=settings_of(judged.db).query.reason)
    searcher = ReasonedSearcher(Searcher.open(f"{judged.db}/made-up"), query, device="cpu")
    how = replace(MODES[mode], filters=Filters())
    served = searcher.answer(judged.collection.queries(), top_k=top_k, how=how)
    of_query = {row.query_id: [hit.id for hit in row.hits] for row in measured[0].results if row.mode == mode}
    run = read_trec(measured[1] / f"made-up.{mode}.trec")
    num_ties = 0
    for answer in served:
        if answer.query.id not in of_query:
            continue
        found = [hit.id for hit in answer.hits]
        assert found[:10] == of_query[answer.query.id]
        assert found == list(run[answer.query.id])[:top_k]
        values = [np.float32(value) for value in run[answer.query.id].values()]
        assert all(above > below for above, below in itertools.pairwise(values)), "pytrec_eval would order it anew"
        num_ties += len(found) - len({hit.score for hit in answer.hits})
    assert num_ties, "no sums are equal, so nothing was tried"


def test_the_collection_tries_what_the_procedure_is_about(judged: Judged, measured: tuple[Evaluation, Path]) -> None:
    run = Reference(judged).run("plain")
    assert all(len(set(scores.values())) < len(scores) for scores in run.values()), "no ties"
    queries = {query.id: query for query in judged.collection.queries()}
    everything = Reference(judged)._near(queries["q0"].text)
    best = sorted(everything, key=lambda name: -everything[name])[:10]
    assert set(best) & set(queries["q0"].excluded_ids), "nothing excluded would have been found"
    assert min(len(scores) for scores in run.values()) < 100 < max(len(scores) for scores in run.values())
    words = measured_values(measured[0], "bm25")
    assert set(words["q5"].values()) == {0.0}
    assert len({values["nDCG@10"] for values in words.values()}) > 5
