"""Evaluation over real tables of hashed words: what is made, kept, recorded and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.corpus.collections import find_collections, hash_qrels, hash_queries
from pipeline.errors import CorpusError, SettingsError, TableError
from pipeline.evaluation.results import Evaluation
from pipeline.fingerprint import imported_reasoner
from pipeline.flows.eval_modes import MODES, EvalSettings, evaluate_collections
from pipeline.flows.evaluate import Outputs
from pipeline.flows.reasoned_search import How, ReasonedSearcher
from pipeline.flows.search import Searcher
from pipeline.flows.trajectory_cache import import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from pipeline.query_settings import QuerySettings, ReasonSettings
from pipeline.store.database import LIVE, Database
from tests.flows.corpora import MODEL, publish_table, settings_for, write_jsonl
from tests.flows.judged import SOURCE, VOCABULARY, Judged, make_judged, settings_of, write_beir


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return make_judged(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="module")
def measured(judged: Judged) -> Evaluation:
    settings = settings_of(judged.db, indexes=False, generates=False)
    return evaluate_collections([judged.collection], settings, modes=list(MODES), outputs=Outputs())


def test_what_reasoned_is_recorded_and_what_fell_back_is_counted(measured: Evaluation) -> None:
    evaluation = measured
    rows = {(row.mode, row.query_id): row for row in evaluation.results}
    for mode in ("reasoned", "reasoned-hybrid"):
        assert [row.query_id for row in evaluation.results if row.mode == mode and row.fell_back] == [
            "q21", "q22", "q23",
        ]  # fmt: skip
        assert evaluation.costs[mode]["num_fell_back"] == 3
        tokens = [row.reasoning_tokens for row in evaluation.results if row.mode == mode]
        assert sorted(tokens)[:4] == [0, 0, 0, min(found for found in tokens if found)]
        assert evaluation.costs[mode]["reasoning_tokens_a_query"] == pytest.approx(sum(tokens) / 23)
        assert rows[mode, "q1"].trajectory
        assert (
            rows[mode, "q23"].measures
            == rows[mode.replace("reasoned-", "").replace("reasoned", "plain"), "q23"].measures
        )
    assert not any(row.fell_back or row.trajectory for row in evaluation.results if "reasoned" not in row.mode)
    assert all(len(row.hits) == 10 for row in evaluation.results if row.mode == "plain")
    assert [found.mode for found in evaluation.comparisons] == list(MODES)[1:]


def test_facts_say_what_was_evaluated(judged: Judged, measured: Evaluation) -> None:
    facts = measured.collections["made-up"]
    table = Database.at(f"{judged.db}/made-up").open("documents", version=LIVE)
    qrels = judged.collection.qrels()
    asked = [query for query in judged.collection.queries() if query.id in qrels]
    assert (facts["num_documents"], facts["num_chunks"], facts["num_queries"]) == (140, 234, 23)
    assert facts["table_version"] == table.version
    assert (facts["queries_hash"], facts["qrels_hash"]) == (hash_queries(asked), hash_qrels(qrels))
    assert facts["encoder"] == MODEL
    assert facts["encoder_fingerprint"] == Searcher.open(f"{judged.db}/made-up").bundle.identity.fingerprint
    assert measured.facts["package_version"] == __version__
    assert measured.facts["query_settings"]["reason"]["model"] == SOURCE
    assert measured.facts["top_k"] == 1000


def test_what_a_search_wrote_is_what_an_evaluation_finds(judged: Judged) -> None:
    query = QuerySettings(db=judged.db, reason=ReasonSettings(engine="echo"))
    searcher = ReasonedSearcher(Searcher.open(f"{judged.db}/made-up"), query, device="cpu")
    asked = [query for query in judged.collection.queries() if query.id in ("q1", "q2")]
    written = searcher.answer(asked, how=How("always"))
    settings = EvalSettings(settings_for("", judged.db), query, indexes=False, generates=False)
    found = evaluate_collections([judged.collection], settings, modes=["reasoned"], outputs=Outputs())
    reasoned = {row.query_id: row.trajectory for row in found.results if not row.fell_back}
    assert reasoned == {answer.query.id: answer.trajectory for answer in written}
    assert all(answer.query.text in answer.trajectory for answer in written)


def test_mistakes_are_one_sentence(judged: Judged, tmp_path: Path) -> None:
    settings, outputs = settings_of(tmp_path / "empty", indexes=False, generates=False), Outputs()
    with pytest.raises(TableError, match=r"no table at .*made-up"):
        evaluate_collections([judged.collection], settings, modes=["plain"], outputs=outputs)
    with pytest.raises(SettingsError, match="there is no mode 'bm42'; choose from bm25, plain"):
        evaluate_collections([judged.collection], settings, modes=["plain", "bm42"], outputs=outputs)
    with pytest.raises(CorpusError, match="made-up came more than once"):
        evaluate_collections([judged.collection] * 2, settings, modes=["plain"], outputs=outputs)
    write_jsonl(tmp_path / "only" / "biology.queries.jsonl", [{"_id": "1", "text": "why?"}])
    write_jsonl(tmp_path / "only" / "biology.qrels.tsv", ["query-id\tcorpus-id\tscore", "1\td1\t1"])
    with pytest.raises(CorpusError, match="biology have queries and judgements but no documents to search"):
        evaluate_collections(find_collections(str(tmp_path / "only")), settings, modes=["plain"], outputs=outputs)
    assert not (tmp_path / "empty").exists()


def test_a_database_that_is_named_itself_is_searched_as_it_is(judged: Judged, tmp_path: Path) -> None:
    db = tmp_path / "db"
    rows = [{"_id": "d1", "text": VOCABULARY[0]}, {"_id": "of-somebody-else", "text": VOCABULARY[1]}]
    version = publish_table(db, rows)
    found = evaluate_collections([judged.collection], settings_of(db), modes=["plain"], outputs=Outputs())
    assert found.collections["made-up"]["num_documents"] == 2
    assert Database.at(str(db)).open("documents").version == version


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_tables_and_vectors_are_made_once(tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(VOCABULARY)]
    queries = [{"_id": "q1", "text": "ban kor"}, {"_id": "q2", "text": "tep"}]
    collection = write_beir(tmp_path / "small", rows, queries, {"q1": {"d0": 1}, "q2": {"d24": 1}})
    said: list[str] = []
    thoughts = write_jsonl(tmp_path / "thoughts.jsonl", [{"text": "ban kor", "trajectory": "list mulm"}])
    import_trajectories(str(tmp_path / "db"), [str(thoughts)], fields=ImportFields(source=SOURCE), tokenizer=MODEL)
    settings, outputs = settings_of(tmp_path / "db"), Outputs(say=said.append)
    first = evaluate_collections([collection], settings, modes=["plain", "reasoned"], outputs=outputs)
    assert said[0] == f"small: {len(rows)} documents encoded, 0 unchanged"
    assert first.means["plain"]["small"]["R@1"] == 1.0
    reasoning = first.collections["small"]["reasoning"]
    assert (reasoning["num_cached"], reasoning["num_encoded"], reasoning["num_fallback"]) == (1, 1, 1)
    assert reasoning["reasoners"] == [imported_reasoner(SOURCE).fingerprint]
    said.clear()
    again = evaluate_collections([collection], settings, modes=["plain", "reasoned"], outputs=outputs)
    assert said[0] == f"small: 0 documents encoded, {len(rows)} unchanged"
    assert again.collections["small"]["reasoning"]["num_encoded"] == 0
    assert [row.measures for row in again.results] == [row.measures for row in first.results]
